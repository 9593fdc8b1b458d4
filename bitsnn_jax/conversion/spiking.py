"""The transformation: a program of QCFS activations, read as a spiking network."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax import export, lax
from jaxtyping import Array

from bitsnn_jax.numerics.neurons import fire_bits, integrate
from bitsnn_jax.numerics.qcfs import grid_codes, qcfs, step_size
from bitsnn_jax.numerics.spikes import check_steps, pack, plane_counts, weights
from bitsnn_jax.numerics.stored import stored
from bitsnn_jax.tracing.linearity import moved_sizes
from bitsnn_jax.tracing.program import (
    Analog,
    ApplyFn,
    Current,
    Reading,
    apply_equation,
    at_precision,
    read,
    trace,
)

BIAS_SHIFTS = ("parameters", "auto")
MODES = ("stepped", "fused")


@flax.struct.dataclass
class SpikeStats:
    """Spikes counted, by neuron layer in the order of firing. Counts add up: a + b.

    Attributes:
      spikes: path -> int32 [T], spikes at each step, over everything the program saw.
      neurons: path -> int32 [], neurons that could have fired (batch included). Sums
        over many batches outgrow int32: add them on the host, as `evaluate` does.
    """

    spikes: OrderedDict[str, Array]  # a plain dict would leave jit sorted by name
    neurons: OrderedDict[str, Array]

    @property
    def spikes_per_neuron(self) -> Array:
        """The paper's spiking activity: spikes a neuron emits in the whole window."""
        # In floats: a large batch of a large network has more than 2**31 neurons.
        spikes = sum((s.sum(dtype=float) for s in self.spikes.values()), jnp.zeros(()))
        return spikes / sum(n.sum(dtype=float) for n in self.neurons.values())

    def __add__(self, other: "SpikeStats") -> "SpikeStats":
        return jax.tree.map(jnp.add, self, other)


# `jax.export` writes the type of a result into its file.
export.register_pytree_node_serialization(
    SpikeStats,
    serialized_name="bitsnn_jax.SpikeStats",
    serialize_auxdata=lambda _: b"",
    deserialize_auxdata=lambda _: (),
)


def spiking(
    apply_fn: ApplyFn,
    *,
    steps: int,
    mode: str = "stepped",
    bias_shift: str = "parameters",
    nonspiking: str = "error",
    precision: Any = lax.Precision.HIGHEST,
) -> Callable[[Any, Any], tuple[Any, SpikeStats]]:
    """The spiking network of a program whose activations are `qcfs`.

    Each QCFS site becomes a layer of bit-serial integrate-and-fire neurons, Eq. (9) and
    (10), with levels 2**T - 1 and the threshold that was trained; everything between
    two layers is applied to each step's spikes. The output is its sum over time.

    * "stepped" simulates every spike, layer by layer. Takes converted variables (see
      `convert`), in which the biases have been shifted by Proposition I.
    * "fused" computes the same codes in one pass, by Eq. (2) with levels 2**T - 1, and
      counts their bits. Takes the variables of the ANN. `verify` proves the two equal.

    A value that has passed no neuron is analog: it enters a layer of neurons as charge,
    once. A maximum over spikes (max pooling) is exact, since codes are monotone. The
    function works under jit, vmap, pmap and sharding; wrap it in `jax.jit`.

    Gradient: "fused" has that of `qcfs`. "stepped" has none, since a spike is a step:
    gradients through it are zero.

    Args:
      apply_fn: pure, (variables, x) -> output; any pytrees.
      steps: T, at least 1; at most 24 in float32.
      mode: "stepped" or "fused".
      bias_shift: "parameters": the variables carry the shift. "auto": they are the
        ANN's, and each constant that meets a current is divided by T on the way,
        g_c(x) = g(x) - (1 - 1/T) g(0); for programs that `convert` cannot change.
      nonspiking: what to do with an operation that is not linear in the spikes:
        "error", or "decode" to compute it on the sum over time.
      precision: of convolutions and products that ask for none themselves.

    Returns:
      A function (variables, x) -> (output, SpikeStats).

    Raises:
      ValueError: unknown mode or option, steps out of range; SpikingError, when called,
        for an operation without a spiking form, with its module.

    >>> net = lambda v, x: qcfs(x @ v["w"], v["theta"]) @ v["w"]
    >>> variables = {"w": jnp.eye(2), "theta": jnp.array(15.0)}
    >>> snn = spiking(net, steps=4)
    >>> out, stats = snn(variables, jnp.array([[5.2, 20.0]]))
    >>> out, stats.spikes["neuron"]
    (Array([[ 5., 15.]], dtype=float32), Array([1, 2, 1, 2], dtype=int32))
    """
    check_steps(steps)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")

    def snn_fn(variables, x):
        options = {"steps": steps, "nonspiking": nonspiking, "precision": precision}
        if mode == "fused":
            reading = OneShot(**options)
        else:
            reading = Stepped(bias_shift=bias_shift, **options)
        output = run(reading, apply_fn, variables, x)
        if mode == "stepped":
            output = lax.stop_gradient(output)
        return output, reading.stats()

    return snn_fn


def run(reading: "TimedReading", apply_fn: ApplyFn, variables: Any, x: Any) -> Any:
    """The output of `apply_fn(variables, x)` under a reading."""
    program, shapes = trace(apply_fn, variables, x)
    results = read(reading, program, jax.tree.leaves(variables), jax.tree.leaves(x))
    values = [
        (reading.decode(v, "the output") if isinstance(v, Current) else v).value
        for v in results
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), values)


