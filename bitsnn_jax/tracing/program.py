"""One traced program, many interpretations.

A network is written once, as a function of its variables and its input. `trace` records
it; `interpret` walks the record and hands each operation to a `Reading`, which decides
what a value is and what a QCFS site becomes. The spiking network, its certificate and
the conversion of its biases are three readings of the same program.
"""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from bitsnn_jax.numerics.qcfs import qcfs_p
from bitsnn_jax.tracing.linearity import MOVES, linear_operands, merged_sizes

ApplyFn = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Constant:
    """Made of parameters only.

    `number` is what each of its entries is, if the program itself says so.
    """

    value: Any
    origin: Any = None  # where a reading has taken the value from, if it keeps track
    number: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Analog:
    """Depends on the input and has no time: what comes before the first neuron.

    `channels` is their axis, for readings that keep track of it.
    """

    value: Any
    channels: int | None = None


@dataclasses.dataclass(frozen=True)
class Current:
    """Has time. What is carried for it is up to the reading.

    `sizes` is the shape of the thresholds while this is a layer's spike train.
    """

    value: Any
    sizes: tuple[int, ...] | None = None


Value = Constant | Analog | Current


class Site(NamedTuple):
    """A QCFS activation of the program: a layer of neurons of the SNN."""

    path: str
    levels: int
    shape: tuple[int, ...]
    sizes: tuple[int, ...]  # of the thresholds, as in `Current`


class Nonspiking(NamedTuple):
    """An operation that has no spiking form, and the module it stands in."""

    operation: str
    path: str


class SpikingError(ValueError):
    """The program, or a part of it, has no spiking form."""


class Reading:
    """What an interpretation must say. Subclasses keep their results as attributes.

    Attributes:
      activation_name: what its neurons are in the program; for messages.
      whole: names of functions that are never entered.
      enters_all: whether functions with gradients of their own are entered always, and
        not only for the neurons in them.
    """

    activation_name = "QCFS"
    whole: frozenset[str] = frozenset()
    enters_all = False

    def __init__(self, *, nonspiking: str = "error"):
        if nonspiking not in ("error", "decode"):
            raise ValueError(
                f'nonspiking must be "error" or "decode", got {nonspiking!r}'
            )
        self.decodes = nonspiking == "decode"
        self.sites: list[Site] = []
        self.nonspiking: list[Nonspiking] = []

    def marks(self, eqn: JaxprEqn) -> bool:
        """Whether this operation is one of its neurons, as far as it alone tells."""
        return eqn.primitive is qcfs_p

    def neuron(self, site: Site, z: Value, theta: Constant) -> Value:
        """What a QCFS site becomes."""
        raise NotImplementedError

    def plain(self, eqn: JaxprEqn, values: Sequence[Value]) -> Sequence[Value]:
        """An operation on values without time: done as it is, unless overridden."""
        kind = Constant if all(isinstance(v, Constant) for v in values) else Analog
        return [kind(y) for y in self.bind(eqn, [v.value for v in values])]

    def timeless(
        self, eqn: JaxprEqn, values: Sequence[Value], scope: tuple[str, ...]
    ) -> Sequence[Value]:
        """The same, and the modules that it stands in."""
        return self.plain(eqn, values)

    def bind(self, eqn: JaxprEqn, arrays: Sequence[Any]) -> list[Any]:
        """How an operation on arrays is done."""
        return apply_equation(eqn, arrays)

    def linear(
        self, eqn: JaxprEqn, values: Sequence[Value], operands: Sequence[int], path: str
    ) -> Sequence[Value]:
        """An operation that is linear in `operands` taken together; one is a current.

        The other operands have no time.
        """
        raise NotImplementedError

    def maximum(self, eqn: JaxprEqn, spikes: Current, sizes: tuple) -> Current:
        """A maximum over places of one spike train; `sizes` of the result."""
        raise NotImplementedError

    def decode(self, current: Current, path: str) -> Analog:
        """The value of a current: its sum over time."""
        raise NotImplementedError


