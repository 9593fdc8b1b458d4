"""The methods by name. To add one, write its file and name it here."""

from bitsnn_jax.binary import meliusnet, multi_prize, pokebnn, sakr, xnor
from bitsnn_jax.binary.method import Method

METHODS: dict[str, Method] = {
    file.METHOD.name: file.METHOD
    for file in (xnor, multi_prize, pokebnn, meliusnet, sakr)
}
