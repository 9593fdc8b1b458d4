"""PyTorch modules by name as sources of networks."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.config import Config, Data, Model
from bitsnn_jax.conversion.relu_to_qcfs import quantise
from bitsnn_jax.interop.imported_files import ChannelsFirst, Setting, save_imported
from bitsnn_jax.interop.torch_factories import NamedModule, Pictures, named_module
from bitsnn_jax.interop.torch_modules import from_torch
from bitsnn_jax.interop.torch_weights import load_weights
from bitsnn_jax.jobs.sources import BATCH, Network, Thresholds


@dataclass(frozen=True)
class ModuleSource:
    """A PyTorch module by name, see `torch_factories.FORMS`.

    Attributes:
      model: the name.
      weights: a file for it; None for those that it is built with.
      pictures: folder of images to judge it on.
      strip_prefix: see `torch_weights.without_prefixes`.
      size: side of the images; None for what the library says.
      mean, std: of their pixels, on the scale 0..1; None for what the library says.
      limit: first images only; None for all.
    """

    model: str
    pictures: str | os.PathLike
    weights: str | os.PathLike | None = None
    strip_prefix: Sequence[str] = ()
    size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    limit: int | None = None

    saves = ("quantised",)

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

    def images(self, folder: str | os.PathLike) -> data.Examples:
        size, mean, std = self.named.pictures
        shown = data.load_pictures(folder, size=size, mean=mean, std=std)
        return shown.first(self.limit)

    def load(self) -> Network:
        examples = self.images(self.pictures)
        side = self.named.pictures.size
        example = np.zeros((2, 3, side, side), np.float32)
        apply_fn, variables = from_torch(self.named.module, example)
        shown = jax.ShapeDtypeStruct((2, side, side, 3), np.float32)
        network_fn = ChannelsFirst(apply_fn)
        output = jax.eval_shape(network_fn, variables, shown)
        if not hasattr(output, "shape") or output.ndim < 2:
            raise ValueError(
                f"{self.model} must return one array of logits, got "
                f"{jax.tree.map(lambda a: a.shape, output)}: name a function "
                "package.module:function that returns such a module"
            )
        return Network(
            apply_fn=network_fn,
            variables=variables,
            config=Config(
                name=self.folder.name,
                data=Data(name="image_folder", image_size=side, eval_batch_size=BATCH),
                model=Model(name=self.model, num_classes=output.shape[-1]),
            ),
            examples=examples,
            nonspiking="decode",
        )

    def quantised(
        self, network: Network, batches: Sequence[Any], how: Thresholds
    ) -> Network:
        """Put QCFS in the place of activations, for T steps."""
        levels = 2**how.steps - 1
        quantised = quantise(
            network.apply_fn,
            network.variables,
            batches,
            levels=levels,
            method=how.method,
            per_channel=how.per_channel,
        )
        model = dataclasses.replace(network.config.model, levels=levels)
        config = dataclasses.replace(network.config, model=model, steps=how.steps)
        return dataclasses.replace(
            network,
            apply_fn=quantised.apply_fn,
            variables=quantised.variables,
            config=config,
        )

    def save(self, out: Path, imported: Network, quantised: Network) -> str:
        """Write the quantised network; return what to say of it."""
        size, mean, std = self.named.pictures
        setting = Setting(
            steps=quantised.config.steps,
            levels=quantised.config.model.levels,
            channel_axis=None,
            size=size,
            mean=list(mean),
            std=list(std),
        )
        network: Any = imported.apply_fn  # as `load` has made it
        folder = out / "quantised"
        save_imported(folder, network.apply_fn, quantised.variables, setting)
        return f"quantised for T = {setting.steps} {out / 'quantised'}"

    def check_free(self, out: Path) -> None:
        """Any folder may be written to again."""
