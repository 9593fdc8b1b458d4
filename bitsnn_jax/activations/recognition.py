"""What the function of a region is called: found by evaluating it.

The function is compared with those of `FUNCTIONS` on a grid, up to a positive factor,
which a network may have behind it. How it was written does not matter.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from bitsnn_jax.activations.regions import Region
from bitsnn_jax.numerics.tables import is_lobe
from bitsnn_jax.tracing.equations import apply_equation, body
from bitsnn_jax.tracing.literals import number
from bitsnn_jax.tracing.values import Constant

_POWERS = 2.0 ** np.arange(-20, 21)
_LINE = np.linspace(-12, 12, 2401)
GRID = np.unique(np.concatenate([-_POWERS, _LINE, _POWERS]).astype(np.float32))
_ON_LINE = np.isin(GRID, _LINE.astype(np.float32))

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "quick_gelu": lambda z: z * jax.nn.sigmoid(1.702 * z),
    "hard_swish": jax.nn.hard_swish,
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_sigmoid(0.2)": lambda z: jnp.clip(0.2 * z + 0.5, 0, 1),
    "tanh": jnp.tanh,
    "mish": jax.nn.mish,
    "softplus": jax.nn.softplus,
    "log_sigmoid": jax.nn.log_sigmoid,
    "soft_sign": jax.nn.soft_sign,
    "squareplus": jax.nn.squareplus,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "relu_squared": lambda z: jnp.maximum(z, 0) ** 2,
    "square": jnp.square,
    "abs": jnp.abs,
    "exp": jnp.exp,
    "sign": jnp.sign,
    "sin": jnp.sin,
    "cos": jnp.cos,
}


class Recognised(NamedTuple):
    """What a function is.

    Attributes:
      name: None if it is none of those known.
      low, high: what its values lie between, as far as the grid shows.
      is_increasing: whether it never decreases.
      clips: whether it is min(max(z, 0), high), to the last bit.
      has_tables: whether its positive values rise and fall no more than once, and its
        negative ones do not either: neurons have a table then.
    """

    name: str | None
    low: float
    high: float
    is_increasing: bool
    clips: bool = False
    has_tables: bool = True


def recognise(values: Any) -> Recognised:
    """Recognise a function by its values on `GRID`.

    >>> recognise(3 * np.tanh(GRID)).name
    'tanh'
    >>> recognise(np.where(GRID > 0, GRID, 0.1 * GRID)).name
    'leaky_relu(0.1)'
    >>> recognise(np.clip(GRID, -2, 2))[:4]
    ('clip(-2, 2)', -2.0, 2.0, True)
    """
    y = np.asarray(values, np.float64)
    ends = [end[0] for end in (y[:3], y[-3:]) if np.isfinite(end).all() and _flat(end)]
    # Beyond the grid it can only go on as at its ends.
    low = y.min() + 0.0 if len(ends) == 2 or y.min() in ends else -np.inf
    high = y.max() + 0.0 if len(ends) == 2 or y.max() in ends else np.inf
    low = max(low, 0.0) if y.min() >= 0 else low
    with np.errstate(invalid="ignore"):
        rise = np.diff(y).min()
    clips = high > 0 and np.array_equal(y, np.clip(GRID, np.float32(0), high))
    name = _name(GRID[_ON_LINE].astype(np.float64), y[_ON_LINE])
    # Rounding makes some functions fall by a unit in the last place.
    increasing = rise >= -1e-6 * np.abs(y[_ON_LINE]).max()
    tables = all(is_lobe(np.maximum(side, 0), GRID) for side in (y, -y))
    return Recognised(
        name, float(low), float(high), bool(increasing), bool(clips), tables
    )


def _flat(values: np.ndarray) -> bool:
    return not np.ptp(values)


def _name(z: np.ndarray, y: np.ndarray) -> str | None:
    if not np.isfinite(y).all() or _flat(y):
        return None
    slopes = np.diff(y) / np.diff(z)
    if slopes.max() > 0 and _is_straight(slopes):
        straight = y / slopes.max()
        if _equal(straight, np.clip(z, straight[0], straight[-1])):
            return _clip_name(straight[0], straight[-1])
        slope = straight[0] / z[0]
        if slope != -1 and _equal(straight, np.where(z > 0, z, slope * z)):
            return f"leaky_relu({slope:.3g})"
    for name, known in _known().items():
        i = np.argmax(np.abs(known))
        factor = y[i] / known[i]
        if factor > 0 and _equal(y / factor, known):
            return name
    alpha = -y[0]
    if alpha > 0 and _equal(y, np.where(z > 0, z, alpha * np.expm1(z))):
        return f"elu({alpha:.3g})"
    return None


def _is_straight(slopes: np.ndarray) -> bool:
    """Tell whether there are hardly any slopes but a few: lines with kinks between."""
    return bool(np.mean(np.abs(np.diff(slopes)) > 1e-3 * np.abs(slopes).max()) < 0.01)


def _equal(a: Any, b: Any) -> bool:
    # Activations that have a name differ by 3e-4 at least; float32 by 1e-6 at 12.
    return bool(np.all(np.abs(np.asarray(a) - b) <= 2e-5))


def _clip_name(low: float, high: float) -> str:
    low, high = (b if abs(b) < 12 else np.copysign(np.inf, b) for b in (low, high))
    names = {
        (-np.inf, np.inf): "identity",
        (0, np.inf): "relu",
        (0, 6): "relu6",
        (-1, 1): "hard_tanh",
    }
    close = (round(low, 4) + 0.0, round(high, 4))
    return names.get(close, f"clip({low + 0.0:.4g}, {high:.4g})")


@functools.cache
def _known() -> dict[str, np.ndarray]:
    line = jnp.asarray(GRID[_ON_LINE])
    with jax.core.eval_context():
        return {n: np.asarray(f(line), np.float64) for n, f in FUNCTIONS.items()}


def values_of(region: Region, z: Any, numbers: "Numbers" = number) -> np.ndarray | None:
    """Evaluate the function of a region on numbers, in its own type.

    Args:
      region: it.
      z: the numbers.
      numbers: what number a constant is, or which ones, that broadcast to z.

    Returns:
      Of the shape of z; None if a constant has no number.
    """
    if any(numbers(constant) is None for constant in region.constants):
        return None
    with jax.core.eval_context():
        z = jnp.asarray(z, region.start.dtype)
        return np.asarray(evaluated(region, z, numbers), np.float64)


def evaluated(region: Region, z: jax.Array, numbers: "Numbers" = number) -> jax.Array:
    """Evaluate the function of a region on an array of another shape."""
    made: dict[Any, Any] = {region.start: z}
    for op in region.operations:
        given = [
            numbers(v) if isinstance(v, Constant) else made[v.value] for v in op.values
        ]
        [made[op.results[0]]] = _reshaped(op.eqn, given, z.shape)
    return made[region.end]


def _reshaped(eqn: Any, given: Sequence[Any], shape: tuple[int, ...]) -> list[Any]:
    """Do an operation element by element on arrays of another shape."""
    inner: ClosedJaxpr | None = body(eqn)
    if inner is None:
        if eqn.primitive.name == "broadcast_in_dim":
            return [jnp.broadcast_to(given[0], shape)]
        avals: list[Any] = [v.aval for v in eqn.invars]
        arrays = [
            jnp.broadcast_to(jnp.asarray(g, aval.dtype), shape)
            if aval.shape or jnp.ndim(g)
            else jnp.asarray(g, aval.dtype)
            for g, aval in zip(given, avals, strict=True)
        ]
        return apply_equation(eqn, arrays)
    known = dict(zip(inner.jaxpr.constvars, inner.consts, strict=True))
    known |= zip(inner.jaxpr.invars, given, strict=True)

    def look_up(atom):
        return atom.val if isinstance(atom, Literal) else known[atom]

    for each in inner.jaxpr.eqns:
        results = _reshaped(each, [look_up(v) for v in each.invars], shape)
        known |= zip(each.outvars, results, strict=True)
    return [look_up(atom) for atom in inner.jaxpr.outvars]


Numbers = Callable[[Constant], Any]  # the number of a constant, or those by channel


def recognise_region(region: Region, numbers: Numbers = number) -> Recognised | None:
    """Recognise the function of a region, at the first channel; None if unknown."""

    def first(constant: Constant) -> Any:
        found = numbers(constant)
        return None if found is None else np.ravel(found)[0]

    key = _key(region, first)
    if key is not None and key not in _SEEN:
        values = values_of(region, GRID, first)
        _SEEN[key] = None if values is None else recognise(values)
    return None if key is None else _SEEN[key]


_SEEN: dict[tuple, Recognised | None] = {}


def _key(region: Region, first: Numbers) -> tuple | None:
    """Write down what a region does, the same for the same function."""
    places: dict[Any, Any] = {region.start: 0}
    key: list[Any] = [str(region.start.dtype)]
    for i, op in enumerate(region.operations, 1):
        given = [
            first(v) if isinstance(v, Constant) else f"#{places[v.value]}"
            for v in op.values
        ]
        if any(g is None for g in given):
            return None
        places[op.results[0]] = i
        params = {k: str(v) for k, v in op.eqn.params.items() if not callable(v)}
        key.append((op.name, tuple(map(str, given)), tuple(params.items())))
    return tuple(key)
