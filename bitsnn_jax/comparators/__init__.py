"""Rival methods of ANN-to-SNN conversion, on the same traced program.

One file a method. To add one, write its file and name it in `_FILES`.
"""

from importlib import import_module

from bitsnn_jax.comparators.layer import Layer, Sent, StepNeuron, SumNeuron, TrainNeuron
from bitsnn_jax.comparators.method import NETWORKS, Method, Network
from bitsnn_jax.comparators.simulation import Simulated, simulate

_FILES = (
    "bit_serial",
    "signed_digits",
    "rueckauer",
    "channel_norm",
    "burst",
    "burst_if",
    "tcl",
    "shifted_bias",
    "qcfs",
    "opi",
    "slip_relu",
    "step_relu",
    "threshold_tuning",
    "srp",
    "bos",
    "signed_if",
    "st_bif",
    "snm",
    "snnc_light",
    "snnc_advanced",
    "snnc_weights",
    "rnl",
    "rnl_trained",
    "ltb",
    "pascal",
    "parallel",
    "ttfs",
    "phase",
    "spike_converter",
    "radix",
    "few_spikes",
)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        import_module(f"bitsnn_jax.comparators.{file}").METHOD for file in _FILES
    )
}

__all__ = [
    "METHODS",
    "NETWORKS",
    "Layer",
    "Method",
    "Network",
    "Sent",
    "Simulated",
    "StepNeuron",
    "SumNeuron",
    "TrainNeuron",
    "simulate",
]
