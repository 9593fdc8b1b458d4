"""Error-free conversion of quantised networks to bit-serial spiking networks."""

from bitsnn_jax.certificate import Certificate, LayerCertificate, verify
from bitsnn_jax.conversion import Conversion, Report, convert
from bitsnn_jax.layers import QCFS
from bitsnn_jax.neurons import bit_serial_if, rate_if
from bitsnn_jax.precision import in_float64
from bitsnn_jax.program import SpikingError
from bitsnn_jax.qcfs import codes, qcfs
from bitsnn_jax.quantisation import Quantised, quantise, replace_relu
from bitsnn_jax.spikes import spike_count, spike_planes
from bitsnn_jax.spiking import SpikeStats, spiking

__version__ = "0.1.0"

__all__ = [
    "QCFS",
    "Certificate",
    "Conversion",
    "LayerCertificate",
    "Quantised",
    "Report",
    "SpikeStats",
    "SpikingError",
    "bit_serial_if",
    "codes",
    "convert",
    "in_float64",
    "qcfs",
    "quantise",
    "rate_if",
    "replace_relu",
    "spike_count",
    "spike_planes",
    "spiking",
    "verify",
]
