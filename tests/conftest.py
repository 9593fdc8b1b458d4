"""Four CPU devices, quick compilation, shapes checked on every call."""

import os

FLAGS = (
    "--xla_force_host_platform_device_count=4",
    # The tests compile much and compute little: LLVM's optimisation takes longer than
    # it saves, up to five times on dilated convolutions.
    "--xla_backend_optimization_level=0",
)
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook(
    ["bitsnn_jax.qcfs", "bitsnn_jax.spikes", "bitsnn_jax.neurons"], "beartype.beartype"
)
