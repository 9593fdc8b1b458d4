"""The methods by name. To add one, write its file and name it in `_FILES`."""

from collections.abc import Iterator
from importlib import import_module

from bitsnn_jax.direct.method import Method

_FILES = (
    "bit_serial",
    "diet_snn",
    "dsr",
    "dual_phase",
    "stbp",
    "tet",
    "tebn",
    "dspike",
    "im_loss",
    "rmp_loss",
    "rec_dis",
    "mpr",
    "sml",
    "plif",
    "sew",
    "tdbn",
    "spikformer",
    "sdt_v2",
)


def _methods() -> Iterator[Method]:
    for name in _FILES:
        file = import_module(f"bitsnn_jax.direct.{name}")
        # Variants of a method share a file.
        yield from getattr(file, "METHODS", None) or (file.METHOD,)


METHODS: dict[str, Method] = {method.name: method for method in _methods()}
