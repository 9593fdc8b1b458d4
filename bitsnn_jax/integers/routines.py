"""Softmax and LayerNorm without weights, in integers of 32 bits.

Both mix the numbers of a row (the last axis), so no neuron computes them. They use +,
-, *, shifts, comparisons and integer division only, on int32 arrays of NumPy or of JAX.
No step leaves 31 bits and none is rounded by the machine, so both give the same bits
everywhere. Exponentials become shifts and a polynomial, as in I-BERT (Kim et al.,
2021); unlike there, errors have a bound for every input, which the docstrings prove.

`softmax_units` and `epsilon_units` say in integers what the units of z are.
"""

import functools
import math
from typing import Any

import numpy as np

# A probability is in units of 2**-15, a normalised number in units of 2**-10.
PROBABILITY_BITS, NORMALISED_BITS = 15, 10
# Entries of a row, at most.
MOST_SCORES, MOST_FEATURES = 512, 1024
LARGEST_SCORE = 2**29 - 1
# Exponentials have at most 24 bits behind the point, so exp2(-26) is rounded to 0.
EXPONENTIAL_BITS, NEVER = 24, 26
# exp2(-x) = 1 - x (c0 - x (c1 - x (c2 - x c3))), for 0 <= x < 1. Coefficient i has
# 17 + 2 i bits behind the point. The relative error is at most 1.03e-5, the rounding of
# its steps included: a test goes through all x.
POLYNOMIAL = (90840, 125517, 111418, 56862)


def softmax(z: Any, shift: Any, factor: Any) -> Any:
    """Compute the softmax of each row, in units of 2**-15.

        p_i = exp2(-t_i) / sum_j exp2(-t_j),   t_i = (max z - z_i) unit / ln 2

    Error: |p - softmax(unit z)| <= 2**-13 for rows of up to 128 entries, 2**-12 for up
    to 512. It is the sum of these, where p(1 - p) <= 1/4 is the slope of p in the
    logarithm of its odds:

        differences of z, rounded to 2**-12 in t      ln 2 / 4 2**-12        4.3e-5
        `factor`, to 2**-16 of itself                 (ln(n) + 1) / 4 2**-16 2.8e-5
        t, in units of 2**-14, of a floor in 2**-15   ln 2 / 4 (3 2**-15)    1.6e-5
        `POLYNOMIAL`                                  2 / 4 1.03e-5          0.6e-5
        exponentials, in units of 2**-E               n 2**-(E + 1)          12.3e-5
        p, rounded                                    2**-16                 1.6e-5

    with E = min(24, 30 - ceil(log2 n)). The second is a bound of |dp / dlog(unit)|
    times the error: p_i (sum_j p_j t_j - t_i) ln 2 <= p (1 - p) (log odds + ln(n - 1)).
    The fifth is 0.8e-5 for n <= 128.

    Largest numbers on the way: differences of |z| < 2**29 and half of 2**shift, below
    2**31; their products with the parts of `factor`, below 26 2**13 2**13 < 2**31;
    those of the polynomial, 90840 2**14 < 2**31; the sum of a row, n 2**E <= 2**30, and
    twice a rest of it.

    Args:
      z: int32 [..., n], |z| <= `LARGEST_SCORE`, n <= 512.
      shift, factor: of `softmax_units`: integers, or int32 that broadcast to z, with a
        last axis of 1.

    Returns:
      int32 [..., n] in 0..2**15. It does not change when all of a row are raised by the
      same number. A row adds up to 2**15 but for n / 2 units and the errors above.

    Raises:
      ValueError: rows that are too long.

    >>> softmax(np.array([5, 5, -9999], np.int32), *softmax_units(0.01))
    array([16384, 16384,     0], dtype=int32)
    """
    entries = _entries(z, MOST_SCORES)
    exponentials = _exponentials(z, shift, factor, _exponential_bits(entries))
    total = _sum(exponentials)
    # Long division: one bit of the quotient a step, and one more that rounds it.
    quotient = (exponentials >= total).astype(np.int32)
    rest = exponentials - (total & -quotient)
    for _ in range(PROBABILITY_BITS + 1):
        rest = rest + rest
        bit = (rest >= total).astype(np.int32)
        rest = rest - (total & -bit)
        quotient = quotient + quotient + bit
    return (quotient + 1) >> 1


