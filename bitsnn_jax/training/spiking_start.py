"""Start a network that is trained through time from one of another run."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flax.traverse_util import unflatten_dict

from bitsnn_jax.config import Config
from bitsnn_jax.direct import method_of
from bitsnn_jax.direct.starting import Start
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.runs.loading import ann_fn
from bitsnn_jax.tasks import task_of
from bitsnn_jax.training.fitting import fitted, leaves


def check_activation(run: Run | None, config: Config) -> None:
    """Compare the network to start from with what the method can go on from.

    Args:
      run: the other one; None for a folder of Hugging Face's.
      config: of this run.

    Raises:
      ValueError: its activation is another one, or has several thresholds a layer.
    """
    if not (run and config.direct.method):
        return
    method, activation = method_of(config.direct), run.config.model.activation
    if method.starts_from and activation not in method.starts_from:
        raise ValueError(
            f"start_from {config.start_from}: direct.method={method.name} goes on from "
            f"a run with model.activation={' or '.join(method.starts_from)}, got one "
            f"with {activation}"
        )
    if method.starts_from and run.config.model.per_channel:
        raise ValueError(
            f"start_from {config.start_from}: neurons of direct.method={method.name} "
            "have one threshold a layer, as a run with model.per_channel=False has; "
            "got one with True"
        )


def into_neurons(
    run: Run,
    target: dict,
    config: Config,
    input_shape: Sequence[int],
    inputs: Callable[[], Iterable[Any]],
) -> dict:
    """Return the variables that a network of neurons starts with.

    Weights, norms and their statistics are those of the other run. Numbers that neurons
    own are too if both runs have the same method; else they are where they always
    start, or where the method's `start` puts them, and heads that only training has are
    random. Thresholds of the other run that have no place are left out; none is
    calibrated.

    Args:
      run: the other one.
      target: variables of this network, random.
      config: of this run.
      input_shape: of an example.
      inputs: training examples in batches, as evaluation sees them.

    Raises:
      ValueError: the first array that does not fit.
    """
    method, before = method_of(config.direct), run.config.direct.method
    if before == method.name:
        return fitted(run.variables, target, name=config.start_from)
    theirs, _ = _parted(run.variables, run.config)
    ours, own = _parted(target, config)
    weights = fitted(theirs, ours, name=config.start_from)
    variables = _tree(leaves(weights) | own, target)
    if method.start is None:
        return variables

    def network(steps):
        settings = dataclasses.replace(config, steps=steps)
        return task_of(config).build(settings, tuple(input_shape))

    source_fn = ann_fn(run.config, input_shape)
    return method.start(
        Start(run.variables, source_fn, variables, network, config.steps, inputs)
    )


def _parted(variables, config):
    """Part variables into what all networks of a kind have, and what is its own."""
    trained = set()
    if config.direct.method:
        trained = method_of(config.direct).neuron(1.0).trained.keys()
    parts: tuple[dict, dict] = ({}, {})
    for path, leaf in leaves(variables).items():
        _, first, *_, last = path.split("/")
        parts[first == "heads" or last in trained][path] = leaf
    shared, own = parts
    return _tree(shared, variables), own


def _tree(flat, like):
    # A collection may have no leaves, such as the statistics without batch norm.
    return dict.fromkeys(like, {}) | unflatten_dict(flat, sep="/")
