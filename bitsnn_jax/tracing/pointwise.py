"""Functions in front of a code: what a layer of neurons computes of its current.

An operation that works element by element on one current, and is not affine, is not
done at once. It waits, as a `Pointwise`, for what uses it. If that is a `qcfs`, the
operations back to one current are a function f of it, and `qcfs(f(z), theta)` is a
layer of neurons whose thresholds f decides on (see `numerics.tables`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from bitsnn_jax.tracing.equations import apply_equation, shape_of
from bitsnn_jax.tracing.values import (
    Analog,
    Constant,
    Current,
    Pointwise,
    Step,
    Value,
    Waiting,
)

# An entry of the result depends on that entry of each operand, and on nothing else.
ELEMENTWISE = frozenset(
    "abs add add_any and atan2 cbrt ceil clamp convert_element_type copy copy_p cos "
    "cosh div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le "
    "log log1p logistic lt max min mul ne neg not or pow pvary rem round rsqrt "
    "select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor".split()
)


def is_pointwise(eqn: JaxprEqn, values: Sequence[Waiting]) -> bool:
    """Tell whether the operation makes each entry of one of a value in time."""
    if eqn.primitive.name not in ELEMENTWISE:
        return False
    shape = shape_of(eqn.outvars[0])
    return all(
        isinstance(v, Constant) or shape_of(atom) == shape
        for v, atom in zip(values, eqn.invars, strict=True)
    )


def with_sizes(
    eqn: JaxprEqn, values: Sequence[Waiting], outputs: Sequence[Waiting]
) -> Sequence[Waiting]:
    """Return `outputs` of `eqn`, knowing along which axes a constant was broadcast."""
    output, *_ = outputs
    if eqn.primitive.name != "broadcast_in_dim" or not isinstance(output, Constant):
        return outputs
    sizes = [1] * len(shape_of(eqn.outvars[0]))
    before = getattr(values[0], "sizes", None) or shape_of(eqn.invars[0])
    for n, axis in zip(before, eqn.params["broadcast_dimensions"], strict=True):
        sizes[axis] = n
    return [dataclasses.replace(output, sizes=tuple(sizes))]


@dataclasses.dataclass(frozen=True)
class PointwiseFn:
    """A function f of each entry of a current, as the program has it.

    Called with candidates [K, ...] that broadcast to [K, *shape], it returns f of each.

    Attributes:
      steps: its operations in order, the last of which has the result.
      base: the current.
      dtype: of the current.
    """

    steps: tuple[Step, ...]
    base: Value
    dtype: Any

    @property
    def constants(self) -> list[Constant]:
        """What its operations are given besides the current."""
        values = [v for step in self.steps for v in step.values]
        return [v for v in values if isinstance(v, Constant)]

    @property
    def is_known(self) -> bool:
        """Whether it has no other constants than numbers of the program."""
        return all(v.number is not None for v in self.constants)

    @property
    def operations(self) -> list[str]:
        """Their names, for messages."""
        return [step.eqn.primitive.name for step in self.steps]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape in which f differs from place to place: () if it does not."""
        shapes = [jnp.shape(_compact(v)) for v in self.constants]
        sizes = tuple(jnp.broadcast_shapes(*shapes, ()))
        return sizes if max(sizes, default=1) > 1 else ()

    def __call__(self, z: Any) -> Any:
        shape = jnp.broadcast_shapes(jnp.shape(z), self.sizes)
        z = jnp.broadcast_to(jnp.asarray(z, self.dtype), shape)
        results: dict[int, Any] = {}

        def array(value, atom):
            if isinstance(value, Constant):
                return _spread(value, atom, shape)
            return z if value is self.base else results[id(value.made)]

        for step in self.steps:
            arrays = map(array, step.values, step.eqn.invars)
            [results[id(step)]] = apply_equation(step.eqn, list(arrays))
        return results[id(self.steps[-1])]


def function_of(value: Pointwise) -> PointwiseFn | None:
    """Find the latest current, or value without time, that `value` is a function of.

    Numbers of the program that were added to it or multiplied with it last belong to
    the function. None if there is no such current, because two of them meet.
    """
    steps = _steps_before(value)
    for step in reversed(steps):
        for base, atom in zip(step.values, step.eqn.invars, strict=True):
            if not isinstance(base, Current | Analog):
                continue
            if _steps_from(base, value) is not None:
                base = _before_numbers(base)
                needed = _steps_from(base, value) or ()
                aval: Any = atom.aval
                inside = tuple(step for step in steps if id(step) in needed)
                return PointwiseFn(inside, base, aval.dtype)
    return None


def _before_numbers(base: Value) -> Value:
    """Go back to before the last numbers that the program itself says."""
    made = getattr(base, "made", None)
    while made is not None:
        others = [v for v in made.values if isinstance(v, Constant)]
        [before] = [v for v in made.values if not isinstance(v, Constant)]
        is_cast = made.eqn.primitive.name == "convert_element_type"
        if is_cast or any(v.number is None for v in others):
            break
        base, made = before, before.made
    return base


def _steps_before(value: Waiting) -> list[Step]:
    """List the operations element by element that lead to a value, in order."""
    steps: dict[int, Step] = {}

    def visit(value):
        made = getattr(value, "made", None)
        if made is not None and id(made) not in steps:
            for operand in made.values:
                visit(operand)
            steps[id(made)] = made

    visit(value)
    return list(steps.values())


def _steps_from(base: Value, value: Waiting) -> set[int] | None:
    """Return the ids of the steps between; None if not all of `value` is of `base`."""
    needed: set[int] = set()

    def visit(value) -> bool:
        if value is base or isinstance(value, Constant):
            return True
        if value.made is None:
            return False
        if id(value.made) in needed:
            return True
        needed.add(id(value.made))
        return all(map(visit, value.made.values))

    return needed if visit(value) else None


def _compact(constant: Constant) -> Any:
    """Return an array that broadcasts to the constant."""
    if constant.number is not None:
        return constant.number
    if constant.sizes is None:
        return constant.value
    return constant.value[tuple(slice(n) for n in constant.sizes)]


def _spread(constant, atom, shape) -> Any:
    array = jnp.asarray(_compact(constant), atom.aval.dtype)
    if array.size == 1:
        array = array.reshape(())
    return jnp.broadcast_to(array, shape)