def softmax_units(unit: float) -> tuple[int, int]:
    """Say in integers how much a unit of the scores is, for `softmax`.

        unit / ln 2 = factor 2**(-28 - shift),   2**15 <= factor < 2**31

    Args:
      unit: what z = 1 stands for, 2**-40 to 4.

    Returns:
      shift, factor: z is rounded to units of 2**shift first, which is 0 where one unit
      changes the base-2 logarithm of a probability by 2**-13 or more.

    Raises:
      ValueError: a unit out of range.

    >>> softmax_units(0.01)
    (0, 3872705)
    """
    if not 2.0**-40 <= unit <= 4:
        raise ValueError(
            f"scores in units of {unit:.3g}, expected 2**-40 to 4: choose another unit"
        )
    per_unit = unit / math.log(2)
    shift = max(0, math.ceil(-13 - math.log2(per_unit)))
    return shift, round(per_unit * 2.0 ** (28 + shift))


def normalise(z: Any, mantissa: int, exponent: int) -> Any:
    """Shift and scale each row to mean 0 and variance 1, in units of 2**-10.

        y_i = c_i sqrt(n) / sqrt(sum_j c_j**2 + e),   c_i = n z_i - sum_j z_j,
        e = n**3 epsilon / unit**2 = mantissa 2**exponent

    c is exact. Each row is scaled by a power of two, so that the largest |c| has 20
    bits (down, it is rounded) and c' = c / 32, rounded, has 15.

    Error: at most 1 + 3 sqrt(n) / 32 units, 4 for n = 1024, which is 2**-8. It is the
    sum of these, in units, with |y| <= sqrt(n) 2**10 and sqrt(sum c'**2) >= 2**14:

        c', rounded                               1/2 sqrt(n) 2**10 / 2**14
        sqrt(n), to 2**-15 of itself              sqrt(n) 2**10 / 2**15
        the root, to 2**-15 of itself             sqrt(n) 2**10 / 2**15
        c in the sum of squares, to 1/64 in c'    sqrt(n) (1 + 0.39 sqrt(n)) 2**-11
        y, rounded                                1/2

    The fourth is largest where rounding raises every |c|: the sum of squares grows by
    sum |c'| / 32 at most.

    Largest numbers on the way: |c| <= 2 n |z| < 2**30; c'**2 <= 2**30, of which the
    high and the low 15 bits are added up apart, each sum below n 2**15 = 2**25; c'
    times sqrt(n) in 15 bits, 2**30.

    Args:
      z: int32 [..., n], |z| <= `largest_to_normalise(n)`, n <= 1024.
      mantissa, exponent: of `epsilon_units`.

    Returns:
      int32 [..., n], |y| <= `largest_normalised(n)`. It does not change when all of a
      row are raised by the same number. Rows of equal numbers give 0.

    Raises:
      ValueError: rows that are too long.

    >>> normalise(np.array([1, 3], np.int32), *epsilon_units(0.0, 1.0, 2))
    array([-1024,  1024], dtype=int32)
    """
    entries = _entries(z, MOST_FEATURES)
    centred = entries * z - _sum(z)
    largest = (
        abs(centred).max(axis=-1, keepdims=True).clip(least_size(mantissa, exponent))
    )
    length = _count(largest >= 1 << k for k in range(31))
    up, down = (20 - length).clip(0), (length - 20).clip(0)
    fine = ((centred << up) + (1 << down >> 1)) >> down
    coarse = (fine + 16) >> 5
    epsilon = mantissa >> (10 + 2 * (down - up) - exponent).clip(0, 31)
    high, low = _squares(coarse, fine - (coarse << 5), epsilon)
    factor, places = root_of_entries(entries)
    divisor = _divisor(high, low, places - NORMALISED_BITS)
    return (coarse * factor + (divisor >> 1)) // divisor


def epsilon_units(epsilon: float, unit: float, entries: int) -> tuple[int, int]:
    """Say in integers what is added to the variance, for `normalise`.

    Args:
      epsilon: 0 or more, in the units of the network.
      unit: what z = 1 stands for.
      entries: of a row.

    Returns:
      mantissa, exponent: 2**30 <= mantissa < 2**31, or 0 and 0.

    Raises:
      ValueError: an epsilon that leaves nothing of any row.

    >>> epsilon_units(1.0, 1.0, 2)
    (1073741824, -27)
    """
    part, exponent = math.frexp(entries**3 * epsilon / unit**2)
    if exponent > 60:
        raise ValueError(
            f"epsilon {epsilon:.3g} is too large beside numbers in units of {unit:.3g}"
        )
    # Below, it is nothing beside a variance of one unit.
    return (int(part * 2**31), exponent - 31) if exponent > -60 else (0, 0)


