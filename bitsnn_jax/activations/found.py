"""The activations of a program: its regions, without those that are something else."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, jaxpr_as_fun

from bitsnn_jax.activations.recording import Operation, record
from bitsnn_jax.activations.regions import Region, Regions, is_elementwise_call
from bitsnn_jax.activations.replay import Schedule
from bitsnn_jax.activations.roles import Roles
from bitsnn_jax.tracing.equations import OPAQUE_CALLS, parts, parts_of_scan
from bitsnn_jax.tracing.program import ApplyFn
from bitsnn_jax.tracing.reading import SpikingError
from bitsnn_jax.tracing.sites import Site, next_path, unique
from bitsnn_jax.tracing.values import Constant, Value


class Activations:
    """The activations of `apply_fn(variables, x)`.

    Attributes:
      regions: all pointwise regions of the program.
      roles: what they are for.
      named: path -> region, for those that may be activations, in order.
      dismissed: (region, why) for the rest.
    """

    def __init__(self, apply_fn: ApplyFn, variables: Any, x: Any):
        self.recorded = record(apply_fn, variables, x, holds_activations)
        self.regions = Regions(self.recorded)
        self.roles = Roles(self.regions)
        reasons = [(r, self.roles.no_activation(r)) for r in self.regions.found]
        self.dismissed = [(region, why) for region, why in reasons if why]
        found = [region for region, why in reasons if not why]
        self.named = self._named(Schedule(self.recorded, found))

    def _named(self, schedule: Schedule) -> dict[str, Region]:
        """Name regions after their modules, as the neurons that they become."""
        sites: list[Site] = []
        named = {}
        for step in schedule.steps:
            if isinstance(step, Region):
                path = next_path(sites, step.scope)
                named[path] = step
            elif isinstance(step, Operation) and step.site:
                own = step.site.path.rpartition("@")
                path = unique(own[0] or own[2], [site.path for site in sites])
            else:
                continue
            sites.append(Site(path, 1, (), ()))
        return named


def holds_activations(eqn: JaxprEqn, values: Sequence[Value]) -> bool:
    """Tell whether a call or a loop has activations inside it."""
    if eqn.primitive.name in OPAQUE_CALLS and is_elementwise_call(eqn):
        return False  # it is, or is part of, one
    return any(
        _has_activations(program, given)
        for program, given in _bodies(eqn, values)
        if any(v.aval.shape for v in program.jaxpr.invars)  # otherwise a reducer
    )


def _bodies(
    eqn: JaxprEqn, values: Sequence[Value]
) -> list[tuple[ClosedJaxpr, Sequence[Value | None]]]:
    """List the programs in an operation, with what is known of what they are given."""
    p, name = eqn.params, eqn.primitive.name
    programs = parts(eqn)
    if name == "scan":
        fixed, carry = parts_of_scan(eqn)
        given = [*values[:fixed], *[None] * carry, *values[fixed + carry :]]
    elif name == "while":
        ends = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        programs = [p["body_jaxpr"]]
        given = [*values[slice(*ends)], *[None] * (len(values) - ends[1])]
    elif name == "cond":
        given = list(values[1:])
    else:
        given = list(values)
    return [
        (program, given if len(given) == len(program.jaxpr.invars) else [])
        for program in programs
    ]


def _has_activations(program: ClosedJaxpr, given: Sequence[Value | None]) -> bool:
    """Tell whether a program, on its own, has activations."""
    avals = [v.aval for v in program.jaxpr.invars]
    given = given or [None] * len(avals)
    known = [isinstance(v, Constant) for v in given]
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    found = []

    def apply_fn(constants, x):
        constants, x = iter(constants), iter(x)
        arrays = [
            _constant(value, aval, next(constants)) if is_known else next(x)
            for value, aval, is_known in zip(given, avals, known, strict=True)
        ]
        return jaxpr_as_fun(program)(*arrays)

    def look(constants):
        x = [s for s, is_known in zip(shapes, known, strict=True) if not is_known]
        found.extend(Activations(apply_fn, constants, x).named)

    try:
        jax.eval_shape(
            look, [s for s, is_known in zip(shapes, known, strict=True) if is_known]
        )
    except SpikingError:  # there are, where they cannot be
        return True
    return bool(found)


def _constant(value, aval, array):
    """Return a constant, as the number that the program says if it says one."""
    if value.number is None:
        return array
    return jnp.full(aval.shape, value.number, aval.dtype)
