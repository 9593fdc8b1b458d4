"""A program run with the neurons of a method, layer by layer or all layers at a step.

Three readings. In the first two, everything between two layers of neurons is done at
each step on what is sent, with its constants whole, so that the output is a mean over
time:

* `_EachStep`: time outermost. One pass through the program is one step of the network;
  membranes are carried along. The output can be read at every step on the way.
* `_LayerByLayer`: each layer has the whole train of the one before.
* `_SoFar`: as the first, but each layer sees the sum of all that was sent before, and
  the output is that sum. It is for `SumNeuron`.

The first two give the same for neurons that only look back, unless the program has a
product of two trains or, with nonspiking="decode", a function that is not linear in
them (softmax, layer norm). Both need the value of a train. Layer by layer that is its
mean over time, for which the next layer waits. At each step it is the mean so far, so
that no layer waits and the early steps of a layer see rough values. In a product one
train is sent and each of its spikes adds the value of the other.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from bitsnn_jax.comparators.layer import (
    Layer,
    Sent,
    StepNeuron,
    SumNeuron,
    TrainNeuron,
)
from bitsnn_jax.tracing.equations import apply_equation
from bitsnn_jax.tracing.program import (
    Analog,
    ApplyFn,
    Current,
    Reading,
    Value,
    read,
    trace,
)

Found = Mapping[str, Mapping[str, Any]]  # for each path, what a method has found


class Simulated(NamedTuple):
    """What came out, for each step t = 1..T at which the output may be read.

    Attributes:
      outputs: [T, n, ...] in the place of each array that the program returns: the mean
        up to and with t, or the value so far. Layer by layer [1, n, ...], that at T,
        unless neurons can be read on the way.
      spikes: path -> float32 [T], spikes at that step, over the batch; those of the
        warm-up are all in the first, those of steps after T in the last.
      synaptic_operations: float32 [T], the same weighted by each neuron's fan-out; zero
        if the fan-out was not given.
    """

    outputs: Any
    spikes: OrderedDict[str, Array]
    synaptic_operations: Array


SimulateFn = Callable[[Any, Any], Simulated]


def simulate(
    apply_fn: ApplyFn,
    neuron: StepNeuron | TrainNeuron,
    *,
    steps: int,
    found: Found | None = None,
    fan_out: Mapping[str, Array] | None = None,
    by_sum: bool = True,
    nonspiking: str = "error",
    precision: Any = lax.Precision.HIGHEST,
) -> SimulateFn:
    """Run a program with other neurons at its QCFS sites.

    Args:
      apply_fn: pure, (variables, x) -> output; its activations are `qcfs`.
      neuron: the neurons of the method.
      steps: T, at least 1; without the warm-up.
      found: what the method's `prepare` returned.
      fan_out: of `bitsnn_jax.tracing.fan_out.fan_out`, for synaptic operations.
      by_sum: apply synapses once, to the mean train, where neurons look only at the sum
        of their currents: T times as fast, and the same up to rounding. False simulates
        each step of every synapse.
      nonspiking: "decode" to compute what is not linear on values of trains.
      precision: of convolutions and products that ask for none themselves.

    Returns:
      A function to be wrapped in `jax.jit`.

    Raises:
      ValueError: steps below 1; when called, neurons that send another number of steps;
        SpikingError, when called, as in `spiking`.

    >>> from bitsnn_jax import qcfs
    >>> from bitsnn_jax.comparators.qcfs import neuron
    >>> net = lambda v, x: qcfs(x, v["theta"])
    >>> snn = simulate(net, neuron(), steps=4)
    >>> outputs = snn({"theta": jnp.array(1.0)}, jnp.array([[0.75]])).outputs
    >>> [round(float(mean), 2) for mean in outputs[:, 0, 0]]
    [1.0, 1.0, 0.67, 0.75]
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    options = {
        "found": found or {},
        "fan_out": fan_out,
        "precision": precision,
        "nonspiking": nonspiking,
    }
    if isinstance(neuron, StepNeuron):
        run = _each_step
    else:
        run, neuron = _layer_by_layer, neuron._replace(by_sum=neuron.by_sum and by_sum)
    return lambda variables, x: run(apply_fn, neuron, steps, options, variables, x)


