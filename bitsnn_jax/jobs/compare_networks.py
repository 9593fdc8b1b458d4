"""The networks that methods start from: one architecture, trained in several ways."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bitsnn_jax.comparators.method import Network
from bitsnn_jax.conversion.calibration import calibrate_network
from bitsnn_jax.jobs.compare_examples import Shown, each_batch, of_all_devices
from bitsnn_jax.jobs.tally import Tally
from bitsnn_jax.results.comparison import Failure, NetworkResult
from bitsnn_jax.runs import pretrained
from bitsnn_jax.runs.checkpoint import CheckpointError, Run
from bitsnn_jax.runs.loading import ann_fn, find_run
from bitsnn_jax.runtime.devices import split_over_devices
from bitsnn_jax.tasks import Task
from bitsnn_jax.training.fitting import with_thetas_as_parameters


class Starting(Protocol):
    """A method, as far as its network goes."""

    @property
    def name(self) -> str: ...

    @property
    def trained_with(self) -> str: ...


class Ann(NamedTuple):
    """A network that methods start from, and what it does without spikes."""

    network: Network
    predictions: Any
    summary: NetworkResult


# What a run of another activation is called beside that of QCFS.
SUFFIXES = {
    "relu": "_relu",
    "clipped_relu": "_clipped",
    "slip_relu": "_slip",
    "step_relu": "_step",
    "rate_norm": "_rate_norm",
}


def other_runs(
    main: Run,
    ckpt: str,
    named: Mapping[str, str],
    chosen: Sequence[Starting],
    *,
    required: bool,
    has_relus: bool = True,
) -> tuple[dict[str, tuple[Run, str]], list[Failure]]:
    """Find runs of other activations that methods need, and failures for those missing.

    Args:
      main: the run trained with QCFS.
      ckpt: what it was found by.
      named: activation -> run or name that was asked for.
      chosen: the methods.
      required: a missing run is an error and not a failure.
      has_relus: whether the network has a ReLU where each of its codes is, if it is
        trained with ReLU.

    Raises:
      CheckpointError: a run is missing; ValueError: of another network.
    """
    found: dict[str, tuple[Run, str]] = {}
    missing: list[Failure] = []
    for activation, suffix in SUFFIXES.items():
        takers = [m for m in chosen if m.trained_with == activation]
        if not takers:
            continue
        if not has_relus:
            needs = (
                f"a network with {activation} in the place of each code is needed; one "
                "that multiplies codes, as attention does, has others there"
            )
            if activation in named or required:
                raise ValueError(f"{takers[0].name}: {needs}")
            missing += [Failure(method=m.name, error=needs) for m in takers]
            continue
        own = ckpt.rstrip("/") + suffix
        asked = named.get(activation)
        names = [asked] if asked else [own, f"runs/{own}"]
        source = next((n for n in names if _is_there(n)), None)
        if source is None:
            source = names[0]
            hint = (
                f"{source} is missing: train it with `python train.py --config CONFIG "
                f"--config.model.activation={activation} --config.start_from={ckpt} "
                f"--config.name={main.config.name}{suffix}`, and give it as "
                f"--{activation}"
            )
            needs = f"a network trained with {activation} is needed, and {hint}"
            if asked or required:
                raise CheckpointError(f"{takers[0].name}: {needs}")
            missing += [Failure(method=m.name, error=needs) for m in takers]
            continue
        run = find_run(source)
        _check_same(main, run, activation, source)
        found[activation] = (run, source)
    return found, missing


# Fields of a model in which a network to start from may differ.
_OF_ITS_OWN = ("activation", "levels", "theta_init", "dtype", "dropout")


def _is_there(source: str) -> bool:
    return Path(source).is_dir() or source in pretrained.names()


def _check_same(main: Run, run: Run, activation: str, source: str) -> None:
    """Raise ValueError for another network, whose weights would run in ours."""
    ours, theirs = main.config, run.config
    own = set(_OF_ITS_OWN)
    if activation == "relu":  # which has no thresholds
        own.add("per_channel")
    pairs = {
        "model.activation": (activation, theirs.model.activation),
        "data.name": (ours.data.name, theirs.data.name),
        "the shape of an input": (main.input_shape, run.input_shape),
        **{
            f"model.{field.name}": tuple(
                getattr(each.model, field.name) for each in (ours, theirs)
            )
            for field in dataclasses.fields(ours.model)
            if field.name not in own
        },
    }
    for field, (expected, got) in pairs.items():
        if expected != got:
            raise ValueError(f"{source}: {field} must be {expected}, is {got}")


def load_source(
    run: Run,
    source: str,
    main: Run,
    task: Task,
    shown: Shown,
    calibration: Sequence[Any],
) -> Ann:
    """Load a trained network as a program of QCFS, and its own accuracy.

    Args:
      run: of the network.
      source: what it was found by.
      main: the run trained with QCFS.
      task: of both, on the test examples.
      shown: begins these anew.
      calibration: inputs to find thresholds with, where the network has none.
    """
    shape = run.metadata["image_shape"]
    activation = run.config.model.activation
    own_fn = ann_fn(run.config, shape)
    variables = with_thetas_as_parameters(run.variables)
    model = dataclasses.replace(
        main.config.model, levels=run.config.model.levels, activation="qcfs"
    )
    apply_fn = ann_fn(dataclasses.replace(main.config, model=model), shape)
    if activation == "relu":
        variables = calibrate_network(apply_fn, variables, calibration)
    tally = Tally(task)

    def take(parts, batch):
        tally.add(of_all_devices(parts), batch)

    own = split_over_devices(own_fn), run.variables
    seconds = each_batch(*own, shown(), take)
    return Ann(
        Network(apply_fn, variables, activation),
        tally.predictions,
        NetworkResult(accuracy=tally.score, milliseconds=1e3 * seconds, source=source),
    )