def largest_to_normalise(entries: int) -> int:
    """Return the largest |z| that `normalise` takes, 2**19 for 1024 entries."""
    return (2**29 - 1) // entries


def largest_normalised(entries: int) -> int:
    """Return the largest |y| of `normalise`, its error included: below 2**15."""
    return math.isqrt((entries - 1) << (2 * NORMALISED_BITS)) + 5


def _entries(z, most: int) -> int:
    if z.shape[-1] > most:
        raise ValueError(f"rows of {z.shape[-1]} entries, expected at most {most}")
    return z.shape[-1]


def _exponential_bits(entries: int) -> int:
    return min(EXPONENTIAL_BITS, 30 - (entries - 1).bit_length())


def _exponentials(z, shift, factor, bits):
    """Return exp2(-t), with so many bits behind the point."""
    shift, factor = np.asarray(shift, np.int32), np.asarray(factor, np.int32)
    # From there on, exponentials are 0; no difference is beyond 2 LARGEST_SCORE.
    farthest = ((NEVER << 28) // factor.astype(np.int64) + 1) << shift
    farthest = np.minimum(farthest, 2 * LARGEST_SCORE).astype(np.int32)
    distance = (z.max(axis=-1, keepdims=True) - z).clip(None, farthest)
    distance = (distance + (1 << shift >> 1)) >> shift
    t = distance * (factor >> 13) + (distance * (factor & 8191) >> 13)  # in 2**-15
    t = (t + 1) >> 1
    x, sum_ = t & 16383, POLYNOMIAL[-1]
    for coefficient in POLYNOMIAL[-2::-1]:
        sum_ = coefficient - ((x * sum_ + 2**15) >> 16)
    below_one = (x * sum_ + (1 << (30 - bits))) >> (31 - bits)
    halvings = (t >> 14).clip(None, 30)
    return ((1 << bits) - below_one + (1 << halvings >> 1)) >> halvings


def _squares(coarse, rest, epsilon):
    """Return (high, low): sum (coarse + rest / 32)**2 + epsilon = high 2**15 + low.

    The square of the rest is left out: it is at most 1/4.
    """
    squares = coarse * coarse
    high, low = _sum(squares >> 15), _sum(squares & 32767)
    low = low + (_sum(coarse * rest) >> 4) + epsilon
    return high + (low >> 15), low & 32767


def _divisor(high, low, places: int) -> Any:
    """Return 2**places times the root of high 2**15 + low, rounded; 1 instead of 0.

    The sum is shifted right by an even number of bits, to less than 2**30. Its root is
    found bit by bit, and 5 more bits by a step of Newton's.
    """
    halves: Any = _count(high >= 1 << k for k in range(15, 27, 2))
    square = (high << (15 - 2 * halves)) + (low >> 2 * halves)
    root = square * 0
    for k in reversed(range(15)):
        larger = root + (1 << k)
        root = root + ((larger * larger <= square).astype(np.int32) << k)
    root = (root << 5) + ((square - root * root) << 4) // root.clip(1)
    left = (halves + (places - 5)).clip(0)
    right = ((5 - places) - halves).clip(0)
    return (((root << left) + (1 << right >> 1)) >> right).clip(1)


def root_of_entries(entries: int) -> tuple[int, int]:
    """Return the root of `entries` in at most 15 bits, and how many are a fraction."""
    places = next(k for k in range(15, 0, -1) if entries << 2 * k <= 1 << 30)
    return (math.isqrt(entries << (2 * places + 2)) + 1) >> 1, places


def least_size(mantissa: int, exponent: int) -> int:
    """Return more than the root of mantissa 2**exponent, or 1: as if a |c| were it."""
    left, right = max(exponent, 0), max(-exponent, 0)
    return math.isqrt(mantissa << left >> right) + 1


def _sum(x):
    return x.sum(axis=-1, keepdims=True, dtype=np.int32)


def _count(conditions) -> Any:
    """Return how many hold, for each row."""
    return functools.reduce(lambda n, holds: n + holds.astype(np.int32), conditions, 0)
