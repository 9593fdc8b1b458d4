"""SNN calibration of thresholds and potentials, without weights; see `snnc`."""

from bitsnn_jax.comparators import snnc
from bitsnn_jax.comparators.method import Method

METHOD = Method(
    name="snnc_advanced",
    title="SNNC, potential calibration",
    source=snnc.SOURCE + "; without its calibration of weights",
    neuron=snnc.neuron,
    trained_with="relu",
    prepare=snnc.potentials,
    seeds=True,
    for_one=True,
)
