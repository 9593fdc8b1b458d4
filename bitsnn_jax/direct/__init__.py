"""Spiking networks that are trained through time, on the networks of the zoo.

One file a method. To add one, write its file and name it in `methods.py`.
"""

from bitsnn_jax.direct.chosen import method_of, trained_directly
from bitsnn_jax.direct.method import Method, Seen, of_mean, of_sum
from bitsnn_jax.direct.methods import METHODS
from bitsnn_jax.direct.neurons import Fired, IntegrateAndFire, Neuron
from bitsnn_jax.direct.spiking import Spiking
from bitsnn_jax.direct.surrogates import SURROGATES, surrogate
from bitsnn_jax.direct.through_time import ThroughTime
from bitsnn_jax.direct.trains import trains

__all__ = [
    "METHODS",
    "SURROGATES",
    "Fired",
    "IntegrateAndFire",
    "Method",
    "Neuron",
    "Seen",
    "Spiking",
    "ThroughTime",
    "method_of",
    "of_mean",
    "of_sum",
    "surrogate",
    "trained_directly",
    "trains",
]
