"""Fan-out: how many synapses a spike of each neuron feeds, and so what it costs."""

import dataclasses
from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from bitsnn_jax.tracing.equations import apply_equation
from bitsnn_jax.tracing.linearity import EACH, PRODUCTS
from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.reading import Reading
from bitsnn_jax.tracing.sites import Site
from bitsnn_jax.tracing.values import Analog, Current


def fan_out(
    apply_fn: ApplyFn,
    variables: Any,
    example: Any,
    *,
    nonspiking: str = "error",
    both: bool = False,
) -> OrderedDict[str, Array]:
    """Count the additions that one spike of each neuron causes in the layers it feeds.

    A synapse is a product in a convolution or a dense layer: an entry of its input, an
    entry of its output, and the weight between them, zero or not. Counts those that a
    spike reaches without passing another neuron or another such layer, along all
    branches. Respects borders, strides, groups and dilations: a corner feeds fewer
    places than the middle.

    * Scales (batch norm, the 1/k**2 of pooling) lie in the weights and cost nothing.
    * A residual sum into a neuron has no weights and does not count.
    * A sum over places (average pooling) passes each spike on. So does a maximum: a
      neuron counts for each window in which it may be the largest.
    * A spike that meets itself again (`x + x`) counts once for each way.
    * In a product of two trains the spikes that are sent count, each for the values
      that it adds.

    Args:
      apply_fn: pure, (variables, x) -> output, in inference.
      variables: pytree of arrays, the ANN's or converted ones.
      example: an input of batch 1, or `jax.ShapeDtypeStruct`s of one. The counts are
        the same for every example, so they broadcast over a batch.
      nonspiking: as in `spiking`; spikes do not reach through what is decoded.
      both: count the spikes of either train of a product, not of one that is sent while
        the other is held.

    Returns:
      path -> float32 of the shape of the neurons, [1, ...], in the order of firing and
      with the paths of `SpikeStats`. All values are whole numbers.

    Raises:
      SpikingError: an operation without a spiking form.

    >>> from bitsnn_jax import qcfs
    >>> net = lambda v, x: qcfs(qcfs(x, 1.0) @ v["w"], 1.0)
    >>> fan_out(net, {"w": jnp.zeros((2, 3))}, jnp.zeros((1, 2)))["neuron"]
    Array([[3., 3.]], dtype=float32)
    """
    program, _ = trace(apply_fn, variables, example)

    def additions(spikes, unit, variables, example):
        reading = _Additions(spikes, unit, both=both, nonspiking=nonspiking)
        read(reading, program, *map(jax.tree.leaves, (variables, example)))
        sites[:] = reading.sites
        return reading.total

    sites: list[Site] = []
    jax.eval_shape(additions, {}, 1.0, variables, example)
    spikes = OrderedDict((site.path, jnp.ones(site.shape)) for site in sites)
    # The total is linear in the spikes, so its gradient is what each spike adds.
    # `unit` is an argument because XLA would multiply constants while compiling.
    arrays = jax.tree.map(_array, (variables, example))
    return jax.jit(jax.grad(additions))(spikes, 1.0, *arrays)


def _array(leaf):
    is_shape = isinstance(leaf, jax.ShapeDtypeStruct)
    return jnp.zeros(leaf.shape, leaf.dtype) if is_shape else leaf


# The operand whose sign an operation flips: counts must not cancel.
_NEGATED = {"neg": 0, "sub": 1, "scatter-sub": 2}


class _Additions(Reading):
    """Counts what reaches each product, with ones for spikes, weights and scales.

    A current is a float32 array, since its type in the program might not hold a large
    count. It is zero behind a product, where other synapses begin.
    """

    has_tables = True
    enters_all = True

    def __init__(self, spikes, unit, *, both, nonspiking):
        super().__init__(nonspiking=nonspiking)
        self.spikes = spikes
        self.unit = unit
        self.both = both
        self.total = jnp.float32(0)

    def neuron(self, site, z, theta):
        spikes = self.spikes.get(site.path, jnp.ones(site.shape))
        return Current(spikes.astype(jnp.float32))

    def pointwise_neuron(self, site, z, theta, fn):
        return self.neuron(site, z, theta)

    def product(self, eqn, values, streamed, path):
        sent = [i for i, v in enumerate(values) if isinstance(v, Current)]
        for i in sent if self.both else [streamed]:
            self.add(eqn, values, i)
        return [Current(self.full(0, eqn.outvars[0]))]

    def add(self, eqn, values, streamed):
        """Count what each spike of an operand adds."""
        arrays = [
            v.value if i == streamed else self.full(self.unit, atom)
            for i, (v, atom) in enumerate(zip(values, eqn.invars, strict=True))
        ]
        if eqn.primitive.name in PRODUCTS:
            eqn = eqn.replace(params=eqn.params | _FLOAT32)
        [reached] = apply_equation(eqn, arrays)
        self.total += jnp.sum(reached)

    def plain(self, eqn, values):
        # What was decoded has the type of counts, not that of the program.
        pairs = zip(values, eqn.invars, strict=True)
        values = [
            dataclasses.replace(v, value=v.value.astype(atom.aval.dtype))
            if isinstance(v, Analog)
            else v
            for v, atom in pairs
        ]
        return super().plain(eqn, values)

    def decode(self, current, path):
        return Analog(jnp.zeros_like(current.value))

    def linear(self, eqn, values, operands, path):
        name = eqn.primitive.name
        out = eqn.outvars[0].aval
        if name == "convert_element_type":
            return [Current(values[0].value)]
        if name in EACH and name not in PRODUCTS:
            return [Current(jnp.broadcast_to(values[operands[0]].value, out.shape))]
        if name in PRODUCTS:
            return self.product(eqn, values, operands[0], path)
        arrays = [v.value for v in values]
        for i in operands:
            if not isinstance(values[i], Current):
                arrays[i] = self.full(0, eqn.invars[i])
        if name in _NEGATED:
            arrays[_NEGATED[name]] = -arrays[_NEGATED[name]]
        return [Current(y) for y in apply_equation(eqn, arrays)]

    def full(self, value, variable) -> Array:
        return jnp.full(variable.aval.shape, value, jnp.float32)

    def maximum(self, eqn, spikes, sizes):
        # A neuron may be the largest in each of its windows, so this is a sum over
        # places.
        if eqn.primitive.name == "reduce_max":
            return Current(jnp.sum(spikes.value, eqn.params["axes"]))
        window = {k: v for k, v in eqn.params.items() if k in _WINDOW}
        summed = lax.reduce_window(spikes.value, 0.0, lax.add, **window)
        return Current(summed)


_FLOAT32 = {"preferred_element_type": jnp.dtype("float32")}
_WINDOW = (
    "window_dimensions window_strides padding base_dilation window_dilation"
).split()