def _each_step(apply_fn, neuron, steps, options, variables, x) -> Simulated:
    program, shapes = trace(apply_fn, variables, x)
    inputs = (jax.tree.leaves(variables), jax.tree.leaves(x))
    reading_of = _SoFar if isinstance(neuron, SumNeuron) else _EachStep
    # Nothing is sent yet: XLA drops the operations that would see only zeros.
    starting = reading_of(neuron, None, 0, **options)
    are_means = [isinstance(v, Current) for v in read(starting, program, *inputs)]

    def step(carried, t):
        reading = reading_of(neuron, carried, t, **options)
        results = [each.value for each in read(reading, program, *inputs)]
        return reading.carried, (results, reading.spikes, reading.operations)

    carried, before = starting.carried, None
    if neuron.warm_up:
        carried, (_, *before) = lax.scan(step, carried, jnp.arange(neuron.warm_up))
    times = neuron.warm_up + jnp.arange(steps)
    _, (outputs, spikes, operations) = lax.scan(step, carried, times)
    if before is not None:
        spikes, operations = jax.tree.map(
            lambda early, late: late.at[0].add(early.sum()),
            tuple(before),
            (spikes, operations),
        )
    outputs = [
        _means(each) if is_mean else each
        for each, is_mean in zip(outputs, are_means, strict=True)
    ]
    return Simulated(_tree_of(shapes, outputs), spikes, operations)


def _tree_of(shapes, outputs) -> Any:
    """Return outputs as the program does."""
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs)


def _means(outputs) -> Array:
    """Average the first t, for t = 1..T."""
    counts = jnp.arange(1, len(outputs) + 1, dtype=outputs.dtype)
    return jnp.cumsum(outputs, 0) / counts.reshape(-1, *(1,) * (outputs.ndim - 1))


def _layer_by_layer(apply_fn, neuron, steps, options, variables, x) -> Simulated:
    program, shapes = trace(apply_fn, variables, x)
    reading = _LayerByLayer(neuron, steps, **options)
    inputs = (jax.tree.leaves(variables), jax.tree.leaves(x))
    results = read(reading, program, *inputs)

    def read_out(output):
        if not isinstance(output, Current):
            return output.value[None]
        if neuron.on_the_way and not reading.waits:
            return _means(output.value[:steps])
        return output.value[:steps].mean(0, keepdims=True)

    outputs = _tree_of(shapes, [read_out(each) for each in results])
    operations = jnp.broadcast_to(reading.operations, (reading.length,))
    spikes, operations = jax.tree.map(
        lambda counts: counts[:steps].at[-1].add(counts[steps:].sum()),
        (reading.spikes, operations),
    )
    return Simulated(outputs, spikes, operations)


class _Simulation(Reading):
    """What the readings share: layers, counts, products, precision."""

    has_tables = True  # a function in front of a code is one, and not its operations

    def __init__(self, neuron, *, found, fan_out, precision, nonspiking):
        super().__init__(nonspiking=nonspiking)
        self.method = neuron
        self.found = found
        self.fan_out = fan_out
        self.precision = precision
        self.spikes = OrderedDict()
        self.operations = jnp.float32(0)

    def layer(self, site, theta):
        return Layer.of(site, theta.value, self.found)

    def product(self, eqn, values, streamed, path):
        """Send one operand; each of its spikes adds the value of the other."""
        values = [
            self.decode(v, path) if isinstance(v, Current) and i != streamed else v
            for i, v in enumerate(values)
        ]
        return self.linear(eqn, values, [streamed], path)

    def pointwise_neuron(self, site, z, theta, fn):
        """Feed neurons the function of what a current is worth."""
        if not (self.decodes and isinstance(z, Current)):
            return None
        value = self.decode(z, site.path).value
        return self.neuron(site, Analog(fn(value[None])[0]), theta)

    def count(self, site, spikes) -> None:
        """Add up spikes [(T,) n, ...].

        The batch is summed by additions, whose loop XLA vectorises on CPUs. A reduction
        is one chain there, and took as long as half an ANN pass.
        """
        batch = spikes.ndim - len(site.shape)
        examples = [
            lax.index_in_dim(spikes, i, batch, keepdims=False).astype(jnp.float32)
            for i in range(site.shape[0])
        ]
        each = reduce(jnp.add, examples)
        each = each.reshape(*each.shape[:batch], -1)
        ones = jnp.ones(each.shape[-1])
        synapses = 0 * ones if self.fan_out is None else self.fan_out[site.path].ravel()
        counts = each @ jnp.stack([ones, synapses], -1)
        self.spikes[site.path] = counts[..., 0]
        self.operations += counts[..., 1]


