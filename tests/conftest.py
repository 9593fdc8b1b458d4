"""Four CPU devices, shapes checked on every call."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook(
    ["bitsnn_jax.qcfs", "bitsnn_jax.spikes", "bitsnn_jax.neurons"], "beartype.beartype"
)
