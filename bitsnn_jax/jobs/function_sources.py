"""Networks of other frameworks, as functions of images: what their sources share."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.config import Config, Data, Model
from bitsnn_jax.conversion.relu_to_qcfs import quantise
from bitsnn_jax.interop.imported_files import Setting, save_imported
from bitsnn_jax.interop.torch_factories import Pictures
from bitsnn_jax.jobs.sources import BATCH, Network, Thresholds


@dataclass(frozen=True, kw_only=True)
class FunctionSource:
    """A network that becomes a function of images, with QCFS put in by `quantise`.

    Attributes:
      pictures: folder of images to judge it on.
      size: side of the images; None for what is known of the network.
      mean, std: of their pixels, on the scale 0..1; None likewise.
      limit: first images only; None for all.
    """

    pictures: str | os.PathLike
    size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    limit: int | None = None

    saves = ("quantised",)

    def name(self) -> str:
        """Name the network, for messages and its config."""
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        """Where jobs write by default."""
        raise NotImplementedError

    @property
    def taken(self) -> Pictures:
        """What pictures it takes."""
        raise NotImplementedError

    def function(self) -> tuple[Any, dict[str, np.ndarray]]:
        """Return (variables, images [N, H, W, C]) -> logits, and the variables."""
        raise NotImplementedError

    def images(self, folder: str | os.PathLike) -> data.Examples:
        size, mean, std = self.taken
        shown = data.load_pictures(folder, size=size, mean=mean, std=std)
        return shown.first(self.limit)

    def load(self) -> Network:
        examples = self.images(self.pictures)
        side = self.taken.size
        network_fn, variables = self.function()
        shown = jax.ShapeDtypeStruct((2, side, side, 3), np.float32)
        output = jax.eval_shape(network_fn, variables, shown)
        if not hasattr(output, "shape") or output.ndim != 2:
            raise ValueError(
                f"{self.name()} must return logits [images, classes], got "
                f"{jax.tree.map(lambda a: a.shape, output)} for two images: take a "
                "classifier, or convert it in Python (see docs/pytorch_models.md)"
            )
        return Network(
            apply_fn=network_fn,
            variables=variables,
            config=Config(
                name=self.folder.name,
                data=Data(name="image_folder", image_size=side, eval_batch_size=BATCH),
                model=Model(name=self.name(), num_classes=output.shape[-1]),
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
            sequential=how.sequential,
            correct_biases=how.correct_biases,
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
        size, mean, std = self.taken
        setting = Setting(
            steps=quantised.config.steps,
            levels=quantised.config.model.levels,
            channel_axis=None,
            size=size,
            mean=list(mean),
            std=list(std),
        )
        network: Any = imported.apply_fn  # as `function` has made it
        save_imported(out / "quantised", network, quantised.variables, setting)
        return f"quantised for T = {setting.steps} {out / 'quantised'}"

    def check_free(self, out: Path) -> None:
        """Any folder may be written to again."""
