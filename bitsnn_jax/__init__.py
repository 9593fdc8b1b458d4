"""Error-free conversion of quantised networks to bit-serial spiking networks."""

from bitsnn_jax.conversion.bias_shift import Conversion, Report, convert
from bitsnn_jax.conversion.certificate import Certificate, LayerCertificate, verify
from bitsnn_jax.conversion.relu_to_qcfs import Quantised, quantise, replace_relu
from bitsnn_jax.conversion.spiking import SpikeStats, spiking
from bitsnn_jax.interop.onnx_networks import from_onnx
from bitsnn_jax.interop.torch_modules import from_torch
from bitsnn_jax.numerics.layers import QCFS, SignedQCFS
from bitsnn_jax.numerics.neurons import bit_serial_if, rate_if
from bitsnn_jax.numerics.qcfs import codes, qcfs, signed_qcfs
from bitsnn_jax.numerics.spikes import spike_count, spike_planes
from bitsnn_jax.tracing.fast_convolutions import with_fast_convolutions
from bitsnn_jax.tracing.precision import in_float64
from bitsnn_jax.tracing.reading import SpikingError
from bitsnn_jax.version import __version__ as __version__

__all__ = [
    "QCFS",
    "Certificate",
    "Conversion",
    "LayerCertificate",
    "Quantised",
    "Report",
    "SignedQCFS",
    "SpikeStats",
    "SpikingError",
    "bit_serial_if",
    "codes",
    "convert",
    "from_onnx",
    "from_torch",
    "in_float64",
    "qcfs",
    "quantise",
    "rate_if",
    "replace_relu",
    "signed_qcfs",
    "spike_count",
    "spike_planes",
    "spiking",
    "verify",
    "with_fast_convolutions",
]
