"""A traced network, cut at its activations.

Calibration in order stops at each activation, with what all batches bring there, and
goes on with what the activation is to send. So the traced program is cut there, and the
parts are compiled one by one: each is compiled once and run once for a batch.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import (
    ClosedJaxpr,
    Jaxpr,
    Literal,
    Primitive,
    jaxpr_as_fun,
)

# Stands where an activation is, and is never computed.
_stop_p = Primitive("stop")
_stop_p.def_abstract_eval(lambda z: z)


class Segment(NamedTuple):
    """The part of a program between two activations.

    Attributes:
      fn: arrays of `takes` -> arrays of `gives`; compiled.
      takes, gives: variables of the program.
      z: what the activation that ends it is fed; of the last segment None.
      a: what that activation sends.
      later: what the segments after it take.
    """

    fn: Callable[..., Sequence[jax.Array]]
    takes: list[Any]
    gives: list[Any]
    z: Any
    a: Any
    later: frozenset[Any]


class Cut(NamedTuple):
    """A program in segments.

    Attributes:
      stops: what was told of each activation, in the order of firing.
      segments: one to each of them, and the one to the outputs.
      start: variables of the program that are known.
      inputs: its arguments.
      outputs: its results that depend on anything.
    """

    stops: list[Any]
    segments: list[Segment]
    start: dict[Any, Any]
    inputs: list[Any]
    outputs: list[Any]


def cut(program_fn: Callable[..., Any], *args: Any) -> Cut:
    """Trace a program and cut it where it stops.

    Args:
      program_fn: (stop, *args) -> outputs; `stop(what, z)` gives what goes on from an
        activation that is fed z.
      args: pytrees of arrays.

    Raises:
      ValueError: a stop in a part that is compiled by itself.
    """
    stops = []

    def stop(what, z):
        stops.append(what)
        return _stop_p.bind(z)

    program = jax.make_jaxpr(lambda *args: program_fn(stop, *args))(*args)
    jaxpr = program.jaxpr
    at = [i for i, eqn in enumerate(jaxpr.eqns) if eqn.primitive is _stop_p]
    if len(at) != len(stops):
        raise ValueError(
            "expected activations in the open, got some in a `jit`, a scan or another "
            "part that is traced by itself: calibrate it without `sequential` and "
            "`correct_biases`, or leave the jit to bitsnn_jax"
        )
    outputs = _variables(jaxpr.outvars)
    segments, later = [], dict.fromkeys(outputs)
    for first, last in reversed(list(zip([-1, *at], [*at, None], strict=True))):
        segment = _segment(jaxpr, first, last, later)
        segments.append(segment)
        later = dict.fromkeys([*segment.takes, *_kept(later, segment)])
    start = dict(zip(jaxpr.constvars, program.consts, strict=True))
    return Cut(stops, segments[::-1], start, jaxpr.invars, outputs)


def _segment(jaxpr, first, last, later) -> Segment:
    """Build the segment between two stops, of what is needed only."""
    eqns, z, a = jaxpr.eqns, None, None
    wanted = dict(later)
    if last is not None:
        [z], [a] = eqns[last].invars, eqns[last].outvars
        wanted.pop(a, None)
        wanted[z] = None
    needed, inside = dict(wanted), []
    for eqn in reversed(eqns[first + 1 : last]):
        if any(v in needed for v in eqn.outvars):
            inside.append(eqn)
            for v in eqn.outvars:
                needed.pop(v, None)
            needed |= dict.fromkeys(_variables(eqn.invars))
    made = {v for eqn in inside for v in eqn.outvars}
    gives = [v for v in wanted if v in made]
    used = {v for eqn in inside for v in _variables(eqn.invars)}
    takes = [v for v in needed if v in used]
    unnamed = jaxpr.debug_info.with_unknown_names()
    part = Jaxpr((), takes, gives, inside[::-1], debug_info=unnamed)
    fn = jax.jit(jaxpr_as_fun(ClosedJaxpr(part, ())))
    return Segment(fn, takes, gives, z, a, frozenset(later))


def _kept(later, segment) -> list[Any]:
    """List what passes by a segment: needed after it, and not made in it."""
    made = {segment.a, *segment.gives}
    passing = [v for v in later if v not in made]
    # The activation may be fed what was made before.
    return passing + [z for z in [segment.z] if z is not None and z not in made]


def _variables(atoms) -> list[Any]:
    return list(dict.fromkeys(v for v in atoms if not isinstance(v, Literal)))


class Walk:
    """One batch on its way through a program that is cut.

    >>> parts = cut(lambda stop, x: stop("first", 2 * x) + x, 1.0)
    >>> walk = Walk(parts, 1.0)
    >>> float(walk.arrive())
    2.0
    >>> walk.leave(jax.numpy.float32(5.0))
    >>> [float(y) for y in walk.finish()]
    [6.0]
    """

    def __init__(self, parts: Cut, *args: Any):
        self.parts, self.place = parts, 0
        self.known = parts.start | dict(
            zip(parts.inputs, jax.tree.leaves(args), strict=True)
        )

    def arrive(self) -> jax.Array:
        """Go on to the next activation, and return what it is fed."""
        segment = self._run()
        return self.known[segment.z]

    def leave(self, a: jax.Array) -> None:
        """Say what the activation sends."""
        segment = self.parts.segments[self.place]
        kept = {v: y for v, y in self.known.items() if v in segment.later}
        self.known = kept | {segment.a: a}
        self.place += 1

    def finish(self) -> list[jax.Array]:
        """Go on to the end, and return the results."""
        self._run()
        return [self.known[v] for v in self.parts.outputs]

    def look_ahead(self, a: jax.Array) -> list[jax.Array] | None:
        """Return what the next activation is fed, or the results, if this one sends a.

        None if that does not depend on a.
        """
        ahead = self.parts.segments[self.place + 1]
        if self.parts.segments[self.place].a not in ahead.takes:
            return None
        scout = copy.copy(self)
        scout.leave(a)
        return scout.finish() if ahead.z is None else [scout.arrive()]

    def _run(self) -> Segment:
        segment = self.parts.segments[self.place]
        if segment.gives and segment.gives[0] not in self.known:
            made = segment.fn(*(self.known[v] for v in segment.takes))
            self.known = self.known | dict(zip(segment.gives, made, strict=True))
        return segment
