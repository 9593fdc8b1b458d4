"""One traced program, many interpretations.

A network is written once, as a function of its variables and its input. `trace` records
it; `read` walks the record and hands each operation to a `Reading`, which decides what
a value is and what a QCFS site becomes. The spiking network, its certificate and the
conversion of its biases are three readings of the same program.

Which operation is handed to which method of the reading is the table `RULES`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal
from jax.interpreters.partial_eval import dce_jaxpr

from bitsnn_jax.numerics.mixing import FORWARD
from bitsnn_jax.numerics.qcfs import qcfs_p
from bitsnn_jax.numerics.tables import has_one_lobe
from bitsnn_jax.tracing.control_flow import CONTROL_FLOW
from bitsnn_jax.tracing.equations import (
    OPAQUE_CALLS,
    body,
    module_path,
)
from bitsnn_jax.tracing.linearity import is_product, linear_operands
from bitsnn_jax.tracing.literals import literal, with_number
from bitsnn_jax.tracing.pointwise import function_of, is_pointwise, with_sizes
from bitsnn_jax.tracing.reading import Nonspiking, Reading, SpikingError
from bitsnn_jax.tracing.sites import Site, check_theta, next_path
from bitsnn_jax.tracing.trains import (
    MAXIMA,
    gated,
    is_driven,
    merged_sizes,
    moved_sizes,
    streamed_operand,
)
from bitsnn_jax.tracing.values import (
    Analog,
    Constant,
    Current,
    Pointwise,
    Step,
    Value,
    Waiting,
)

ApplyFn = Callable[[Any, Any], Any]


def trace(apply_fn: ApplyFn, variables: Any, x: Any) -> tuple[ClosedJaxpr, Any]:
    """Record the program of `apply_fn(variables, x)`, and the shapes of its result."""
    program, shapes = jax.make_jaxpr(apply_fn, return_shape=True)(variables, x)
    # What a module only logs (`sow`) has no part in the network.
    jaxpr, _ = dce_jaxpr(
        program.jaxpr, [True] * len(program.jaxpr.outvars), instantiate=True
    )
    return ClosedJaxpr(jaxpr, program.consts), shapes


def read(
    reading: Reading, program: ClosedJaxpr, variables: Iterable, x: Iterable
) -> Sequence[Value]:
    """Return the results of the program, given flat lists of variables and of inputs.

    Variables are constants and inputs analog, where they are not values already.
    """
    constants = [v if isinstance(v, Value) else Constant(v) for v in variables]
    inputs = [v if isinstance(v, Value) else Analog(v) for v in x]
    results = _interpret(reading, program, [*constants, *inputs], ())
    return [_computed(reading, v) for v in results]


def _interpret(
    reading: Reading,
    program: ClosedJaxpr,
    inputs: Sequence[Waiting],
    scope: tuple[str, ...],
) -> list[Waiting]:
    """Walk the equations in turn; the first rule that has any gives the results."""
    jaxpr = program.jaxpr
    known = dict(zip(jaxpr.constvars, map(Constant, program.consts), strict=True))
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def look_up(atom):
        return literal(atom) if isinstance(atom, Literal) else known[atom]

    last_use = {
        atom: i
        for i, eqn in enumerate(jaxpr.eqns)
        for atom in eqn.invars
        if not isinstance(atom, Literal)
    }
    results = set(v for v in jaxpr.outvars if not isinstance(v, Literal))
    for i, eqn in enumerate(jaxpr.eqns):
        values = [look_up(atom) for atom in eqn.invars]
        outputs = _done(_Operation(reading, eqn, values, (*scope, *module_path(eqn))))
        outputs = with_sizes(eqn, values, with_number(eqn, values, outputs))
        known |= dict(zip(eqn.outvars, outputs, strict=True))
        for atom in {a for a in eqn.invars if not isinstance(a, Literal)}:
            if last_use[atom] == i and atom not in results:
                del known[atom]  # outside of jit, memory does not grow with depth
    return [look_up(atom) for atom in jaxpr.outvars]


@dataclasses.dataclass(frozen=True)
class _Operation:
    """An equation that the walk has come to, with what it is given.

    `may_wait` is whether it may become a `Pointwise`.
    """

    reading: Reading
    eqn: JaxprEqn
    operands: Sequence[Waiting]
    scope: tuple[str, ...]  # the modules that it stands in
    may_wait: bool = True

    @property
    def values(self) -> Sequence[Value]:
        """The operands, once none of them waits."""
        return cast(Sequence[Value], self.operands)

    @property
    def name(self) -> str:
        return self.eqn.primitive.name

    @property
    def path(self) -> str:
        return "/".join(self.scope)

    @functools.cached_property
    def is_current(self) -> list[bool]:
        return [isinstance(v, Current | Pointwise) for v in self.operands]

    @functools.cached_property
    def is_pointwise(self) -> bool:
        """Whether it works element by element, in a reading that asks."""
        return self.reading.has_tables and is_pointwise(self.eqn, self.operands)

    def linear_in(self, operands: Sequence[bool]) -> Sequence[int] | None:
        """Find the operands that it is linear in, of these; see `linear_operands`."""
        integers = self.reading.has_integers
        return linear_operands(self.eqn, operands, integers=integers)

    @property
    def waiting(self) -> bool:
        """Whether an operand waits for a code."""
        return any(isinstance(v, Pointwise) for v in self.operands)

    @property
    def depends(self) -> list[bool]:
        """Which operands depend on the input."""
        return [not isinstance(v, Constant) for v in self.operands]

    @property
    def made(self) -> Step:
        return Step(self.eqn, self.operands, self.scope)

    @property
    def of_one(self) -> Step | None:
        """The operation, if its result is made of one value, element by element."""
        return self.made if self.is_pointwise and sum(self.depends) == 1 else None

    @functools.cached_property
    def has_neurons(self) -> bool:
        """Whether there are neurons in the programs inside of it."""
        return self.reading.holds(self.eqn, self.operands)

    def interpret(self, program, inputs, scope) -> list[Waiting]:
        return _interpret(self.reading, program, inputs, scope)


def _done(op: _Operation) -> Sequence[Waiting]:
    """Apply the first rule that has the operation."""
    return next(ys for rule in RULES if (ys := rule(op)) is not None)


def _computed(reading: Reading, value: Waiting) -> Value:
    """Do the operation of a value that waits, if it does."""
    if not isinstance(value, Pointwise):
        return value
    made = value.made
    if id(made) not in reading.computed:
        values = [_computed(reading, v) for v in made.values]
        op = _Operation(reading, made.eqn, values, made.scope, may_wait=False)
        [result] = cast(Sequence[Value], _done(op))
        reading.computed[id(made)] = made, result
    return reading.computed[id(made)][1]


def _neuron(op):
    if op.eqn.primitive is not qcfs_p:
        return None
    z, theta = op.operands
    path = next_path(op.reading.sites, op.scope)
    if not isinstance(theta, Constant):
        raise SpikingError(f"theta of {path} depends on the input; it must not")
    shape, sizes = (v.aval.shape for v in op.eqn.invars)
    site = Site(path, op.eqn.params["levels"], shape, sizes)
    op.reading.sites.append(site)
    check_theta(theta.value, path)
    theta = Constant(jnp.asarray(theta.value), theta.origin)
    output = None
    fn = function_of(z) if isinstance(z, Pointwise) else None
    if fn is not None and not (fn.is_known and not has_one_lobe(fn, dtype=fn.dtype)):
        output = op.reading.pointwise_neuron(site, fn.base, theta, fn)
    if output is None:
        output = op.reading.neuron(site, _computed(op.reading, z), theta)
    if isinstance(output, Current):
        output = dataclasses.replace(output, sizes=sizes, driven=True)
    return [output]


def _call(op):
    program = body(op.eqn)
    if program is None:
        return None
    opaque = op.name in OPAQUE_CALLS and not op.reading.enters_all
    if opaque and not any(op.is_current) and not op.has_neurons:
        return None
    return op.interpret(program, op.operands, op.scope)


def _control_flow(op):
    if op.name not in CONTROL_FLOW or not (any(op.is_current) or op.has_neurons):
        return None
    return CONTROL_FLOW[op.name](op.interpret, op.eqn, op.operands, op.scope)


def _unknown_neurons(op):
    if not op.has_neurons:
        return None
    raise SpikingError(
        f"{op.reading.activation_name} inside `{op.name}` in "
        f"{op.path or 'the program'}: the neurons of a spiking network must be known "
        "when it is traced, so that neither the input nor the variables may decide on "
        "them; use lax.scan, a Python loop, or bounds that are known"
    )


def _pointwise(op):
    """Wait for a code: a function of one current that is not affine."""
    if not (op.may_wait and op.is_pointwise and any(op.depends)):
        return None
    if not op.waiting and op.linear_in(op.depends) is not None:
        return None
    value = Pointwise(op.made)
    return None if function_of(value) is None else [value]


def _gated(op):
    """Wait for a maximum, if this is one train times another: codes times codes."""
    trains = [isinstance(v, Current) and v.sizes is not None for v in op.operands]
    if not (op.may_wait and op.reading.has_tables and op.name == "mul" and all(trains)):
        return None
    return [Pointwise(op.made)]


def _maximum_of_gated(op):
    """Take the maximum of a train in front of a gate that is the same for all of it.

    max(g x) = g max(x), since no code is below 0.
    """
    if not (op.name in MAXIMA and isinstance(op.operands[0], Pointwise)):
        return None
    if (parts := gated(op.eqn, op.operands[0])) is None:
        return None
    return op.interpret(*parts, op.scope)


def _after_waiting(op):
    if not op.waiting:
        return None
    values = [_computed(op.reading, v) for v in op.operands]
    return _done(dataclasses.replace(op, operands=values))


def _timeless(op):
    if any(op.is_current):
        return None
    outputs = op.reading.timeless(op.eqn, op.values, op.scope)
    if (made := op.of_one) is None:
        return outputs
    return [
        dataclasses.replace(v, made=made) if isinstance(v, Analog) else v
        for v in outputs
    ]


def _moved(op):
    sizes = moved_sizes(op.eqn, op.values)
    if sizes is None or linear_operands(op.eqn, op.is_current) is None:
        return None
    outputs = op.reading.moved(op.eqn, op.values, sizes, op.path)
    return [
        dataclasses.replace(v, sizes=s, driven=True, made=op.of_one)
        for v, s in zip(outputs, sizes, strict=True)
    ]


def _linear(op):
    operands = op.linear_in(op.is_current)
    if operands is None:
        return None
    outputs = op.reading.linear(op.eqn, op.values, operands, op.path)
    driven = is_driven(op.eqn, op.values, operands)
    return [
        dataclasses.replace(v, sizes=None, driven=driven, made=op.of_one)
        for v in outputs
    ]


def _product(op):
    if not is_product(op.eqn, op.is_current):
        return None
    streamed = streamed_operand(op.eqn, op.values)
    if streamed is None:
        return None
    return op.reading.product(op.eqn, op.values, streamed, op.path)


def _maximum(op):
    if op.name not in MAXIMA:
        return None
    [spikes, *_] = op.values
    sizes = merged_sizes(op.eqn, spikes.sizes)
    if sizes is None:
        return None
    largest = op.reading.maximum(op.eqn, spikes, sizes)
    return [dataclasses.replace(largest, sizes=sizes, driven=True)]


def _mixed(op):
    if op.eqn.primitive not in FORWARD:
        return None
    return op.reading.mixed(op.eqn, op.values, op.path)


def _nonspiking(op):
    if not op.reading.decodes:
        kinds = ", ".join(type(v).__name__.lower() for v in op.values)
        raise SpikingError(
            f"`{op.name}` ({kinds}) in {op.path or 'the program'} has no spiking form: "
            "it is not linear in the spikes. Replace it, or pass "
            'nonspiking="decode" to compute it on the decoded value, outside the '
            "spiking network"
        )
    op.reading.nonspiking.append(Nonspiking(op.name, op.path))
    decoded = [
        op.reading.decode(v, op.path) if isinstance(v, Current) else v
        for v in op.values
    ]
    return op.reading.timeless(op.eqn, decoded, op.scope)


# In this order: the first that does not return None has the operation.
RULES: tuple[Callable[[_Operation], Sequence[Waiting] | None], ...] = (
    _neuron,  # a QCFS
    _call,  # jit, remat, ...: its body is walked through
    _control_flow,  # scan, while, cond: written out
    _unknown_neurons,  # neurons inside of anything else: an error
    _pointwise,  # element by element and not affine: waits for a code
    _gated,  # one train times another: waits for a maximum
    _maximum_of_gated,  # it came
    _after_waiting,  # neither came: what waits is computed first
    _timeless,  # no current among the operands
    _moved,  # spikes that stay spikes
    _linear,  # linear in its currents
    _product,  # linear in each of several currents
    _maximum,  # over places of spikes
    _mixed,  # the entries of a row, or rows of a table
    _nonspiking,  # anything else: an error, or decoded
)
