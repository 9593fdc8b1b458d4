"""Real numbers: what a spiking network computes without spikes, and where they go."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from bitsnn_jax.tracing.linearity import EACH, PRODUCTS, linear_operands, moved_sizes
from bitsnn_jax.tracing.program import read
from bitsnn_jax.tracing.reading import Nonspiking, Reading
from bitsnn_jax.tracing.sites import unique
from bitsnn_jax.tracing.values import Analog, Constant, Current, Value

TIMELESS = "a value without time"


class RealInput(NamedTuple):
    """A layer that multiplies real numbers at each step, where others add weights.

    `sources` are the layers or operations that the numbers come from, with no neurons
    in between. `shape` is the shape of the layer's input, batch included.
    """

    path: str
    operation: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]


class RealNumbers(NamedTuple):
    """What is done without spikes: by these operations, and in these layers."""

    operations: list[Nonspiking]
    layers: list[RealInput]


def real_numbers(
    program: ClosedJaxpr, variables: Iterable, x: Iterable, *, nonspiking: str = "error"
) -> RealNumbers:
    """Find the operations and layers of a traced program that work on real numbers.

    An *operation* is listed if it is not affine in what depends on the input and is not
    a neuron: an activation before the first neurons or, with nonspiking="decode", one
    behind them. Table lookups and choices by integers do not count, since such an input
    is data, as pixels are.

    A *layer* is a convolution or a dense layer. Real numbers feed it if its input,
    since the last neurons, has passed such an operation, a convolution or a dense
    layer, or has met a value without time: one that passed no neurons on its way from
    the input, or was decoded. Scales and constants on the way (batch norm, bias) do not
    matter.

    Layers are not listed if their spikes were only moved, padded, concatenated, scaled,
    pooled or added: a layer is linear, so a sum of spike trains into it is several
    trains into the same synapses. Nor are the first layers, which see the image.

    Args:
      program: of `trace`.
      variables: flat list, of which only the length matters; the same for x.
      nonspiking: as in `spiking`.

    >>> import jax
    >>> from bitsnn_jax import qcfs
    >>> from bitsnn_jax.tracing.program import trace
    >>> w = jnp.eye(2)
    >>> program, _ = trace(lambda w, x: qcfs(jnp.tanh(x), 1.0) @ w @ w, w, w)
    >>> real = real_numbers(program, [w], [w])
    >>> real.operations
    [Nonspiking(operation='tanh', path='')]
    >>> real.layers[0][:3]
    ('dot_general@2', 'dot_general', ('dot_general',))
    """
    reading = _passed(program, variables, x, nonspiking=nonspiking)
    return RealNumbers(reading.nonspiking, reading.fed_by_numbers)


def neuron_paths(program: ClosedJaxpr, variables: Iterable, x: Iterable) -> list[str]:
    """Name the neurons of a traced program, in the order of firing."""
    reading = _passed(program, variables, x, nonspiking="decode")
    return [site.path for site in reading.sites]


def _passed(program, variables, x, **options) -> "_Passed":
    reading = _Passed(**options)
    read(reading, program, [Constant(()) for _ in variables], [() for _ in x])
    return reading


class _Passed(Reading):
    """What a value has passed since the input or the last neurons: a tuple of names.

    Nothing is computed.
    """

    enters_all = True

    def __init__(self, **options):
        super().__init__(**options)
        self.layers: list[str] = []
        self.fed_by_numbers: list[RealInput] = []

    def timeless(
        self, eqn: JaxprEqn, values: Sequence[Value], scope: tuple[str, ...]
    ) -> list[Value]:
        if all(isinstance(v, Constant) for v in values):
            return [Constant(())] * len(eqn.outvars)
        name, path = eqn.primitive.name, "/".join(scope)
        inputs = [v.value for v in values if isinstance(v, Analog)]
        passed = tuple(dict.fromkeys(name for names in inputs for name in names))
        real = [
            isinstance(v, Analog) and bool(v.value or _is_floating(atom))
            for v, atom in zip(values, eqn.invars, strict=True)
        ]
        if not any(real):
            return [Analog(passed)] * len(eqn.outvars)
        if not any(map(_is_floating, eqn.outvars)):
            # Like a comparison, it counts where it decides on numbers.
            return [Analog(passed or (_said(name, path),))] * len(eqn.outvars)
        operands = linear_operands(eqn, real)
        if operands is None:
            if (operation := Nonspiking(name, path)) not in self.nonspiking:
                self.nonspiking.append(operation)
            passed = (_said(name, path),)
        elif name in PRODUCTS and passed:
            passed = (self.layer(eqn, operands, path, passed),)
        return [Analog(passed)] * len(eqn.outvars)

    def layer(self, eqn, operands, path, sources):
        """Name a layer that may be fed by real numbers."""
        name = eqn.primitive.name
        # As for neurons, the class of the outermost module is left out.
        layer = unique(path.partition("/")[2] or path or name, self.layers)
        self.layers.append(layer)
        if sources:
            shape = eqn.invars[operands[0]].aval.shape
            self.fed_by_numbers.append(RealInput(layer, name, sources, shape))
        return layer

    def neuron(self, site, z, theta):
        return Current((), site.sizes)

    def linear(self, eqn, values, operands, path):
        name = eqn.primitive.name
        first = values[operands[0]]
        if name in PRODUCTS:
            return [Current((self.layer(eqn, operands, path, first.value),))]
        joined = values if name in EACH else [values[i] for i in operands]
        passed = [v.value for v in joined if isinstance(v, Current)]
        passed += [(TIMELESS,) for v in joined if isinstance(v, Analog)]
        sources = tuple(dict.fromkeys(path for paths in passed for path in paths))
        sizes = moved_sizes(eqn, getattr(first, "sizes", None))
        return [Current(sources, sizes)] * len(eqn.outvars)

    def maximum(self, eqn, spikes, sizes):
        return Current((), sizes)

    def decode(self, current, path):
        return Analog(())


def _said(name, path) -> str:
    return f"`{name}` in {path}" if path else f"`{name}`"


def _is_floating(atom) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.floating)
