"""PyTorch modules by name as sources of networks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bitsnn_jax.interop.imported_files import ChannelsFirst
from bitsnn_jax.interop.torch_factories import NamedModule, Pictures, named_module
from bitsnn_jax.interop.torch_modules import from_torch
from bitsnn_jax.interop.torch_weights import load_weights
from bitsnn_jax.jobs.function_sources import FunctionSource


@dataclass(frozen=True)
class ModuleSource(FunctionSource):
    """A PyTorch module by name, see `torch_factories.FORMS`.

    Attributes:
      model: the name.
      weights: a file for it; None for those that it is built with.
      strip_prefix: see `torch_weights.without_prefixes`.

    The others are those of `FunctionSource`; what is None the library says.
    """

    model: str
    weights: str | os.PathLike | None = None
    strip_prefix: Sequence[str] = ()

    def name(self) -> str:
        return self.model

    @property
    def folder(self) -> Path:
        library, _, name = self.model.partition(":")
        return Path("runs", f"{Path(name).name}_{library}")

    @property
    def checkpoint(self) -> str:
        return Path(self.weights).name if self.weights else ""

    @cached_property
    def named(self) -> NamedModule:
        """Build the module, and find out what pictures it takes."""
        named = named_module(self.model, weights=self.weights)
        if self.weights:
            load_weights(named.module, self.weights, strip_prefix=self.strip_prefix)
        known = named.pictures
        pictures = Pictures(
            self.size or known.size,
            tuple(self.mean or known.mean),
            tuple(self.std or known.std),
        )
        return named._replace(pictures=pictures)

    @property
    def taken(self) -> Pictures:
        return self.named.pictures

    def function(self) -> tuple[Any, dict[str, np.ndarray]]:
        side = self.taken.size
        example = np.zeros((2, 3, side, side), np.float32)
        apply_fn, variables = from_torch(self.named.module, example)
        return ChannelsFirst(apply_fn), variables