def trace(apply_fn: ApplyFn, variables: Any, x: Any) -> tuple[ClosedJaxpr, Any]:
    """The program of `apply_fn(variables, x)` and the shapes of its result."""
    program, shapes = jax.make_jaxpr(apply_fn, return_shape=True)(variables, x)
    # What a module only logs (`sow`) has no part in the network.
    jaxpr, _ = dce_jaxpr(
        program.jaxpr, [True] * len(program.jaxpr.outvars), instantiate=True
    )
    return ClosedJaxpr(jaxpr, program.consts), shapes


def read(
    reading: Reading, program: ClosedJaxpr, variables: Iterable, x: Iterable
) -> Sequence[Value]:
    """The results of the program, given flat lists of variables and of inputs.

    Variables are constants and inputs analog, where they are not values already.
    """
    constants = [v if isinstance(v, Value) else Constant(v) for v in variables]
    inputs = [v if isinstance(v, Value) else Analog(v) for v in x]
    return _interpret(reading, program, [*constants, *inputs], ())


def apply_equation(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """The operation of `eqn` on arrays. Always a list."""
    params = eqn.primitive.get_bind_params(eqn.params)
    result = eqn.primitive.bind(*values, **params)
    return list(result) if eqn.primitive.multiple_results else [result]


def at_precision(eqn: JaxprEqn, precision: Any) -> JaxprEqn:
    """The operation at this precision, if it has one and asks for none itself."""
    if precision is None or eqn.params.get("precision", precision) is not None:
        return eqn
    asked = {"precision": (precision, precision)}
    return eqn.replace(params=eqn.params | asked)


def _interpret(reading, program, inputs, scope):
    jaxpr = program.jaxpr
    known = dict(zip(jaxpr.constvars, map(Constant, program.consts), strict=True))
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def look_up(atom):
        if isinstance(atom, Literal):
            aval: Any = atom.aval
            return Constant(atom.val, number=np.asarray(atom.val, aval.dtype))
        return known[atom]

    last_use = {
        atom: i
        for i, eqn in enumerate(jaxpr.eqns)
        for atom in eqn.invars
        if not isinstance(atom, Literal)
    }
    results = set(v for v in jaxpr.outvars if not isinstance(v, Literal))
    for i, eqn in enumerate(jaxpr.eqns):
        values = [look_up(atom) for atom in eqn.invars]
        outputs = _equation(reading, eqn, values, (*scope, *module_path(eqn)))
        outputs = _numbered(eqn, values, outputs)
        known |= dict(zip(eqn.outvars, outputs, strict=True))
        for atom in {a for a in eqn.invars if not isinstance(a, Literal)}:
            if last_use[atom] == i and atom not in results:
                del known[atom]  # outside of jit, memory does not grow with depth
    return [look_up(atom) for atom in jaxpr.outvars]


def module_path(eqn: JaxprEqn) -> tuple[str, ...]:
    """The modules that an operation stands in, as far as its own program tells."""
    # Transformations wrap names, as in "vmap(Dense)"; what stands in them is the same.
    stack = re.sub(r"\w+\(|\)", "", str(eqn.source_info.name_stack))
    return tuple(name for name in stack.split("/") if name)


def named(scope: tuple[str, ...]) -> contextlib.AbstractContextManager:
    """Name operations after their modules again, for those who trace a reading."""
    return jax.named_scope("/".join(scope)) if scope else contextlib.nullcontext()


def _equation(reading, eqn, values, scope):
    path = "/".join(scope)
    if eqn.primitive is qcfs_p:
        return [_neuron(reading, eqn, values, scope)]
    name = eqn.primitive.name
    timed = any(isinstance(v, Current) for v in values)
    has_neurons = any(_has_neurons(reading, b) for b in _branches(reading, eqn))
    body = _body(reading, eqn)
    opaque = name in OPAQUE_CALLS and not reading.enters_all
    if body is not None and (timed or has_neurons or not opaque):
        return _interpret(reading, body, values, scope)
    if name in _CONTROL and (timed or has_neurons):
        results = _CONTROL[name](reading, eqn, values, scope)
        if results is not None:
            return results
    if has_neurons:
        raise SpikingError(
            f"{reading.activation_name} inside `{name}` in {path or 'the program'}: "
            "the neurons of a spiking network must be known when it is traced, so that "
            "neither the input nor the variables may decide on them; use lax.scan, a "
            "Python loop, or bounds that are known"
        )
    if not timed:
        return reading.timeless(eqn, values, scope)
    operands = linear_operands(eqn, [isinstance(v, Current) for v in values])
    if operands is not None:
        return reading.linear(eqn, values, operands, path)
    if name in ("reduce_max", "reduce_window_max"):
        sizes = merged_sizes(eqn, values[0].sizes)
        if sizes is not None:
            return [reading.maximum(eqn, values[0], sizes)]
    return _nonspiking(reading, eqn, values, scope)


def _numbered(eqn, values, outputs):
    """`outputs`, with the numbers that are known before any variable is."""
    numbers = [getattr(v, "number", None) for v in values]
    if len(outputs) != 1 or not numbers or any(n is None for n in numbers):
        return outputs
    [output], aval = outputs, eqn.outvars[0].aval
    if not isinstance(output, Constant) or output.number is not None:
        return outputs
    if eqn.effects or not isinstance(aval.dtype, np.dtype):  # as of a random key
        return outputs
    if aval.shape == () and all(v.aval.shape == () for v in eqn.invars):
        with jax.core.eval_context():
            [number] = apply_equation(eqn, numbers)
    elif eqn.primitive.name in MOVES and len(numbers) == 1:
        [number] = numbers
    else:
        return outputs
    return [dataclasses.replace(output, number=np.asarray(number))]


def _neuron(reading, eqn, values, scope):
    z, theta = values
    path = module(reading, scope)
    if not isinstance(theta, Constant):
        raise SpikingError(f"theta of {path} depends on the input; it must not")
    shape, sizes = (v.aval.shape for v in eqn.invars)
    site = Site(path, eqn.params["levels"], shape, sizes)
    reading.sites.append(site)
    check_theta(theta.value, path)
    return reading.neuron(site, z, Constant(jnp.asarray(theta.value), theta.origin))


def check_theta(theta: Any, path: str) -> None:
    """ValueError unless thresholds are positive and finite, as far as they are known.

    Those that a transformation traces are not: `convert` and `verify` see them all.
    """
    if isinstance(theta, jax.core.Tracer):
        return
    values = np.asarray(theta, np.float64)
    if not (np.isfinite(values) & (values > 0)).all():
        wrong = values[~(np.isfinite(values) & (values > 0))]
        raise ValueError(
            f"theta of {path} must be positive and finite, got {wrong.flat[0]:g}"
            + (f" and {wrong.size - 1} more like it" if wrong.size > 1 else "")
            + ": calibrate it anew, or train with a lower learning rate"
        )


def module(reading: Reading, scope: tuple[str, ...]) -> str:
    """What the next neurons are named, that stand in these modules."""
    # The first name is the class of the outermost module, which says nothing.
    path = "/".join(scope[1:] or scope) or "neuron"
    return unique(path, [site.path for site in reading.sites])


def unique(path: str, taken: Collection[str]) -> str:
    """`path`, or what the second call of a module is named, `path@2`, and so on."""
    count = sum(t == path or t.startswith(path + "@") for t in taken)
    if not count:
        return path
    # A name with @ may have been given by hand, so that the count alone is not enough.
    names = (f"{path}@{i}" for i in itertools.count(count + 1))
    return next(name for name in names if name not in taken)


def _nonspiking(reading, eqn, values, scope):
    name, path = eqn.primitive.name, "/".join(scope)
    if not reading.decodes:
        kinds = ", ".join(type(v).__name__.lower() for v in values)
        raise SpikingError(
            f"`{name}` ({kinds}) in {path or 'the program'} has no spiking form: it is "
            'not linear in the spikes. Replace it, or pass nonspiking="decode" to '
            "compute it on the decoded value, outside the spiking network"
        )
    reading.nonspiking.append(Nonspiking(name, path))
    timeless = [
        reading.decode(v, path) if isinstance(v, Current) else v for v in values
    ]
    return reading.timeless(eqn, timeless, scope)


# Entered only for the neurons in them, since entering loses their own gradient.
OPAQUE_CALLS = ("custom_jvp_call", "custom_vjp_call")
_BODIES = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def _body(reading, eqn):
    param = _BODIES.get(eqn.primitive.name)
    if param is None or eqn.params.get("name") in reading.whole:
        return None
    return _closed(eqn.params[param])


def _closed(jaxpr):
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def _branches(reading, eqn):
    return [] if eqn.params.get("name") in reading.whole else parts(eqn)


def parts(eqn: JaxprEqn) -> list[ClosedJaxpr]:
    """The programs in an operation: the body of a call, the branches of a `cond`."""
    found = []
    for value in eqn.params.values():
        items = value if isinstance(value, (tuple, list)) else (value,)
        found += [_closed(v) for v in items if hasattr(v, "eqns")]
    return found


def _has_neurons(reading, program):
    return any(
        reading.marks(eqn)
        or any(_has_neurons(reading, part) for part in _branches(reading, eqn))
        for eqn in program.jaxpr.eqns
    )


def _unrolled_scan(reading, eqn, values, scope):
    """A scan over layers: its body, once for each layer."""
    length, reverse = eqn.params["length"], eqn.params["reverse"]
    num_fixed, num_carry = eqn.params["num_consts"], eqn.params["num_carry"]
    fixed, carry = values[:num_fixed], values[num_fixed : num_fixed + num_carry]
    layers, columns = values[num_fixed + num_carry :], []
    avals = [v.aval for v in eqn.invars[num_fixed + num_carry :]]
    for i in reversed(range(length)) if reverse else range(length):
        inputs = [
            _call(reading, lambda x, i=i: x[i], [aval], [layer], scope)
            for aval, layer in zip(avals, layers, strict=True)
        ]
        inputs = [*fixed, *carry, *inputs]
        outputs = _interpret(reading, eqn.params["jaxpr"], inputs, (*scope, f"{i}"))
        carry = outputs[:num_carry]
        columns.append(outputs[num_carry:])
    if reverse:
        columns.reverse()
    avals = [v.aval for v in eqn.params["jaxpr"].jaxpr.outvars[num_carry:]]
    if not length:
        empty = [jnp.zeros((0, *aval.shape), aval.dtype) for aval in avals]
        return [*carry, *map(Constant, empty)]
    stacked = [
        _call(reading, lambda *xs: jnp.stack(xs), [aval] * length, column, scope)
        for aval, column in zip(avals, zip(*columns, strict=True), strict=True)
    ]
    return [*carry, *stacked]


def _call(reading, fn, avals, values, scope):
    """`fn` of arrays, applied to values of a reading."""
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    return _interpret(reading, jax.make_jaxpr(fn)(*shapes), list(values), scope)[0]


def _taken_branch(reading, eqn, values, scope):
    """A `cond` or `switch` that the program has decided; None if it has not."""
    index, *operands = values
    if getattr(index, "number", None) is None:
        return None
    branches = eqn.params["branches"]
    taken = int(np.clip(index.number, 0, len(branches) - 1))
    return _interpret(reading, branches[taken], operands, scope)


def _unrolled_while(reading, eqn, values, scope):
    """A loop whose length the program knows, its body each time; None if it does not.

    The iterations are numbered as those of a scan.
    """
    p = eqn.params
    ends = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    asked, fixed, carry = values[: ends[0]], values[slice(*ends)], values[ends[1] :]
    count = 0
    while True:
        goes_on = _known_result(p["cond_jaxpr"], [*asked, *carry])
        if goes_on is None:
            return None
        if not goes_on:
            return carry
        inner = (*scope, f"{count}")
        carry = _interpret(reading, p["body_jaxpr"], [*fixed, *carry], inner)
        count += 1


def _known_result(program, values):
    """The one result of a program whose operands are known, else None."""
    jaxpr, used = dce_jaxpr(program.jaxpr, [True])
    numbers = [
        getattr(v, "number", None) for v, u in zip(values, used, strict=True) if u
    ]
    if program.consts or any(n is None for n in numbers):
        return None
    with jax.core.eval_context():
        [result] = jaxpr_as_fun(ClosedJaxpr(jaxpr, ()))(*numbers)
    return np.asarray(result)


# None from one of these: it cannot be known when the program is traced.
_CONTROL: dict[str, Callable[..., Sequence[Value] | None]] = {
    "scan": _unrolled_scan,
    "cond": _taken_branch,
    "while": _unrolled_while,
}
