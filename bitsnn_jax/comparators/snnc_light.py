"""SNN calibration, light: thresholds and a bias for each channel; see `snnc`."""

from bitsnn_jax.comparators import snnc
from bitsnn_jax.comparators.method import Method

METHOD = Method(
    name="snnc_light",
    title="SNNC, light calibration",
    source=snnc.SOURCE,
    neuron=snnc.neuron,
    trained_with="relu",
    prepare=snnc.light,
    seeds=True,
    for_one=True,
)
