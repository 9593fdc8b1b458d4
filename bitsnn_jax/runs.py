"""Networks from disk: the ANN of a run folder, the SNN that was made from it."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from bitsnn_jax.checkpoint import CheckpointError, Run, load_run, load_variables
from bitsnn_jax.config import Config, from_dict
from bitsnn_jax.models import build_model
from bitsnn_jax.program import ApplyFn
from bitsnn_jax.spiking import SpikeStats, spiking


class SpikingNetwork(NamedTuple):
    """A spiking network as `convert.py` saves it, ready to run.

    `snn_fn(variables, images)` gives (logits, SpikeStats); wrap it in `jax.jit`. Images
    are float32 [n, h, w, c], normalised as those that the ANN was trained on.
    """

    snn_fn: Callable[[Any, Any], tuple[Any, SpikeStats]]
    variables: Any
    steps: int
    config: Config
    metadata: dict


def load_ann(path: str | os.PathLike) -> tuple[ApplyFn, Run]:
    """The trained network of a run folder as (apply_fn, run), and its variables in run.

    Raises:
      CheckpointError: see `load_run`.
    """
    run = load_run(path)
    return ann_fn(run.config, run.metadata["image_shape"]), run


def load_snn(path: str | os.PathLike) -> SpikingNetwork:
    """The spiking network of a folder written by `convert.py`.

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
    snn_fn = spiking(apply_fn, steps=steps)
    return SpikingNetwork(snn_fn, variables, steps, config, metadata)


def ann_fn(config: Config, image_shape: tuple[int, int, int]) -> ApplyFn:
    """(variables, images) -> logits of the network of a config, in inference."""
    model = build_model(config.model, image_shape=tuple(image_shape))
    return partial(_apply, model)


def _apply(model, variables, x):
    return model.apply(variables, x, train=False)
