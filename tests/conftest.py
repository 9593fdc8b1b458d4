"""Four CPU devices, quick compilation, shapes checked on every call."""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version

FLAGS = [
    "--xla_force_host_platform_device_count=4",
    # The tests compile much and compute little: LLVM's optimisation takes longer than
    # it saves, up to five times on dilated convolutions.
    "--xla_backend_optimization_level=0",
]
if version("jaxlib").startswith("0.10."):  # XLA ends the process at an unknown flag
    # By MLIR, which is the default, the tests take half as long again.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What one worker has compiled the other need not: the first process of a run makes the
# folder, those that it starts find it in their environment.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.mkdtemp(prefix="bitsnn-compiled-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"

import hypothesis
import pytest
from jaxtyping import install_import_hook

CHECKED = [f"bitsnn_jax.numerics.{name}" for name in ("qcfs", "spikes", "neurons")]
install_import_hook(CHECKED, "beartype.beartype")

# Nothing is timed in a test: a busy machine must not make a law fail.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


STATES = {}  # of the generators of modules, before their first test


@pytest.fixture(autouse=True)
def same_numbers(request):
    """A test draws the same numbers alone and after others: workers share them out."""
    rng = getattr(request.module, "RNG", None)
    if rng is not None:
        name = request.module.__name__
        state = STATES.setdefault(name, rng.bit_generator.state)
        rng.bit_generator.state = state


@pytest.fixture(autouse=True)
def quick_carrier(monkeypatch):
    """Integers in float32 where a test names no carrier: it compiles in a third of the
    time of int8, the default on CPUs. That the carrier does not matter is a law."""
    from bitsnn_jax.integers import carriers, execution

    def checked(carrier):
        return carriers.checked(carrier or "float32")

    monkeypatch.setattr(execution, "checked", checked)
