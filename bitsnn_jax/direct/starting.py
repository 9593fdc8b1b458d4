"""What neurons start with when their network has been trained before, without time.

Weights carry over by name. The numbers that neurons own mean something else in each
method, so a method may have a function, `Method.start`, that finds them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from bitsnn_jax.direct.neurons import Neuron, Scalars, Train
from bitsnn_jax.direct.spiking import SharedDropout, Spiking, by_step

Path = tuple[str, ...]


class Start(NamedTuple):
    """A network that was trained without time, and the one that goes on from it.

    Attributes:
      source: variables of the first.
      source_fn: (variables, inputs) -> outputs of the first, in inference.
      variables: of the second: weights of the first, and neurons at their start.
      network: T -> the second, without an axis name.
      steps: T of the second.
      batches: inputs of training, as evaluation sees them, from the first on.
    """

    source: dict
    source_fn: Callable[[Any, Any], Any]
    variables: dict
    network: Callable[[int], nn.Module]
    steps: int
    batches: Callable[[], Iterable[Any]]


# (path, neurons, currents [T, n, ...], numbers so far) -> numbers to take in place
Choice = Callable[[Path, Neuron, Train, Scalars], Mapping[str, Array]]


def thresholds_kept(begin: Start) -> dict:
    """Give each layer of neurons the theta that its activation had."""
    theirs = dict(_modules(begin.source))
    thetas = {
        path: {"theta": theirs[path]["theta"]}
        for path, found in _modules(begin.variables)
        if "theta" in found
    }
    return with_numbers(begin.variables, thetas)


def in_order(
    model: nn.Module, variables: dict, inputs: Any, choose: Choice, *, train: bool
) -> dict[Path, dict[str, Array]]:
    """Choose the numbers of each layer of neurons, in the order of firing.

    One pass: what a layer sends with its new numbers is what the next ones get.

    Args:
      model: the network, through time.
      variables: of it.
      inputs: one batch.
      choose: looks at the currents of a layer, and is traced.
      train: norms take the statistics of this batch, and there is no dropout.

    Returns:
      The chosen numbers of each layer, by path.
    """

    def run(variables, inputs):
        found: dict[Path, dict[str, Array]] = {}

        def visit(call, args, kwargs, context):
            act = context.module
            if isinstance(act, SharedDropout):
                return args[0]
            if not isinstance(act, Spiking):
                return call(*args, **kwargs)
            (z,) = args
            currents = by_step(z, act.steps)
            numbers = {n: act.get_variable("params", n) for n in act.neuron.trained}
            numbers |= choose(act.path, act.neuron, currents, numbers)
            found[act.path] = numbers
            return act.neuron(currents, numbers).values.reshape(z.shape)

        with nn.intercept_methods(visit):
            model.apply(variables, inputs, train=train, mutable=["batch_stats"])
        return found

    return jax.jit(run)(variables, inputs)


def activations(begin: Start, inputs: Any) -> dict[Path, Array]:
    """Return what the first network sends where the second has neurons with numbers."""
    neurons = {path for path, found in _modules(begin.variables) if "theta" in found}

    def run(variables, inputs):
        found = {}

        def visit(call, args, kwargs, context):
            result = call(*args, **kwargs)
            if context.module.path in neurons:
                found[context.module.path] = result
            return result

        with nn.intercept_methods(visit):
            begin.source_fn(variables, inputs)
        return found

    return jax.jit(run)(begin.source, inputs)


def mean_numbers(
    each: Iterable[dict[Path, dict[str, Array]]],
) -> dict[Path, dict[str, np.ndarray]]:
    """Average the numbers that several batches ask for."""
    return jax.tree.map(lambda *values: np.mean(values, axis=0), *each)


def with_numbers(variables: dict, numbers: Mapping[Path, Mapping[str, Any]]) -> dict:
    """Exchange numbers of neurons, by path and name, in a copy of the variables."""
    flat: dict[Path, Any] = flatten_dict(variables["params"])
    for path, values in numbers.items():
        for name, value in values.items():
            old = flat[*path, name]
            flat[*path, name] = np.asarray(value, old.dtype).reshape(old.shape)
    return {**variables, "params": unflatten_dict(flat)}


def _modules(variables):
    """Go through (path, leaves) of all modules that own some."""
    modules: dict[Path, dict[str, Any]] = {}
    for (*path, name), leaf in flatten_dict(variables["params"]).items():
        modules.setdefault(tuple(path), {})[name] = leaf
    return modules.items()


__all__ = [
    "Choice",
    "Start",
    "activations",
    "in_order",
    "mean_numbers",
    "thresholds_kept",
    "with_numbers",
]
