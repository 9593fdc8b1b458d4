"""Networks from disk: the ANN of a run folder, the SNN that was made from it."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bitsnn_jax.config import Config, from_dict
from bitsnn_jax.conversion.spiking import SpikeStats, spiking
from bitsnn_jax.runs import pretrained
from bitsnn_jax.runs.checkpoint import CheckpointError, Run, load_run, load_variables
from bitsnn_jax.tasks import task_of
from bitsnn_jax.tracing.program import ApplyFn


class SpikingNetwork(NamedTuple):
    """A spiking network as `convert.py` saves it, ready to run.

    `snn_fn(variables, inputs)` gives (logits, SpikeStats); wrap it in `jax.jit`. Inputs
    are those of the ANN: images as float32 [n, h, w, c], normalised as those that it
    was trained on; sentences as int32 [n, 3, s].
    """

    snn_fn: Callable[[Any, Any], tuple[Any, SpikeStats]]
    variables: Any
    steps: int
    config: Config
    metadata: dict


def find_run(source: str | os.PathLike) -> Run:
    """Find the best checkpoint of a run folder, or a network of the package by name.

    Args:
      source: for instance runs/digits_resnet, or a name in `pretrained.names()`.

    Raises:
      CheckpointError: neither of both, and what `load_run` and `pretrained.load` raise.
    """
    if Path(source).is_dir():
        return load_run(source)
    _check_name(source)
    return pretrained.load(str(source))


def snn_folder(source: str | os.PathLike) -> Path:
    """Return where `convert.py` writes by default: RUN/snn, or runs/NAME/snn.

    Raises:
      CheckpointError: neither a folder nor a name.
    """
    if Path(source).is_dir():
        return Path(source) / "snn"
    _check_name(source)
    return Path("runs", source) / "snn"


def _check_name(source):
    if source not in (names := pretrained.names()):
        raise CheckpointError(
            f"{source} is not a folder: expected the folder of a run, or the name of a "
            f"trained network ({', '.join(names) or 'there are none'})"
        )


def load_ann(source: str | os.PathLike) -> tuple[ApplyFn, Run]:
    """Load a trained network as (apply_fn, run), with its variables in run.

    Raises:
      CheckpointError: see `find_run`.
    """
    run = find_run(source)
    return ann_fn(run.config, run.metadata["image_shape"]), run


def load_snn(path: str | os.PathLike) -> SpikingNetwork:
    """Load the spiking network of a folder written by `convert.py`.

    Args:
      path: for instance runs/digits_resnet/snn/variables.

    Raises:
      CheckpointError: no such folder, damaged files, or the checkpoint of an ANN.
    """
    variables, metadata = load_variables(path)
    if "steps" not in metadata:
        raise CheckpointError(f"{path} is no spiking network: run convert.py first")
    config, steps = from_dict(metadata["config"]), metadata["steps"]
    apply_fn = ann_fn(config, metadata["image_shape"])
    nonspiking = metadata.get("nonspiking", "error")
    snn_fn = spiking(apply_fn, steps=steps, nonspiking=nonspiking)
    return SpikingNetwork(snn_fn, variables, steps, config, metadata)


def ann_fn(config: Config, input_shape: Sequence[int]) -> ApplyFn:
    """Return (variables, inputs) -> outputs of the network of a config, in inference.

    Convolutions are as wide as the input, whatever type they were trained in, and their
    products are not rounded (a GPU rounds to TF32 by default, a TPU to bfloat16): a
    code that is compared with another needs all its bits.
    """
    wide = dataclasses.replace(config.model, dtype="float32")
    config = dataclasses.replace(config, model=wide)
    model = task_of(config).build(config, tuple(input_shape))
    return partial(_apply, model)


def _apply(model, variables, x):
    with jax.default_matmul_precision("highest"):
        return model.apply(variables, x, train=False)
