"""Real numbers: what a spiking network computes without spikes, and where they go."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from bitsnn_jax.tracing.linearity import EACH, PRODUCTS, linear_operands
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


class StreamedProduct(NamedTuple):
    """A product of two currents: spikes that add what another current has brought.

    The spikes of the neurons `streamed` come step by step, and each adds numbers that
    the neurons `held` have summed up before.
    """

    operation: str
    path: str
    streamed: tuple[str, ...]
    held: tuple[str, ...]


class RealNumbers(NamedTuple):
    """What is done without spikes, by operations and in layers; and with held sums."""

    operations: list[Nonspiking]
    layers: list[RealInput]
    products: list[StreamedProduct]


def real_numbers(
    program: ClosedJaxpr, variables: Iterable, x: Iterable, *, nonspiking: str = "error"
) -> RealNumbers:
    """Find the operations and layers of a traced program that work on real numbers.

    An *operation* is listed if it is not affine in what depends on the input and is not
    a neuron, nor a function in front of one: before the first neurons or, with
    nonspiking="decode", behind them. Table lookups and choices by integers do not
    count, since such an input is data, as pixels are.

    A *layer* is a convolution or a dense layer. Real numbers feed it if its input,
    since the last neurons, has passed such an operation, a convolution, a dense layer
    or a product of two currents, or has met a value without time: one that passed no
    neurons on its way from the input, or was decoded. Scales and constants on the way
    (batch norm, bias) do not matter.

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
    >>> program, _ = trace(lambda w, x: qcfs(jnp.cumprod(x), 1.0) @ w @ w, w, w[0])
    >>> real = real_numbers(program, [w], [w[0]])
    >>> real.operations
    [Nonspiking(operation='cumprod', path='')]
    >>> real.layers[0][:3]
    ('dot_general@2', 'dot_general', ('dot_general',))
    """
    reading = _passed(program, variables, x, nonspiking=nonspiking)
    return RealNumbers(reading.nonspiking, reading.fed_by_numbers, reading.products)


def neuron_paths(program: ClosedJaxpr, variables: Iterable, x: Iterable) -> list[str]:
    """Name the neurons of a traced program, in the order of firing."""
    reading = _passed(program, variables, x, nonspiking="decode")
    return [site.path for site in reading.sites]


def _passed(program, variables, x, **options) -> "Passed":
    reading = Passed(**options)
    nothing = [Analog(Trail()) for _ in x]
    read(reading, program, [Constant(()) for _ in variables], nothing)
    return reading


class Trail(NamedTuple):
    """What a value has passed since the input or the last neurons, and these."""

    passed: tuple[str, ...] = ()
    neurons: tuple[str, ...] = ()


class Passed(Reading):
    """Follows the `Trail` of each value. Nothing is computed."""

    enters_all = True
    has_tables = True

    def __init__(self, **options):
        super().__init__(**options)
        self.layers: list[str] = []
        self.fed_by_numbers: list[RealInput] = []
        self.products: list[StreamedProduct] = []

    def timeless(
        self, eqn: JaxprEqn, values: Sequence[Value], scope: tuple[str, ...]
    ) -> list[Value]:
        if all(isinstance(v, Constant) for v in values):
            return [Constant(())] * len(eqn.outvars)
        name, path = eqn.primitive.name, "/".join(scope)
        inputs = [v.value for v in values if isinstance(v, Analog)]
        passed = _union(trail.passed for trail in inputs)
        real = [
            isinstance(v, Analog) and bool(v.value.passed or _is_floating(atom))
            for v, atom in zip(values, eqn.invars, strict=True)
        ]
        if any(real) and not any(map(_is_floating, eqn.outvars)):
            # Like a comparison, it counts where it decides on numbers.
            passed = passed or (_said(name, path),)
        elif any(real):
            operands = linear_operands(eqn, real)
            if operands is None:
                self.outside(eqn, path)
                passed = (_said(name, path),)
            elif name in PRODUCTS and passed:
                passed = (self.layer(eqn, operands, path, passed),)
        trail = Trail(passed, _union(trail.neurons for trail in inputs))
        return [Analog(trail)] * len(eqn.outvars)

    def outside(self, eqn: JaxprEqn, path: str) -> None:
        """Note an operation that is neither affine nor a neuron."""
        operation = Nonspiking(eqn.primitive.name, path)
        if operation not in self.nonspiking:
            self.nonspiking.append(operation)

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
        return Current(Trail((), (site.path,)))

    def pointwise_neuron(self, site, z, theta, fn):
        return self.neuron(site, z, theta)

    def linear(self, eqn, values, operands, path):
        name = eqn.primitive.name
        first = values[operands[0]]
        joined = values if name in EACH else [values[i] for i in operands]
        trails = [v.value for v in joined if isinstance(v, Current | Analog)]
        neurons = _union(trail.neurons for trail in trails)
        if name in PRODUCTS:
            layer = self.layer(eqn, operands, path, first.value.passed)
            return [Current(Trail((layer,), neurons))]
        passed = _union(
            v.value.passed if isinstance(v, Current) else (TIMELESS,)
            for v in joined
            if isinstance(v, Current | Analog)
        )
        return [Current(Trail(passed, neurons))] * len(eqn.outvars)

    def product(self, eqn, values, streamed, path):
        name = eqn.primitive.name
        [held] = [v for i, v in enumerate(values) if i != streamed]
        spikes, numbers = values[streamed].value.neurons, held.value.neurons
        self.products.append(StreamedProduct(name, path, spikes, numbers))
        return [Current(Trail((_said(name, path),), _union([spikes, numbers])))]

    def maximum(self, eqn, spikes, sizes):
        return Current(spikes.value)

    def decode(self, current, path):
        return Analog(Trail((), current.value.neurons))


def _union(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for several in names for name in several))


def _said(name, path) -> str:
    return f"`{name}` in {path}" if path else f"`{name}`"


def _is_floating(atom) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.floating)
