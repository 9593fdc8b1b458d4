"""Where a network comes from: each source gives the same kind of value.

A source names a network and the images to judge it on, and reads nothing until it is
asked to `load`. Jobs take any of them; a new origin is a new class here and a row in
the table of `scripts/convert.py`.
"""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bitsnn_jax import data
from bitsnn_jax.config import Config, Data
from bitsnn_jax.conversion.calibration import CAPS, calibrate_network
from bitsnn_jax.interop.torch_files import read_state_dict
from bitsnn_jax.interop.torch_networks import (
    TORCHVISION,
    num_classes,
    variables_from_torch,
)
from bitsnn_jax.runs.checkpoint import FOLDER as CHECKPOINTS
from bitsnn_jax.runs.checkpoint import CheckpointError, Checkpoints, Run
from bitsnn_jax.runs.loading import ann_fn, check_qcfs, find_run, snn_folder
from bitsnn_jax.runs.provenance import run_metadata
from bitsnn_jax.runtime.files import replaced_folder
from bitsnn_jax.tasks import Task, task_of
from bitsnn_jax.tracing.program import ApplyFn

BATCH = 20  # pictures of an evaluation, over all devices
LEAST_SIDE = 32  # of pictures, which these networks halve five times


@dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network, and the examples to judge it on.

    Attributes:
      apply_fn: (variables, inputs) -> outputs, in inference.
      variables: of the trained network.
      config: of its run; a network from elsewhere has one that fits it.
      examples: of its task, such as images.
      step: of the checkpoint that was taken; 0 of a network from elsewhere.
      metadata: what was saved beside the variables.
      nonspiking: "decode" for one that has operations without a spiking form, see
        `spiking`.
    """

    apply_fn: ApplyFn
    variables: Any
    config: Config
    examples: Any
    step: int = 0
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    nonspiking: str = "error"

    @property
    def task(self) -> Task:
        """What it was trained for."""
        return task_of(self.config).on(self.examples)

    @property
    def placeholder(self) -> Any:
        """Shape and type of what it takes, as a batch of one."""
        return self.task.placeholder(self.examples.input_shape)


class Source(Protocol):
    """A network that is somewhere, and can be loaded."""

    @property
    def folder(self) -> Path:
        """Where jobs write by default."""
        ...

    def load(self) -> Network:
        """Read the network, and find the images."""
        ...


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """How thresholds are found for a network that has none.

    Attributes:
      steps: T, for 2**T - 1 levels.
      method, per_channel, sequential, correct_biases: see `quantise`.
    """

    steps: int
    method: str = "mse"
    per_channel: bool = False
    sequential: bool = False
    correct_biases: bool = False


class ImportSource(Source, Protocol):
    """A network that was trained elsewhere, without thresholds.

    Attributes:
      model: what it is, by name.
      checkpoint: name of the file of its weights; "" for none.
      pictures: folder of images to judge it on.
      saves: names of what it writes.
    """

    @property
    def model(self) -> str: ...

    @property
    def checkpoint(self) -> str: ...

    @property
    def pictures(self) -> str | os.PathLike: ...

    @property
    def saves(self) -> tuple[str, ...]: ...

    def images(self, folder: str | os.PathLike) -> data.Examples:
        """Find the images of a folder, as the network takes them."""
        ...

    def quantised(
        self, network: Network, batches: Sequence[Any], how: Thresholds
    ) -> Network:
        """Put QCFS in the place of activations, with thresholds from images."""
        ...

    def save(self, out: Path, imported: Network, quantised: Network) -> str:
        """Write both networks; return what to say of them."""
        ...

    def check_free(self, out: Path) -> None:
        """Raise an error if something is there that must not be written over."""
        ...


@dataclass(frozen=True)
class RunSource:
    """The best checkpoint of a run with QCFS, or a network of the package.

    Attributes:
      path: folder of the run, or the name.
      directory: of the data; None for where the run had them.
      vocabulary: of the words; None for the file that the run had.
      limit: first test examples only; None for all.
      nonspiking: what to do with operations that have no spiking form, such as softmax:
        "decode" to compute them outside the spiking network, or "error".
    """

    path: str | os.PathLike
    directory: str | None = None
    vocabulary: str | None = None
    limit: int | None = None
    nonspiking: str = "decode"

    @property
    def folder(self) -> Path:
        return snn_folder(self.path)

    def run(self) -> Run:
        """Read the run, whose data are in `directory`, in words of `vocabulary`.

        Raises:
          CheckpointError: see `find_run`.
        """
        run = find_run(self.path)
        read = run.config.data
        where = dataclasses.replace(
            read,
            directory=read.directory if self.directory is None else self.directory,
            vocabulary=read.vocabulary if self.vocabulary is None else self.vocabulary,
        )
        config = dataclasses.replace(run.config, data=where)
        return dataclasses.replace(run, config=config)

    def load(self) -> Network:
        run = self.run()
        advice = f"train.py makes one with --config.start_from={self.path}"
        check_qcfs(run, self.path, advice=advice)
        task = task_of(run.config)
        examples = task.load(run.config.data, "test")
        task.check_inputs(run.config, examples)
        return Network(
            apply_fn=ann_fn(run.config, run.metadata["image_shape"]),
            variables=run.variables,
            config=run.config,
            examples=examples.first(self.limit),
            step=run.step,
            metadata=run.metadata,
            nonspiking=self.nonspiking,
        )


@dataclass(frozen=True)
class TorchSource:
    """A checkpoint of PyTorch.

    Attributes:
      path: what `read_state_dict` reads.
      model: a name in `TORCHVISION`.
      pictures: folder of images to judge it on.
      size: side of the images.
      limit: first images only; None for all.
    """

    path: str | os.PathLike
    model: str
    pictures: str | os.PathLike
    size: int = 224
    limit: int | None = None

    saves = (CHECKPOINTS,)

    def __post_init__(self) -> None:
        if self.model not in TORCHVISION:
            raise ValueError(
                f"model must be one of {', '.join(TORCHVISION)}; got {self.model!r}"
            )
        if self.size < LEAST_SIDE:
            raise ValueError(
                f"size must be at least {LEAST_SIDE} pixels, got {self.size}"
            )

    @property
    def folder(self) -> Path:
        return Path("runs", f"{self.model}_torch")

    def images(self, folder: str | os.PathLike) -> data.Examples:
        """Find the images of a folder, in the size that the network takes."""
        return data.load_pictures(folder, size=self.size).first(self.limit)

    def load(self) -> Network:
        examples = self.images(self.pictures)
        tensors = read_state_dict(self.path)
        model = TORCHVISION[self.model]
        config = Config(
            name=f"{self.model}_torch",
            data=Data(name="image_folder", image_size=self.size, eval_batch_size=BATCH),
            model=dataclasses.replace(model, num_classes=num_classes(tensors, model)),
        )
        shape = examples.image_shape
        return Network(
            apply_fn=ann_fn(config, shape),
            variables=variables_from_torch(tensors, config.model, image_shape=shape),
            config=config,
            examples=examples,
        )

    @property
    def checkpoint(self) -> str:
        return Path(self.path).name

    def quantised(
        self, network: Network, batches: Sequence[Any], how: Thresholds
    ) -> Network:
        """Build the network with QCFS, whose names `train.py` knows."""
        model = dataclasses.replace(
            network.config.model,
            activation="qcfs",
            levels=2**how.steps - 1,
            per_channel=how.per_channel,
        )
        config = dataclasses.replace(network.config, model=model, steps=how.steps)
        apply_fn = ann_fn(config, network.examples.image_shape)
        variables = calibrate_network(
            apply_fn,
            network.variables,
            batches,
            method=how.method,
            cap=CAPS.get(network.config.model.activation),
            sequential=how.sequential,
            correct_biases=how.correct_biases,
        )
        return dataclasses.replace(
            network, apply_fn=apply_fn, variables=variables, config=config
        )

    def save(self, out: Path, imported: Network, quantised: Network) -> str:
        """Write both as runs: either can be fine-tuned, the second converted again."""
        _save_run(out / "ann", imported)
        _save_run(out, quantised)
        return (
            f"quantised for T = {quantised.config.steps} {out}\nimported {out / 'ann'}"
        )

    def check_free(self, out: Path) -> None:
        """Raise CheckpointError if a run is there that has been trained."""
        for path in (out / CHECKPOINTS, out / "ann" / CHECKPOINTS):
            steps = {step.name for step in path.glob("*") if step.name.isdigit()}
            if steps - {"0"}:
                raise CheckpointError(
                    f"{path} holds the steps of a run that was trained: give another "
                    "--out"
                )


def _save_run(folder: Path, network: Network) -> None:
    """Write a run that is over before its first step."""
    optimizer = {"count": np.zeros((), np.int32)}  # Orbax takes no empty tree
    metadata = run_metadata(network.config, network.examples.image_shape)
    with replaced_folder(folder / CHECKPOINTS) as new:
        with Checkpoints(folder, folder=new.name) as checkpoints:
            checkpoints.save(
                0,
                variables=network.variables,
                optimizer=optimizer,
                progress={},
                metadata=metadata,
            )
