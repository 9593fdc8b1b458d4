"""A method of direct training: which neurons, which norm, which loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax

from bitsnn_jax.direct.neurons import Fired, Neuron
from bitsnn_jax.direct.norms import Norm, over_time_and_batch
from bitsnn_jax.direct.starting import Start


class Seen(NamedTuple):
    """What a loss looks at, of one training step.

    Attributes:
      outputs: of the network at each step, [T, n, ...].
      layers: what neurons did, [T, n, ...] each, by path in the order of firing.
      heads: what further heads say, by name, see `Method.heads`.
      progress: share of the training that is done, 0 to 1, traced.
    """

    outputs: Any
    layers: Mapping[str, Fired]
    heads: Mapping[str, Any]
    progress: Any


# outputs [n, ...] of one step, or of their mean -> loss of each example, [n]
TaskLoss = Callable[[Any], jax.Array]
Loss = Callable[[Seen, TaskLoss], jax.Array]


def of_mean(seen: Seen, task_loss: TaskLoss) -> jax.Array:
    """Return the loss of the mean output over time."""
    return task_loss(jax.tree.map(lambda o: o.mean(0), seen.outputs))


def of_sum(seen: Seen, task_loss: TaskLoss) -> jax.Array:
    """Return the loss of the outputs, added over time."""
    return task_loss(jax.tree.map(lambda o: o.sum(0), seen.outputs))


@dataclass(frozen=True)
class Method:
    """One method of direct training.

    Attributes:
      name: for configs and tables.
      title: for readers.
      source: authors, title, venue, year; or what it was reconstructed from.
      neuron: progress -> neurons. Progress is 1 outside training.
      loss: see `Loss`; on top come the spike loss and distillation of the config.
      squared_error: the task's loss is `Task.squared_error`, in training.
      norm: (batch norm of the network, T) -> norm, see `norms`.
      block: residual block of the ResNets; None for their own.
      counts_as: a block that hands on as many spikes or more, for a bound on synaptic
        operations, where `block` multiplies spikes; None where they are counted as is.
      readout: how the outputs of all steps become one.
      heads: what makes a module of further heads: called with `norm` and `name`, then
        with what layers did, `outputs` [T, n, ...] and `train`; gives outputs by name.
        In training only.
      models: names that `model.name` must be one of; () for any.
      frozen_norms: training leaves batch statistics and uses those that there are.
      start: gives the neurons numbers that fit the network that training starts from,
        see `starting`. None leaves them as they are at the start of any run.
      starts_from: values of `model.activation` that this network may have; () for any.
      needs_start: it is a way to go on from a trained network, and nothing else.
      pools: values that `model.pool` must be one of; () for any.
      waits: neurons fire once all their currents are there, so that layers run one
        after the other.
    """

    name: str
    title: str
    source: str
    neuron: Callable[[Any], Neuron]
    loss: Loss = of_mean
    squared_error: bool = False
    norm: Callable[[Norm, int], Norm] = over_time_and_batch
    block: Callable[..., Any] | None = None
    counts_as: Callable[..., Any] | None = None
    readout: Literal["mean", "sum"] = "mean"
    heads: Callable[..., Any] | None = None
    models: tuple[str, ...] = ()
    frozen_norms: bool = False
    start: Callable[[Start], dict] | None = None
    starts_from: tuple[str, ...] = ()
    needs_start: bool = False
    pools: tuple[str, ...] = ()
    waits: bool = False
