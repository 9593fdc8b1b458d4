"""Networks from disk: the ANN of a run folder, the SNN that was made from it."""

import dataclasses
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bitsnn_jax.config import Config, from_dict
from bitsnn_jax.conversion.spiking import SpikeStats, spiking
from bitsnn_jax.direct import trains
from bitsnn_jax.runs import pretrained
from bitsnn_jax.runs.checkpoint import CheckpointError, Run, load_run, load_variables
from bitsnn_jax.tasks import Task, task_of
from bitsnn_jax.tracing.program import ApplyFn


class SpikingNetwork(NamedTuple):
    """A spiking network, converted or trained directly, ready to run.

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
    snn_fn = spiking(
        apply_fn,
        steps=steps,
        nonspiking=metadata.get("nonspiking", "error"),
        coding=metadata.get("coding", "bits"),
    )
    return SpikingNetwork(snn_fn, variables, steps, config, metadata)


def load_spiking(source: str | os.PathLike) -> SpikingNetwork:
    """Load a run that was trained directly, as a spiking network.

    `jobs.evaluation.evaluate` gives its accuracy and its spikes over all devices.

    Args:
      source: for instance runs/tet_small_fashion_mnist.

    Raises:
      CheckpointError: see `find_run`; or a network that does not spike yet.
    """
    run = find_run(source)
    if not run.config.direct.method:
        raise CheckpointError(
            f"{source} was trained with {run.config.model.activation}: expected a run "
            "with a direct.method; load_snn loads what convert.py made of others"
        )
    snn_fn = spiking_fn(run.config, run.input_shape)
    return SpikingNetwork(
        snn_fn, run.variables, run.config.steps, run.config, run.metadata
    )


def check_qcfs(run: Run, source: str | os.PathLike, *, advice: str) -> None:
    """Raise ValueError for a run that was not trained with QCFS.

    Args:
      run: which.
      source: what it was found by.
      advice: what to do with a network that has other activations, but no spikes.
    """
    direct, activation = run.config.direct.method, run.config.model.activation
    if binary := run.config.binary.method:
        raise ValueError(
            f"{source} is a binary network ({binary}): it has no codes that could "
            "become spikes. Give a network trained with qcfs"
        )
    if direct:
        raise ValueError(
            f"{source} was trained directly ({direct}, T = {run.config.steps}): it is "
            "a spiking network and has nothing to convert. Give a network trained with "
            f"qcfs, and this one to compare.py as --direct {source}"
        )
    if activation != "qcfs":
        raise ValueError(
            f"{source} was trained with {activation}: expected a network trained with "
            f"qcfs; {advice}"
        )


def spiking_fn(
    config: Config, input_shape: Sequence[int]
) -> Callable[[Any, Any], tuple[Any, SpikeStats]]:
    """Return (variables, inputs) -> (outputs, SpikeStats) of a run trained directly.

    As precise as `ann_fn`.
    """
    trains_of = trains_fn(config, input_shape)

    def run(variables, x):
        outputs, sent = trains_of(variables, x)
        axes = {path: tuple(range(1, s.ndim)) for path, s in sent.items()}
        spikes = ((p, s.sum(axes[p], dtype=jnp.int32)) for p, s in sent.items())
        neurons = ((p, jnp.asarray(s[0].size, jnp.int32)) for p, s in sent.items())
        return outputs, SpikeStats(OrderedDict(spikes), OrderedDict(neurons))

    return run


def trains_fn(
    config: Config, input_shape: Sequence[int]
) -> Callable[[Any, Any], tuple[Any, OrderedDict[str, jax.Array]]]:
    """Return (variables, inputs) -> (outputs, spikes [T, n, ...] by path).

    Of a run trained directly, in inference, as precise as `ann_fn`.
    """
    model = _wide(config, input_shape)

    def run(variables, x):
        with jax.default_matmul_precision("highest"):
            outputs, sown = model.apply(
                variables, x, train=False, mutable=["activations"]
            )
        return outputs, trains(sown)

    return run


def ann_fn(config: Config, input_shape: Sequence[int]) -> ApplyFn:
    """Return (variables, inputs) -> outputs of the network of a config, in inference.

    Convolutions are as wide as the input, whatever type they were trained in, and their
    products are not rounded (a GPU rounds to TF32 by default, a TPU to bfloat16): a
    code that is compared with another needs all its bits.
    """
    return partial(_apply, _wide(config, input_shape))


def with_qcfs(
    config: Config, input_shape: tuple[int, ...], task: Task
) -> tuple[ApplyFn, Mapping[str, Any], Any]:
    """Return a network with QCFS in the place of its activations.

    Its sites have the paths of the neurons of a network that is trained directly, and
    so its synapses are theirs.

    Returns:
      The program, the shapes of its variables, and of one input.
    """
    model = dataclasses.replace(config.model, activation="qcfs")
    config = dataclasses.replace(config, model=model)
    placeholder = task.placeholder(input_shape)
    module = task.build(config, input_shape)
    variables = jax.eval_shape(
        lambda x: module.init(jax.random.key(0), x, train=False), placeholder
    )
    kept = {name: variables.get(name, {}) for name in ("params", "batch_stats")}
    return ann_fn(config, input_shape), kept, placeholder


def _wide(config, input_shape):
    wide = dataclasses.replace(config.model, dtype="float32")
    config = dataclasses.replace(config, model=wide)
    return task_of(config).build(config, tuple(input_shape))


def _apply(model, variables, x):
    with jax.default_matmul_precision("highest"):
        return model.apply(variables, x, train=False)
