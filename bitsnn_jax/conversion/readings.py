"""The readings at T steps: the re-quantised ANN, and the network of spikes."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax import export, lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array

from bitsnn_jax.numerics.codings import Coding, coding_of
from bitsnn_jax.numerics.neurons import integrate
from bitsnn_jax.numerics.qcfs import codes, grid_codes, qcfs, step_size
from bitsnn_jax.numerics.spikes import check_steps, code_type
from bitsnn_jax.numerics.stored import stored
from bitsnn_jax.numerics.tables import (
    fire_table,
    known_turning_point,
    threshold_table,
    turning_point,
)
from bitsnn_jax.tracing.equations import apply_equation, shape_of
from bitsnn_jax.tracing.program import (
    Analog,
    ApplyFn,
    Current,
    Reading,
    Value,
    read,
    trace,
)

BIAS_SHIFTS = ("parameters", "auto")


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
        """Return the paper's spiking activity: spikes a neuron emits in all T steps."""
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


def run(reading: "TimedReading", apply_fn: ApplyFn, variables: Any, x: Any) -> Any:
    """Return the output of `apply_fn(variables, x)` under a reading."""
    program, shapes = trace(apply_fn, variables, x)
    inputs = jax.tree.leaves(variables), jax.tree.leaves(x)
    reading.look_ahead(program, *inputs)
    values = decoded(reading, read(reading, program, *inputs))
    return jax.tree.unflatten(jax.tree.structure(shapes), values)


def decoded(reading: Reading, results: Sequence[Value]) -> list[Any]:
    """Take the outputs out of time."""
    return [
        (reading.decode(v, "the output") if isinstance(v, Current) else v).value
        for v in results
    ]


def snn_levels(levels: int, steps: int) -> int:
    """Return theta / delta at T steps: 2**T - 1, but 2**T where those are the levels.

    With Q = 2**T to the letter of Eq. (2), the top code does not fit T bits.
    """
    return levels if levels == 2**steps else 2**steps - 1


class TimedReading(Reading):
    """What the readings at T steps share: the grid, the counts, the precision."""

    def __init__(
        self,
        *,
        steps,
        nonspiking="error",
        precision=lax.Precision.HIGHEST,
        coding="bits",
    ):
        super().__init__(nonspiking=nonspiking)
        self.steps, self.coding = steps, coding_of(coding)
        self.times = self.coding.times(steps)
        self.precision = precision
        self.counts: list[Array] = []

    def look_ahead(self, program, variables, x):
        """Learn from the program what is to come, before it is read."""

    def grid(self, site, z_dtype, theta):
        check_steps(self.steps, z_dtype, before=self.coding.before)
        return step_size(theta, snn_levels(site.levels, self.steps))

    def count(self, code):
        self.counts.append(self.coding.counts(code, steps=self.steps))

    def stats(self):
        paths = [site.path for site in self.sites]
        neurons = [jnp.int32(math.prod(site.shape)) for site in self.sites]
        return SpikeStats(
            OrderedDict(zip(paths, self.counts, strict=True)),
            OrderedDict(zip(paths, neurons, strict=True)),
        )


