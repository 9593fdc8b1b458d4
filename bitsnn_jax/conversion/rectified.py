"""The ReLUs of a traced program, and a reading that replaces them.

In whatever library a network is written, its ReLU becomes `max(z, 0)`, with a `min`
around it if it is capped.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal

from bitsnn_jax.numerics.qcfs import qcfs
from bitsnn_jax.tracing.channel_axis import channel_axis
from bitsnn_jax.tracing.equations import named, parts
from bitsnn_jax.tracing.literals import number
from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.reading import Reading
from bitsnn_jax.tracing.sites import Site, next_path
from bitsnn_jax.tracing.values import Analog, Constant

# Functions of jax.nn and jax.numpy that contain a ReLU and more.
_OTHER_ACTIVATIONS = frozenset(
    "celu hard_sigmoid hard_silu hard_swish logaddexp logaddexp2 softplus".split()
)


def replaced(
    apply_fn: ApplyFn, variables: Any, x: Any, activation: Callable, levels: int
) -> Any:
    """Run a program with another activation in the place of each ReLU.

    Args:
      apply_fn, variables, x: the program and its arguments.
      activation: (path, z, cap, axis) -> array; the cap is None for a plain ReLU; the
        axis is that of the channels, None if unknown.
      levels: of the sites, see `sites.Site`.

    Raises:
      ValueError: no ReLU.
    """
    program, shapes = trace(apply_fn, variables, x)
    reading = _Rectified(activation, levels, _guards(program))
    results = read(reading, program, jax.tree.leaves(variables), jax.tree.leaves(x))
    leaves = [reading.made(v).value for v in results]
    if not reading.num_relus:
        raise ValueError(
            "found no ReLU in the program: looked for max(z, 0) of values that depend "
            "on the input, as jax.nn.relu, jax.nn.relu6, jnp.maximum(z, 0) and "
            "jnp.clip(z, 0, c) have it; where(z > 0, z, 0) is not recognised"
        )
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


@dataclasses.dataclass(eq=False)
class _Clip:
    """max(z, 0) if it has a floor, and at most the cap; not computed yet.

    Caps are resolved lazily, when the value is used.
    """

    z: Any
    floor: bool
    cap: float | None
    scope: tuple[str, ...]
    channels: int | None
    array: Any = None


class _Rectified(Reading):
    """The network itself, with other activations. Values are arrays or a `_Clip`."""

    activation_name = "ReLU"
    whole = _OTHER_ACTIVATIONS

    def __init__(self, replace, levels, guards):
        super().__init__()
        self.replace = replace
        self.levels = levels
        self.guards = guards
        self.num_relus = 0

    def marks(self, eqn) -> bool:
        if super().marks(eqn):
            return True
        floor = _FLOORS.get(eqn.primitive.name)
        if floor is None or id(eqn) in self.guards or not _is_floating(eqn):
            return False
        # What is not a literal here may be a zero that a caller passes.
        return not any(
            isinstance(eqn.invars[i], Literal) and eqn.invars[i].val != 0 for i in floor
        )

    def timeless(self, eqn, values, scope):
        clip = self.clip(eqn, values, scope)
        if clip is not None:
            return [Analog(clip)]
        values = [self.made(v) for v in values]
        with named(scope):
            results = self.plain(eqn, values)
        first, *rest = results
        if isinstance(first, Analog):
            first = Analog(first.value, channel_axis(eqn, values))
        return [first, *rest]

    def clip(self, eqn, values, scope) -> _Clip | None:
        """Read the operation as a `_Clip`, if it is one."""
        rule = _CLIPS.get(eqn.primitive.name)
        if rule is None or id(eqn) in self.guards or not _is_floating(eqn):
            return None
        inputs = [v for v in values if isinstance(v, Analog)]
        numbers = [number(v) for v in values]
        if len(inputs) != 1 or (bounds := rule(numbers)) is None:
            return None
        floor, cap = bounds
        z, channels = inputs[0].value, inputs[0].channels
        if isinstance(z, _Clip):
            channels = z.channels
            caps = [c for c in (z.cap, cap) if c is not None]
            floor, cap = floor or z.floor, min(caps, default=None)
            z = z.z
        return _Clip(z, floor, cap, scope, channels)

    def made(self, value):
        """Compute the value."""
        clip = value.value
        if not isinstance(clip, _Clip):
            return value
        if clip.array is None:
            clip.array = self.rectified(clip) if clip.floor else self.capped(clip)
        return Analog(clip.array, clip.channels)

    def capped(self, clip):
        with named(clip.scope):
            return jnp.minimum(clip.z, clip.cap)

    def rectified(self, clip):
        path = next_path(self.sites, clip.scope)
        self.num_relus += 1
        self.sites.append(Site(path, self.levels, clip.z.shape, ()))
        with named(("network", path)):
            return self.replace(path, clip.z, clip.cap, clip.channels)

    def neuron(self, site, z, theta):
        """Keep a QCFS that the network has already."""
        with named(("network", site.path)):
            a = qcfs(self.made(z).value, theta.value, levels=site.levels)
        return Constant(a) if isinstance(z, Constant) else Analog(a, _channels(z))


def _channels(value):
    clip = value.value
    return clip.channels if isinstance(clip, _Clip) else value.channels


def _is_floating(eqn) -> bool:
    return jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating)


def _max(numbers) -> tuple[bool, float | None] | None:
    is_zero = any(n is not None and n == 0 for n in numbers)
    return (True, None) if is_zero else None


def _min(numbers) -> tuple[bool, float | None] | None:
    caps = [float(n) for n in numbers if n is not None and n > 0]
    return (False, caps[0]) if caps else None


def _clamp(numbers) -> tuple[bool, float | None] | None:
    low, _, high = numbers
    if low is None or high is None or low != 0 or not high > 0:
        return None
    return True, float(high)


# (whether it has a floor of zero, its cap) from the numbers that are known of operands.
_CLIPS: dict[str, Callable] = {"max": _max, "min": _min, "clamp": _clamp}
# Operands that can be the floor.
_FLOORS = {"max": (0, 1), "clamp": (0,)}

# Operands that must not be negative, or not be zero.
_DELICATE = {"div": (1,), "log": (0,), "rsqrt": (0,), "sqrt": (0,)}
# What may lie between a guard and its use: adding a small number, reshaping.
_ON_THE_WAY = frozenset(
    "add broadcast_in_dim convert_element_type expand_dims max reshape squeeze "
    "transpose".split()
)


def _guards(program: ClosedJaxpr) -> set[int]:
    """Find the maxima that keep a divisor, or a root's operand, positive: their ids.

    Layer norms have max(variance, 0), which is no activation.
    """
    wanted, found = set(), set()
    for eqn in reversed(program.jaxpr.eqns):
        name = eqn.primitive.name
        if name in _DELICATE:
            wanted |= _variables(eqn.invars[i] for i in _DELICATE[name])
        elif name in _ON_THE_WAY and eqn.outvars[0] in wanted:
            wanted |= _variables(eqn.invars)
            if name == "max":
                found.add(id(eqn))
        for part in parts(eqn):
            found |= _guards(part)
    return found


def _variables(atoms):
    return {atom for atom in atoms if not isinstance(atom, Literal)}
