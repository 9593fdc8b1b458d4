"""Binary networks: weights and activations of one bit, trained as such.

One file a method. To add one, write its file and name it in `methods.py`.
"""

from bitsnn_jax.binary.chosen import binary_method, binary_network
from bitsnn_jax.binary.execution import by_popcount
from bitsnn_jax.binary.layers import BinaryConv, MaskedConv, NormSign, Sign
from bitsnn_jax.binary.method import Method, Sizes
from bitsnn_jax.binary.methods import METHODS

__all__ = [
    "METHODS",
    "BinaryConv",
    "MaskedConv",
    "Method",
    "NormSign",
    "Sign",
    "Sizes",
    "binary_method",
    "binary_network",
    "by_popcount",
]
