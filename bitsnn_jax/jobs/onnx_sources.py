"""Files of ONNX as sources of networks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bitsnn_jax.interop.imported_files import ChannelsFirst
from bitsnn_jax.interop.onnx_networks import from_onnx
from bitsnn_jax.interop.onnx_program import OnnxNetwork
from bitsnn_jax.interop.torch_factories import Pictures
from bitsnn_jax.jobs.function_sources import FunctionSource

_CHANNELS = 3  # of a picture


@dataclass(frozen=True)
class OnnxSource(FunctionSource):
    """A network of an ONNX file, for images of three channels, first or last.

    Attributes:
      path: of the file.

    The others are those of `FunctionSource`. The file may say which size it takes; it
    does not say how its images are normalised: as those of ImageNet by default.
    """

    path: str | os.PathLike

    def name(self) -> str:
        return self.model

    @property
    def model(self) -> str:
        return Path(self.path).stem

    @property
    def folder(self) -> Path:
        return Path("runs", f"{self.model}_onnx")

    @property
    def checkpoint(self) -> str:
        return Path(self.path).name

    @cached_property
    def network(self) -> tuple[OnnxNetwork, dict[str, np.ndarray]]:
        """Read the file."""
        apply_fn, variables = from_onnx(self.path)
        if any(node.operator == "QCFS" for node in apply_fn.program.nodes):
            raise ValueError(
                f"{self.path} is quantised already: --onnx takes networks in floating "
                "point and finds their thresholds; from_onnx takes this one as it is, "
                "see docs/from_onnx.md"
            )
        return apply_fn, variables

    @cached_property
    def channel_axis(self) -> int:
        """Find the channels of the input."""
        inputs = self.network[0].program.inputs
        shapes = [each.shape for each in inputs]
        if len(shapes) == 1 and len(shapes[0]) == 4:
            for axis in (1, 3):
                if shapes[0][axis] == _CHANNELS:
                    return axis
        raise ValueError(
            f"{self.path} must take one batch of pictures, [n, 3, height, width] or "
            f"[n, height, width, 3]; got {', '.join(map(_shown, shapes))}"
        )

    @property
    def taken(self) -> Pictures:
        known = Pictures()
        axis = self.channel_axis
        [found] = self.network[0].program.inputs
        sides = [n for i, n in enumerate(found.shape) if i not in (0, axis)]
        fixed = {n for n in sides if n is not None}
        if len(fixed) > 1 or (self.size and fixed - {self.size}):
            asked = f" of size {self.size}" if self.size else ""
            raise ValueError(
                f"{self.path} must take square pictures{asked}; it takes "
                f"{_shown(found.shape)}"
            )
        return Pictures(
            self.size or (fixed.pop() if fixed else known.size),
            tuple(self.mean or known.mean),
            tuple(self.std or known.std),
        )

    def function(self) -> tuple[Any, dict[str, np.ndarray]]:
        apply_fn, variables = self.network
        is_last = self.channel_axis == 3
        return (apply_fn if is_last else ChannelsFirst(apply_fn)), variables


def _shown(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('n' if n is None else str(n) for n in shape)}]"
