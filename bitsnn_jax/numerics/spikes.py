"""Codes as spike trains, and the bit-sparsity loss, Eq. (11) and (12)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, UInt

from bitsnn_jax.numerics.qcfs import Floats, aligned, sum_to_shape

MAX_STEPS = 30  # codes are int32


def check_steps(steps, dtype=None, *, before: int = 0) -> int:
    """Return `steps` if codes of that many bits fit int32 and `dtype`, else raise.

    Args:
      steps: T.
      dtype: of membranes; None for codes alone.
      before: steps of a coding before those of the bits.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
    limit = MAX_STEPS if dtype is None else min(MAX_STEPS, jnp.finfo(dtype).nmant + 1)
    limit -= before
    if steps > limit:
        kind = "int32 codes" if dtype is None else jnp.dtype(dtype).name
        raise ValueError(
            f"steps must be at most {limit} for {kind}, got {steps}: "
            "a code of that many bits has no exact place there"
        )
    return steps


def weights(steps: int) -> list[int]:
    """List what a spike of each step is worth, in units of delta: 2**(T - t).

    >>> weights(4)
    [8, 4, 2, 1]
    """
    return [2 ** (steps - t) for t in range(1, steps + 1)]


def spike_planes(
    codes: Integer[Array | np.ndarray, "..."], *, steps: int
) -> Bool[Array, "time ..."]:
    """Unpack each code into a spike train, most significant bit first.

        k = sum_t 2**(T - t) s(t),   t = 1..T

    A code above 2**T - 1 saturates to all ones, as the neuron of Eq. (10) does; a
    negative one to silence.

    Args:
      codes: integers [...].
      steps: T, at least 1.

    Returns:
      bool [T, ...].

    Raises:
      ValueError: steps < 1 or above 30.

    >>> spike_planes(jnp.array([5, 15, 16]), steps=4).astype(int).T
    Array([[0, 1, 0, 1],
           [1, 1, 1, 1],
           [1, 1, 1, 1]], dtype=int32)
    """
    codes = jnp.clip(codes, 0, 2 ** check_steps(steps) - 1)
    return jnp.stack([(codes >> (steps - t)) & 1 == 1 for t in range(1, steps + 1)])


def pack(spikes: Bool[Array, "time ..."]) -> UInt[Array, "..."]:
    """Pack spike trains into codes of the narrowest unsigned type.

    >>> pack(spike_planes(jnp.array([5, 15]), steps=4))
    Array([ 5, 15], dtype=uint8)
    """
    steps = check_steps(spikes.shape[0])
    dtype = code_type(steps)
    place = jnp.array(weights(steps), dtype).reshape(-1, *(1,) * (spikes.ndim - 1))
    # A sum over the time axis instead of a chain of shifts: XLA does not duplicate
    # reductions into their consumers, so the spikes are computed once.
    return jnp.sum(spikes.astype(dtype) * place, axis=0, dtype=dtype)


def code_type(steps: int) -> type:
    """Return the narrowest unsigned type of so many bits."""
    types = (jnp.uint8, jnp.uint16, jnp.uint32)
    return next(d for d in types if steps <= jnp.iinfo(d).bits)


def plane_counts(codes: UInt[Array, "..."], *, steps: int) -> Int[Array, " time"]:
    """Count the spikes of all neurons at each step, without unpacking the codes.

    Four bits of a code are spread over the four bytes of a word, and words are summed
    in groups small enough that no byte, and then no half of a word, can overflow: one
    pass over the codes instead of T. Groups have at most 16 members, because XLA's CPU
    backend stores the operand of a longer reduction, and gives a reduction to a scalar
    to one thread.

    >>> plane_counts(jnp.array([5, 15, 16], jnp.uint32), steps=5)
    Array([1, 1, 2, 1, 2], dtype=int32)
    """
    low = jnp.arange(0, steps, 4, jnp.uint32).reshape(-1, *(1,) * codes.ndim)
    bits = ((codes.astype(jnp.uint32)[None] >> low & 0xF) * 0x00204081) & 0x01010101
    words = _sum_groups(bits)  # at most 16, fits a byte
    even = _sum_groups(_sum_groups(words & 0x00FF00FF))  # at most 16**3, 16 bits
    odd = _sum_groups(_sum_groups(words >> 8 & 0x00FF00FF))
    fields = (even & 0xFFFF, odd & 0xFFFF, even >> 16, odd >> 16)
    axes = tuple(range(1, codes.ndim + 1))
    counts = jnp.stack([f.sum(axes, dtype=jnp.int32) for f in fields], 1)
    return counts.ravel()[:steps][::-1]


def _sum_groups(words) -> Array:
    """Sum neighbours along the axis that has the largest groups up to 16.

    Not along the first, which is that of the fours of bits.
    """
    sizes = [max(g for g in range(1, 17) if n % g == 0) for n in words.shape[1:]]
    group = max(sizes, default=1)
    if group == 1:
        return words
    axis = 1 + sizes.index(group)
    shape = [*words.shape[:axis], -1, group, *words.shape[axis + 1 :]]
    return words.reshape(shape).sum(axis + 1, dtype=jnp.uint32)


