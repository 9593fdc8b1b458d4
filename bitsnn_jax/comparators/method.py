"""A method of conversion: from which network, with which neurons, at which steps."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from bitsnn_jax.comparators.layer import Neuron
from bitsnn_jax.comparators.simulation import Found
from bitsnn_jax.tracing.program import ApplyFn

NETWORKS = ("qcfs", "clipped_relu", "slip_relu", "step_relu", "rate_norm", "relu")


class Network(NamedTuple):
    """A trained network, as a program with QCFS sites; or what a method made of it.

    Attributes:
      apply_fn: (variables, x) -> logits; its activations are `qcfs`.
      variables: as trained; thetas are trained too, or calibrated if the network was
        trained with ReLU.
      activation: the one that it was trained with, from `NETWORKS`.
      found: what neurons are told of each layer, by path and name; see `Layer.found`.
    """

    apply_fn: ApplyFn
    variables: Any
    activation: str
    found: Found = {}


def as_it_is(network: Network, batches: Iterable[Any], steps: int) -> Network:
    """Prepare nothing."""
    return network


@dataclass(frozen=True)
class Method:
    """One method of conversion.

    Attributes:
      name: for tables and flags.
      title: for readers.
      source: authors, title, venue, year; or what it was reconstructed from.
      neuron: T -> the neurons.
      trained_with: the activation its network is trained with, one of `NETWORKS`.
      prepare: (network, batches of training images, T) -> the network to simulate, with
        what the method has found of its layers, and its variables where the method
        changes them. Batches can be iterated more than once.
      can: T -> why the method cannot do T steps, or "".
      seeds: the outcome depends on which images it was prepared with.
      codes: what its codes are called, where those of other methods from the same
        network are equal at the same T, by construction; "" for codes of its own.
      for_one: prepared for one T, which is read at that T only. All others that run all
        layers at each step are read at each T on the way to the largest.
    """

    name: str
    title: str
    source: str
    neuron: Callable[[int], Neuron]
    trained_with: str = "qcfs"
    prepare: Callable[[Network, Iterable[Any], int], Network] = as_it_is
    can: Callable[[int], str] = lambda steps: ""
    seeds: bool = False
    codes: str = ""
    for_one: bool = False
