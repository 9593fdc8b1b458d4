"""A network as a function of the integers that its examples are stored as."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bitsnn_jax import config, data
from bitsnn_jax.integers.lowering import output_names
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.jobs.sources import Network
from bitsnn_jax.tasks import TASKS, Numbers, Task
from bitsnn_jax.tracing.fast_convolutions import with_fast_convolutions
from bitsnn_jax.tracing.program import ApplyFn

IMAGES = TASKS["image_classification"]


def of_images(task: Task) -> bool:
    """Tell whether a task is images of one class each, which some options need."""
    return task.noun == IMAGES.noun


@dataclass(frozen=True, kw_only=True)
class OfNumbers:
    """A network that is shown pixels, or word ids and a mask.

    Attributes:
      numbers: what these are.
      apply_fn: (variables, numbers) -> outputs, from which the network is lowered.
      shape: of the numbers of one example, [1, ...].
    """

    numbers: Numbers
    apply_fn: ApplyFn
    shape: tuple[int, ...]

    @property
    def example(self) -> Any:
        """Return the numbers of one example, or shape and type."""
        if self.numbers.example is not None:
            return self.numbers.example
        return jax.ShapeDtypeStruct(self.shape, self.numbers.dtype)

    def outputs(
        self, network: IntegerNetwork, variables: Any
    ) -> Callable[[Mapping[str, Any]], Any]:
        """Return a function of sums of output nodes: the outputs they stand for.

        They are the integers times the unit of their node, in float64 and on the host:
        integers that differ stay apart.

        Args:
          network: in integers, whose sums they are.
          variables: of the float network.
        """
        shapes = jax.eval_shape(self.apply_fn, variables, self.example)
        structure = jax.tree.structure(shapes)
        names = output_names(structure.num_leaves)
        units = {name: np.asarray(network[name].unit, np.float64) for name in names}

        def outputs(sums: Mapping[str, Any]) -> Any:
            values = [np.asarray(sums[name]) * units[name] for name in names]
            return jax.tree.unflatten(structure, values)

        return outputs

    def float_pass(self, variables: Any) -> Callable[[Any], Any]:
        """Return the float network as a function of numbers."""
        network, dtype = with_fast_convolutions(self.apply_fn), self.numbers.dtype
        return lambda numbers: network(variables, numbers.astype(dtype))


def of_numbers(network: Network) -> OfNumbers:
    """Return the form of a network that is put in integers.

    Raises:
      ValueError: the examples of its task are no integers.
    """
    numbers = network.task.numbers(network.config, network.examples)
    return of_examples(network.apply_fn, numbers, network.examples)


def of_pixels(apply_fn: ApplyFn, examples: data.Examples) -> OfNumbers:
    """Return that of a network of normalised images."""
    return of_examples(apply_fn, IMAGES.numbers(config.Config(), examples), examples)


def of_examples(apply_fn: ApplyFn, numbers: Numbers, examples: Any) -> OfNumbers:
    """Return that of a network of the inputs that numbers stand for.

    Args:
      apply_fn: (variables, inputs) -> outputs.
      numbers: what examples are stored as.
      examples: any of them, for their shape.
    """

    def of_stored(variables, stored):
        return apply_fn(variables, numbers.normalised(stored))

    shape = (1, *examples.input_shape)
    return OfNumbers(numbers=numbers, apply_fn=of_stored, shape=shape)


def first_numbers(task: Task, settings: config.Data, key: str, count: int) -> Any:
    """Return the numbers of the first training examples, in their random order.

    Args:
      task: of the run.
      settings: of its data.
      key: of the numbers in a batch.
      count: how many examples.
    """
    examples: Any = task.load(settings, "train").first(count)
    shown = (task.shown(settings, examples, i)[0] for i in range(len(examples)))
    return np.concatenate([batch[key] for batch in shown])