class OneShot(TimedReading):
    """The re-quantised ANN: every value is analog, the bits of codes are counted.

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
        self.count(code.astype(jnp.uint32))


class Spikes(NamedTuple):
    """A layer's spike train, one code a neuron; what a current of spikes is made of.

    The bits of `codes` are s(1)..s(T), most significant first, and tell signed digits
    too. Keeping them together stores T steps in the space of one.
    """

    codes: Array
    delta: Array  # [], or as many axes as codes, each of size 1 or theirs

    def charge(self, place: Any, coding: Coding) -> Array:
        """Return what the step t = T - place brings downstream: delta 2**(T-t) s(t)."""
        worth = self.delta * jnp.asarray(1 << place, self.delta.dtype)
        return coding.digit(self.codes, place).astype(worth.dtype) * worth


def moved_deltas(
    eqn: JaxprEqn, values: Sequence[Value], sizes: Sequence[tuple[int, ...]]
) -> list[Array]:
    """Return the step sizes of trains after they were moved, joined or padded.

    Args:
      eqn: the operation.
      values: its operands, trains as `Spikes`.
      sizes: of the thresholds of each result.
    """
    delta = values[0].value.delta
    if sizes[0] == ():
        return [delta] * len(sizes)
    if eqn.primitive.name == "pad":  # with neurons that never fire
        widths = zip(delta.shape, eqn.params["padding_config"], strict=True)
        config = [width if n > 1 else (0, 0, 0) for n, width in widths]
        return [lax.pad(delta, jnp.ones((), delta.dtype), config)]
    full = [
        jnp.broadcast_to(v.value.delta, shape_of(atom))
        if isinstance(v, Current)
        else v.value
        for v, atom in zip(values, eqn.invars, strict=True)
    ]
    return [
        delta[tuple(slice(n) for n in size)]
        for delta, size in zip(apply_equation(eqn, full), sizes, strict=True)
    ]


class Stepped(TimedReading):
    """The spiking network. A current is a list of T arrays, or a layer's `Spikes`."""

    has_tables = True
    enters_all = True  # it has no gradient to lose

    def __init__(self, *, bias_shift="parameters", **options):
        super().__init__(**options)
        if bias_shift not in BIAS_SHIFTS:
            raise ValueError(
                f"bias_shift must be one of {', '.join(BIAS_SHIFTS)}, "
                f"got {bias_shift!r}"
            )
        self.shifts = bias_shift == "auto"

    def neuron(self, site, z, theta):
        delta = self.grid(site, theta.value.dtype, theta.value)
        if isinstance(z, Current):
            membrane = self.collect(z, jnp.broadcast_to(delta / 2, site.shape))
        else:  # the first layers see the image once
            membrane = z.value + delta / 2
        code = self.fire(membrane, delta)
        self.observe(site, membrane, code, delta)
        return Current(Spikes(code, delta))

    def pointwise_neuron(self, site, z, theta, fn):
        """Fire by the table of thresholds that fn makes."""
        theta, delta = theta.value, self.grid(site, theta.value.dtype, theta.value)
        levels, top = snn_levels(site.levels, self.steps), 2**self.steps - 1

        def code(candidates):
            values = fn(candidates).astype(theta.dtype)
            return jnp.minimum(codes(values, theta, levels=levels), top)

        sizes = jnp.broadcast_shapes(fn.sizes, site.sizes)
        if fn.is_known:
            turn = known_turning_point(fn, dtype=fn.dtype)
        else:
            turn = turning_point(fn, sizes=fn.sizes, dtype=fn.dtype)
        table = threshold_table(code, turn, levels=top, sizes=sizes, dtype=fn.dtype)
        is_current = isinstance(z, Current)
        start = jnp.zeros(site.shape, fn.dtype)
        membrane = self.collect(z, start) if is_current else z.value
        fired = stored(self.fire_table(membrane, table))
        self.observe(site, fn(membrane[None])[0] + delta / 2, fired, delta)
        return Current(Spikes(fired, delta))

    def fire_table(self, membrane, table):
        return fire_table(
            membrane, table, steps=self.steps, dtype=code_type(self.steps)
        )

    def collect(self, current, start):
        """Add up a current over time, from `start` on."""
        return integrate(jnp.stack(self.charges(current)), start)

    def fire(self, membrane, delta):
        return self.coding.fire(membrane, delta, steps=self.steps)

    def observe(self, site, membrane, code, delta):
        self.count(code)

    def charges(self, value):
        """Return what a value brings at each step."""
        if not isinstance(value, Current):
            return [self.held(value)] * self.times
        if isinstance(value.value, Spikes):
            places = reversed(range(self.times))
            return [value.value.charge(place, self.coding) for place in places]
        return value.value

    def held(self, value):
        """Return what a value without time brings at each step."""
        # An analog value is charge that enters once; a constant enters at each step,
        # for conversion has made it right, unless that is left to be done here.
        if isinstance(value, Analog) or self.shifts:
            return value.value / self.times
        if self.times == self.steps:
            return value.value
        return value.value * (self.steps / self.times)  # it was shifted for T steps

    def linear(self, eqn, values, operands, path):
        timed = {i: self.charges(values[i]) for i in operands}
        columns = [
            self.bind(
                eqn,
                [timed[i][t] if i in timed else v.value for i, v in enumerate(values)],
            )
            for t in range(self.times)
        ]
        return [Current(list(steps)) for steps in zip(*columns, strict=True)]

    def product(self, eqn, values, streamed, path):
        """Stream one operand; the sum of the other is held like a weight."""
        values = [
            self.decode(v, path) if isinstance(v, Current) and i != streamed else v
            for i, v in enumerate(values)
        ]
        return self.linear(eqn, values, [streamed], path)

    def moved(self, eqn, values, sizes, path):
        """Move codes as the values that they stand for, and step sizes with them."""
        name, parts = eqn.primitive.name, [v.value for v in values]
        trains = [part for part in parts if isinstance(part, Spikes)]
        if name == "convert_element_type" or name in ("mul", "div"):
            [(codes, delta)] = trains
            scaled = [delta if part is trains[0] else part for part in parts]
            if name == "convert_element_type":
                delta = delta.astype(eqn.params["new_dtype"])
            else:
                factor = jnp.ravel(next(p for p in scaled if p is not delta))[0]
                delta = delta * factor if name == "mul" else delta / factor
            return [Current(Spikes(codes, delta))]
        codes = [part.codes if isinstance(part, Spikes) else part for part in parts]
        if name == "pad":
            codes[1] = jnp.zeros((), codes[0].dtype)
        moved = apply_equation(eqn, codes)
        deltas = moved_deltas(eqn, values, sizes)
        return [Current(Spikes(*pair)) for pair in zip(moved, deltas, strict=True)]

    def maximum(self, eqn, spikes, sizes):
        codes, delta = spikes.value
        [largest] = apply_equation(eqn, [codes])
        return Current(Spikes(largest, delta.reshape(sizes)))

    def decode(self, current, path):
        return Analog(sum(self.charges(current)))
