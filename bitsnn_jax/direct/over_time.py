"""Charge, fire, reset in a scan over time, forwards and backwards."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Charge = Callable[[Any, jax.Array, jax.Array], jax.Array]
Fire = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]


def over_time(
    charge: Charge,
    fire: Fire,
    numbers: Any,
    currents: jax.Array,
    *,
    unroll: bool,
    remat: bool,
) -> tuple[jax.Array, jax.Array]:
    """Run neurons from rest, which is 0.

        u_t = charge(numbers, v_{t-1}, x_t);   v_t, s_t = fire(numbers, u_t)

    Gradient: that of the scan, of what `charge` and `fire` close over too.

    Args:
      charge, fire: pure; u, v and s are of the shape of x.
      numbers: pytree that both take.
      currents: x, [T, ...].
      unroll: write the T steps out in the program.
      remat: keep nothing for the backward pass but u. The slope of the surrogate and
        the reset, which plain differentiation keeps as well, follow from it.

    Returns:
      Spikes s and membranes u, [T, ...] each.

    >>> def charge(share, v, x):
    ...     return share * v + x
    >>> def fire(share, u):
    ...     return u * (u < 1), (u >= 1).astype(u.dtype)
    >>> x = jnp.array([0.5, 0.75, 0.5])
    >>> over_time(charge, fire, 1.0, x, unroll=True, remat=True)
    (Array([0., 1., 0.], dtype=float32), Array([0.5 , 1.25, 0.5 ], dtype=float32))
    """
    count = len(currents) if unroll else 1
    if not remat:
        return _forward(charge, fire, count, numbers, currents)
    # What they close over becomes an argument: gradients are traced elsewhere.
    rest = jnp.zeros_like(currents[0])
    charge, charging = jax.closure_convert(charge, numbers, rest, currents[0])
    fire, firing = jax.closure_convert(fire, numbers, rest)

    def charged(given, v, x):
        return charge(given[0], v, x, *given[1])

    def fired(given, u):
        return fire(given[0], u, *given[2])

    def keep(given, x):
        spikes, membranes = _forward(charged, fired, count, given, x)
        return (spikes, membranes), (given, x, membranes)

    run = jax.custom_vjp(partial(_forward, charged, fired, count))
    run.defvjp(keep, partial(_backward, charged, fired, count))
    return run((numbers, charging, firing), currents)


def _forward(charge, fire, unroll, numbers, currents):
    def step(v, x):
        u = charge(numbers, v, x)
        v, s = fire(numbers, u)
        return v, (s, u)

    # Zeros of the currents, so that the carry varies over devices as they do.
    rest = jnp.zeros_like(currents[0])
    return lax.scan(step, rest, currents, unroll=unroll)[1]


def _backward(charge, fire, unroll, kept, gradients):
    numbers, currents, membranes = kept

    def step(later, at):
        x, u, before, first, g, h = at
        _, through_fire = jax.vjp(fire, numbers, u)
        fired, du = through_fire((later, g))
        v = jnp.where(first, 0, fire(numbers, before)[0])
        _, through_charge = jax.vjp(charge, numbers, v, x)
        charged, later, dx = through_charge(du + h)
        return later, (dx, jax.tree.map(jnp.add, fired, charged))

    rest = jnp.zeros_like(currents[:1])
    before = jnp.concatenate([rest, membranes[:-1]])
    first = jnp.arange(len(currents)) == 0
    steps = currents, membranes, before, first, *gradients
    _, (dx, each) = lax.scan(step, rest[0], steps, reverse=True, unroll=unroll)
    return jax.tree.map(lambda d: d.sum(0), each), dx