class _Carried(NamedTuple):
    """What goes from one step to the next: of layers, and sums of decoded currents."""

    states: OrderedDict[str, Any]
    sums: list[Array]


class _EachStep(_Simulation):
    """One step of all layers. A current is what flows in this step.

    Given nothing of the step before, it makes the initial states and sends nothing.
    """

    def __init__(self, neuron, before: _Carried | None, t, **options):
        super().__init__(neuron, **options)
        self.before = before
        self.carried = _Carried(OrderedDict(), [])
        self.t = t

    def neuron(self, site, z, theta):
        layer = self.layer(site, theta)
        if self.before is None:
            self.carried.states[site.path] = self.method.start(layer)
            return self.sent(jnp.zeros(site.shape, z.value.dtype))
        state = self.before.states[site.path]
        state, sent = self.method.step(layer, state, z.value, self.t)
        self.carried.states[site.path] = state
        self.count(site, sent.spikes)
        return self.sent(sent.value.astype(z.value.dtype))

    def sent(self, value) -> Value:
        return Current(value)

    def linear(self, eqn, values, operands, path):
        arrays = [v.value for v in values]
        return [Current(y) for y in self.bind(eqn, arrays)]

    def maximum(self, eqn, spikes, sizes):
        # The maximum of what is sent in this step, as all rate coded networks take it.
        # It is not the maximum of rates, and so not exact.
        [largest] = apply_equation(eqn, [spikes.value])
        return Current(largest)

    def decode(self, current, path):
        """Return the mean so far: of the steps since the warm-up, once that is over."""
        sums = self.carried.sums
        if self.before is None:
            sums.append(jnp.zeros_like(current.value))
            return Analog(current.value)
        begins = self.t == self.method.warm_up
        sums.append(jnp.where(begins, 0, self.before.sums[len(sums)]) + current.value)
        late = self.t >= self.method.warm_up
        count = self.t + 1 - jnp.where(late, self.method.warm_up, 0)
        return Analog(sums[-1] / count.astype(current.value.dtype))


class _SoFar(_EachStep):
    """One step of all layers. Values are functions of all that was sent before.

    What flows in a step is the change of such a value, and is not formed: the neurons
    are told the value. It is that of the ANN when the sums are its activations.
    """

    has_tables = False  # functions are computed as the ANN computes them

    def sent(self, value) -> Value:
        return Analog(value)


class _LayerByLayer(_Simulation):
    """All steps of one layer after the other. A current is a train [T, ...].

    If the neurons look at sums only, it is the mean of the train, [1, ...].
    """

    def __init__(self, neuron, steps, **options):
        super().__init__(neuron, **options)
        self.steps = steps
        self.length = self.method.length(steps)
        self.waits = False  # for whole trains, between layers

    def neuron(self, site, z, theta):
        train = z.value if isinstance(z, Current) else z.value[None]
        if self.method.by_sum:
            # XLA would repeat a sum over steps for each spike of the train.
            currents = self.length * train
        else:
            currents = jnp.broadcast_to(train, (self.length, *site.shape))
        sent = self.method.fire(self.layer(site, theta), currents)
        if len(sent.spikes) != self.length:
            raise ValueError(
                f"{site.path} must send {self.length} steps, as many as are simulated; "
                f"these neurons send {len(sent.spikes)}"
            )
        self.count(site, sent.spikes)
        value = sent.value.astype(z.value.dtype)
        if self.method.by_sum:
            # A product, because XLA would repeat a sum in each operation that uses it.
            ones = jnp.ones((1, len(value)), value.dtype)
            value = jnp.tensordot(ones, value, 1, precision=lax.Precision.HIGHEST)
            value /= self.length
        return Current(value)

    def linear(self, eqn, values, operands, path):
        timed = [isinstance(v, Current) for v in values]

        def step(now):
            now = iter(now)
            pairs = zip(values, timed, strict=True)
            return self.bind(eqn, [next(now) if on else v.value for v, on in pairs])

        trains = [v.value for v, on in zip(values, timed, strict=True) if on]
        return [Current(train) for train in lax.map(step, trains)]

    def maximum(self, eqn, spikes, sizes):
        def largest(step):
            return apply_equation(eqn, [step])[0]

        # Means have the order of the values that the trains stand for.
        maximum = lax.map if self.method.by_sum else self.method.maximum
        return Current(maximum(largest, spikes.value))

    def decode(self, current, path):
        self.waits = True
        return Analog(current.value.mean(0))


__all__ = ["Found", "Sent", "SimulateFn", "Simulated", "simulate"]