def snn_levels(levels: int, steps: int) -> int:
    """theta / delta at T steps: 2**T - 1, except that levels = 2**T keeps its own grid.

    With Q = 2**T to the letter of Eq. (2), the top code does not fit T bits.
    """
    return levels if levels == 2**steps else 2**steps - 1


class TimedReading(Reading):
    """What the readings at T steps share: the grid, the counts, the precision."""

    def __init__(self, *, steps, nonspiking="error", precision=lax.Precision.HIGHEST):
        super().__init__(nonspiking=nonspiking)
        self.steps = steps
        self.precision = precision
        self.counts: list[Array] = []

    def bind(self, eqn, arrays):
        return super().bind(at_precision(eqn, self.precision), arrays)

    def grid(self, site, z_dtype, theta):
        check_steps(self.steps, z_dtype)
        return step_size(theta, snn_levels(site.levels, self.steps))

    def stats(self):
        paths = [site.path for site in self.sites]
        neurons = [jnp.int32(math.prod(site.shape)) for site in self.sites]
        return SpikeStats(
            OrderedDict(zip(paths, self.counts, strict=True)),
            OrderedDict(zip(paths, neurons, strict=True)),
        )


class OneShot(TimedReading):
    """The re-quantised ANN: every value analog, the bits of each code counted.

    `saturate` cuts codes to T bits, as the neurons do; without it this is the ANN.
    """

    def __init__(self, *, saturate=True, **options):
        super().__init__(**options)
        self.saturate = saturate

    def neuron(self, site, z, theta):
        levels = snn_levels(site.levels, self.steps)
        top = 2**self.steps - 1
        theta, delta = theta.value, self.grid(site, z.value.dtype, theta.value)
        if levels > top and self.saturate:
            theta, levels = delta * top, top
        a = stored(qcfs(z.value, theta, levels=levels))
        self.observe(site, z.value, a, delta)
        return Analog(a)

    def observe(self, site, z, a, delta):
        code = jnp.minimum(grid_codes(a, delta), 2**self.steps - 1)
        self.counts.append(plane_counts(code.astype(jnp.uint32), steps=self.steps))


class Spikes(NamedTuple):
    """A layer's spike train, one code a neuron; what a current of spikes is made of.

    The bits of `codes` are s(1)..s(T), most significant first. Keeping them together
    stores T steps in the space of one.
    """

    codes: Array
    delta: Array  # [], or as many axes as codes, each of size 1 or theirs

    def charges(self, steps):
        """What each step brings downstream: delta 2**(T-t) s(t)."""
        bits = [(self.codes >> (steps - t)) & 1 == 1 for t in range(1, steps + 1)]
        zero = jnp.zeros((), self.delta.dtype)
        return [
            jnp.where(bit, self.delta * weight, zero)
            for bit, weight in zip(bits, weights(steps), strict=True)
        ]


class Stepped(TimedReading):
    """The spiking network. A current is a list of T arrays, or a layer's `Spikes`."""

    def __init__(self, *, bias_shift="parameters", **options):
        super().__init__(**options)
        if bias_shift not in BIAS_SHIFTS:
            raise ValueError(
                f"bias_shift must be one of {', '.join(BIAS_SHIFTS)}, "
                f"got {bias_shift!r}"
            )
        self.shifts = bias_shift == "auto"

    def neuron(self, site, z, theta):
        theta = theta.value
        if isinstance(z, Current):
            currents = self.charges(z)
            delta = self.grid(site, currents[0].dtype, theta)
            half = jnp.broadcast_to(delta / 2, site.shape)
            membrane = integrate(jnp.stack(currents), half)
        else:  # the first layers see the image once
            delta = self.grid(site, z.value.dtype, theta)
            membrane = z.value + delta / 2
        spikes = fire_bits(membrane, delta, steps=self.steps)
        code = pack(spikes)
        self.observe(site, membrane, spikes, code, delta)
        return Current(Spikes(code, delta), site.sizes)

    def observe(self, site, membrane, spikes, code, delta):
        self.counts.append(plane_counts(code, steps=self.steps))

    def charges(self, value):
        """What a value brings at each step."""
        if isinstance(value, Current):
            is_train = isinstance(value.value, Spikes)
            return value.value.charges(self.steps) if is_train else value.value
        # An analog value is charge that enters once; a constant enters at each step,
        # for conversion has made it right, unless that is left to be done here.
        once = isinstance(value, Analog) or self.shifts
        return [value.value / self.steps if once else value.value] * self.steps

    def linear(self, eqn, values, operands, path):
        first = values[operands[0]]
        sizes = moved_sizes(eqn, getattr(first, "sizes", None))
        if sizes is not None:
            return [Current(train, sizes) for train in self.moved(eqn, values)]
        timed = {i: self.charges(values[i]) for i in operands}
        columns = [
            self.bind(
                eqn,
                [timed[i][t] if i in timed else v.value for i, v in enumerate(values)],
            )
            for t in range(self.steps)
        ]
        return [Current(list(steps)) for steps in zip(*columns, strict=True)]

    def moved(self, eqn, values):
        codes, delta = values[0].value
        if eqn.primitive.name == "convert_element_type":
            return [Spikes(codes, delta.astype(eqn.params["new_dtype"]))]
        moved = apply_equation(eqn, [codes, *(v.value for v in values[1:])])
        return [Spikes(c, delta) for c in moved]

    def maximum(self, eqn, spikes, sizes):
        codes, delta = spikes.value
        [largest] = apply_equation(eqn, [codes])
        return Current(Spikes(largest, delta.reshape(sizes)), sizes)

    def decode(self, current, path):
        return Analog(sum(self.charges(current)))
