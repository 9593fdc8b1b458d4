"""Analog inputs: convolutions and dense layers that no spikes, but currents feed."""

from collections.abc import Iterable
from typing import NamedTuple

from jax.extend.core import ClosedJaxpr

from bitsnn_jax.linear import EACH, PRODUCTS, moved_sizes
from bitsnn_jax.program import Analog, Constant, Current, Reading, read, unique

TIMELESS = "a value without time"


class AnalogInput(NamedTuple):
    """A layer that multiplies real numbers at each step, where others add weights.

    `sources` are the layers that the numbers come from, without neurons in between.
    `shape` is that of the layer's input, batch included.
    """

    path: str
    operation: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]


def analog_inputs(
    program: ClosedJaxpr, variables: Iterable, x: Iterable, *, nonspiking: str = "error"
) -> list[AnalogInput]:
    """Convolutions and dense layers of a traced program that analog values feed.

    A current is analog when, since the last neurons, it has passed a convolution or a
    dense layer, or has met a value without time: one that passed no neurons on its way
    from the input, or was decoded. Scales and constants on the way (batch norm, bias)
    change nothing about that.

    Not analog are spikes that were moved, padded, concatenated, scaled, pooled or added
    up: a layer is linear, so a sum of spike trains into it is several trains into the
    same synapses. Nor is what the layers see that come before all neurons.

    Args:
      program: of `trace`.
      variables: flat list, looked at for its length alone; so is x.
      nonspiking: as in `spiking`.

    >>> import jax.numpy as jnp
    >>> from bitsnn_jax import qcfs
    >>> from bitsnn_jax.program import trace
    >>> w = jnp.eye(2)
    >>> program, _ = trace(lambda w, x: qcfs(x, 1.0) @ w @ w, w, w)
    >>> analog_inputs(program, [w], [w])[0][:3]
    ('dot_general@2', 'dot_general', ('dot_general',))
    """
    reading = _Passed(nonspiking=nonspiking)
    read(reading, program, [Constant(()) for _ in variables], [() for _ in x])
    return reading.found


class _Passed(Reading):
    """Which layers a current has passed since the last neurons: a tuple of paths.

    Nothing is computed.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.layers: list[str] = []
        self.found: list[AnalogInput] = []

    def plain(self, eqn, values):
        constant = all(isinstance(v, Constant) for v in values)
        return [Constant(()) if constant else Analog(())] * len(eqn.outvars)

    def neuron(self, site, z, theta):
        return Current((), site.sizes)

    def linear(self, eqn, values, operands, path):
        name = eqn.primitive.name
        first = values[operands[0]]
        if name in PRODUCTS:
            # As with neurons, the class of the outermost module says nothing.
            layer = unique(path.partition("/")[2] or path or name, self.layers)
            self.layers.append(layer)
            if first.value:
                shape = eqn.invars[operands[0]].aval.shape
                self.found.append(AnalogInput(layer, name, first.value, shape))
            return [Current((layer,))]
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