def spike_count(
    a: Floats,
    theta: Floats | float,
    *,
    levels: int = 15,
    surrogate: str = "paper",
) -> Float[Array, "..."]:
    """Count the spikes that each neuron emits: the bits set in its code.

        sum_t s(t),   k = round(a / delta) = sum_t 2**(T - t) s(t)

    Bits are counted from the rounded code; truncating the float a / delta, as the
    authors' code does, miscounts.

    Gradient: the count is a step function, so the slope of a surrogate is used. It is 0
    at a = 0, except for the last. With T the bits of `levels`:

        "paper"      T for 0 < a < theta, Eq. (12): each bit of an active neuron has
                     slope 1 in a, whatever delta is. None to theta.
        "authors"    levels / theta: slope 1 in the code k = a / delta. As in the
                     authors' code, which averages over the bits.
        "envelope"   1 / (2**b delta), where 2**b is the leading bit of k: the slope
                     below k of the least concave function above the count, which
                     meets it at k = 0, 1, 3, 7, ... A code that is one step from
                     silence is pushed as hard as by "authors", a large one hardly,
                     since a step down from it saves no spike on average. Ours.
        "difference" (count(k + 1) - count(k - 1)) / (2 delta), one-sided at k = 0 and
                     at `levels`. Over values z of a smooth density this is, to the
                     resolution of a code, the gradient of the expected count itself:
                     a shift of z by e carries e density(k + 1/2) of them from k to
                     k + 1, and half of those that lie around the edge have code k,
                     half k + 1. The slope is negative below a power of two, where
                     a larger code is cheaper (7 to 8: three spikes to one). Ours.

    All but the first depend on a / theta alone, and so send -(a / theta) times their
    slope to theta: a threshold that rises saves spikes too.

    Args:
      a: [...] activations on the grid of `qcfs`.
      theta: [] or broadcastable to a, e.g. [C]; clip value in the units of a.
      levels: highest code, at least 1.
      surrogate: one of `SURROGATES`.

    Returns:
      [...] counts in 0..T, in the type of a.

    Raises:
      ValueError: levels < 1, unknown surrogate, or theta does not broadcast to the
        shape of a.

    >>> a = jnp.array([0.0, 1.0, 7.0, 15.0])
    >>> spike_count(a, jnp.array(15.0))
    Array([0., 1., 3., 4.], dtype=float32)
    >>> jax.grad(lambda a: spike_count(a, jnp.array(15.0)).sum())(a)
    Array([0., 4., 4., 0.], dtype=float32)
    """
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    if surrogate not in SURROGATES:
        raise ValueError(
            f"surrogate must be one of {', '.join(SURROGATES)}; got {surrogate!r}"
        )
    theta = aligned(jnp.asarray(theta, a.dtype), a.shape)
    return _spike_count(levels, surrogate, a, theta)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _spike_count(levels, surrogate, a, theta) -> Array:
    return jax.lax.population_count(_code(a, theta, levels)).astype(a.dtype)


def _spike_count_fwd(levels, surrogate, a, theta):
    return _spike_count(levels, surrogate, a, theta), (a, theta)


def _spike_count_bwd(levels, surrogate, residuals, g):
    a, theta = residuals
    to_a, scale_free = SURROGATES[surrogate](a, theta, levels)
    to_a *= g
    if not scale_free:
        return to_a, jnp.zeros_like(theta)
    return to_a, -sum_to_shape(a * to_a, theta.shape) / theta


def _code(a, theta, levels) -> Array:
    return jnp.round(a * (levels / theta)).astype(jnp.int32)


def _paper(a, theta, levels) -> tuple[Array, bool]:
    return jnp.where((a > 0) & (a < theta), levels.bit_length(), 0), False


def _authors(a, theta, levels) -> tuple[Array, bool]:
    return jnp.where(a > 0, levels / theta, 0), True


def _envelope(a, theta, levels) -> tuple[Array, bool]:
    leading = 31 - jax.lax.clz(_code(a, theta, levels) | 1)
    slope = levels / theta * (1 / (1 << leading)).astype(a.dtype)
    return jnp.where(a > 0, slope, 0), True


def _difference(a, theta, levels) -> tuple[Array, bool]:
    code = _code(a, theta, levels)
    above, below = jnp.minimum(code + 1, levels), jnp.maximum(code - 1, 0)
    rise = jax.lax.population_count(above) - jax.lax.population_count(below)
    return levels / theta * (rise / (above - below)).astype(a.dtype), True


# For each: the slope in a, and whether the count it stands for depends on a / theta.
SURROGATES = {
    "paper": _paper,
    "authors": _authors,
    "envelope": _envelope,
    "difference": _difference,
}

_spike_count.defvjp(_spike_count_fwd, _spike_count_bwd)
