"""Attention in a traced program: the heads and the places of its neurons."""

from collections import Counter
from typing import Any, NamedTuple

import jax

from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.real_valued import Passed, Trail
from bitsnn_jax.tracing.sites import Site
from bitsnn_jax.tracing.values import Analog, Constant


class Layout(NamedTuple):
    """Which axes of a layer of neurons mean what. Axis 0 has the examples.

    Attributes:
      heads: how many heads of attention the neurons belong to; 1 without.
      head_axis: the axis that they share out evenly, one after the other.
      places: the axis of the places that attention looks at, such as words or patches;
        for probabilities, of those that ask. None without.
    """

    heads: int = 1
    head_axis: int = 0
    places: int | None = None


class Attention(NamedTuple):
    """Where the neurons of a network with attention stand.

    Attributes:
      places: how many places there are: words of a sentence, patches of an image.
      layouts: path of each layer of neurons -> its axes, in the order of firing.
    """

    places: int
    layouts: dict[str, Layout]


def attention(apply_fn: ApplyFn, variables: Any, example: Any) -> Attention | None:
    """Find the heads and the places of each layer of neurons.

    Scores are a product of two currents, place by place: its batch axes are the
    examples and the heads, and both operands have one axis left, of the same length,
    the number of places. A layer that enters such a product, or the one with the
    values, has its heads where the product has them: other axes may have changed
    places on the way, and heads may be one axis with what follows them, as they are in
    front of a reshape (if in doubt the last axis). The first other axis that is as
    long as there are places has the places, in layers of three axes or more.

    Args:
      apply_fn: pure, (variables, x) -> output, with QCFS.
      variables: pytree of arrays.
      example: an input of batch 1, or `jax.ShapeDtypeStruct`s of one; the program must
        take any batch.

    Returns:
      None for a network without scores.

    >>> import jax.numpy as jnp
    >>> from bitsnn_jax import qcfs
    >>> def net(w, x):
    ...     q = qcfs(x @ w, 1.0).reshape(-1, 5, 2, 3)
    ...     return jnp.einsum("nqhd,nkhd->nhqk", q, q)
    >>> found = attention(net, jnp.eye(6), jnp.ones((1, 5, 6)))
    >>> found.places, found.layouts["neuron"]
    (5, Layout(heads=2, head_axis=2, places=1))
    """
    # Two examples: one would let products do without the axis of the examples.
    two = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype), example
    )
    program, _ = trace(apply_fn, variables, two)
    reading = _Products(nonspiking="decode")
    nothing = [Analog(Trail()) for _ in jax.tree.leaves(example)]
    read(reading, program, [Constant(()) for _ in jax.tree.leaves(variables)], nothing)
    if not reading.places:
        return None
    [(places, _)] = reading.places.most_common(1)
    layouts = {site.path: reading.layout(site, places) for site in reading.sites}
    return Attention(places, layouts)


class _Products(Passed):
    """Notes the axes of products of two currents.

    Attributes:
      places: lengths of the axes that scores have left, and how often.
      operands: name of neurons -> (shape, axis of the heads) in the first product that
        they enter.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.places: Counter[int] = Counter()
        self.operands: dict[str, tuple[tuple[int, ...], int]] = {}

    def product(self, eqn, values, streamed, path):
        if eqn.primitive.name == "dot_general":
            self._note(eqn, values)
        return super().product(eqn, values, streamed, path)

    def _note(self, eqn, values):
        contracted, batch = eqn.params["dimension_numbers"]
        lengths = []
        for atom, value, summed, kept in zip(
            eqn.invars, values, contracted, batch, strict=True
        ):
            shape, taken = atom.aval.shape, {*summed, *kept}
            lengths.append([n for i, n in enumerate(shape) if i not in taken])
            if len(kept) == 2:  # the examples and the heads
                for name in value.value.neurons:
                    self.operands.setdefault(name, (shape, kept[1]))
        left, right = lengths
        if batch[0] and len(left) == 1 and left == right:
            self.places[left[0]] += 1

    def layout(self, site: Site, places: int) -> Layout:
        """Say what the axes of a layer are, in a network of so many places."""
        heads, axis = 1, 0
        if site.path in self.operands:
            shape, at = self.operands[site.path]
            axes = _axes_of_heads(site.shape, shape, at)
            heads, axis = (shape[at], axes[0]) if axes else (1, 0)
        axes = range(1, len(site.shape) if len(site.shape) > 2 else 0)
        # Heads that fill their axis leave no room for places there.
        filled = axis if heads > 1 and site.shape[axis] == heads else None
        fitting = [i for i in axes if i != filled and site.shape[i] == places]
        return Layout(heads, axis, fitting[0] if fitting else None)


def _axes_of_heads(layer, operand, at):
    """Find the axes of a layer that may have the heads, which the operand has `at`."""
    heads, others = operand[at], sorted((*operand[:at], *operand[at + 1 :]))
    if len(layer) == len(operand):  # other axes may have changed places
        return [at] if layer[at] == heads and sorted(layer) == sorted(operand) else []
    # One axis with what follows them: with channels, which are last, if in doubt.
    return [
        i
        for i in reversed(range(1, len(layer)))
        if layer[i] % heads == 0
        and sorted((*layer[:i], layer[i] // heads, *layer[i + 1 :])) == others
    ]
