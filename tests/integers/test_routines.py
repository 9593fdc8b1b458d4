"""Softmax and LayerNorm in integers: errors, symmetries, the same bits everywhere."""

import types

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsnn_jax.integers import routines
from bitsnn_jax.integers.operations import ROUTINES
from bitsnn_jax.integers.routines import (
    LARGEST_SCORE,
    epsilon_units,
    largest_normalised,
    largest_to_normalise,
    normalise,
    softmax,
    softmax_units,
)

UNITS = 2.0**-40, 2.0**-20, 1e-3, 0.0113, 1.0, 4.0
LENGTHS = 1, 2, 3, 64, 128, 129, 512


def scores(n: int, unit: float, seed: int = 0) -> np.ndarray:
    """Rows of every width, of ties, of one that leads, of extremes."""
    rng, most = np.random.default_rng(seed), LARGEST_SCORE
    rows = [np.zeros(n), np.r_[most, np.full(n - 1, -most)], np.full(n, -most)]
    rows += [
        np.r_[0, np.full(n - 1, -np.log(k * n) / unit)] for k in (0.1, 1, 1e3, 6e4)
    ]
    rows += [rng.normal(size=n) * w / unit for w in (1e-3, 0.1, 1, 3, 10, 100, 1e5)]
    return np.round(rows).clip(-most, most).astype(np.int32)


def features(n: int, seed: int = 0) -> np.ndarray:
    """Rows of every width, with and without outliers, of extremes and of one number."""
    rng, most = np.random.default_rng(seed), largest_to_normalise(n)
    rows = [np.full(n, most), np.r_[most, np.full(n - 1, -most)], np.zeros(n)]
    rows += [
        np.r_[1, np.zeros(n - 1)],
        np.r_[np.full(n // 2, -most), np.full(n - n // 2, most)],
    ]
    rows += [
        rng.normal(size=n) * w + m for w in (1, 9, 300, 2e4) for m in (0, most / 2)
    ]
    rows += [rng.standard_cauchy(size=n) * w for w in (1, 100)]
    m = np.round(most / 3)  # where rounding raises most: see the docstring
    rows += [np.r_[m, (np.arange(n - 1) % 2 * 2 - 1) * round(m / (2 * n) ** 0.5)]]
    return np.round(rows).clip(-most, most).astype(np.int32)


def exact_softmax(z, unit):
    t = np.exp(unit * (z - z.max(-1, keepdims=True)).astype(np.float64))
    return t / t.sum(-1, keepdims=True)


def exact_normalised(z, epsilon, unit):
    z = z.astype(np.float64) * unit
    centred = z - z.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return centred / np.where(deviation == 0, 1, deviation)


@pytest.mark.parametrize("n", LENGTHS)
def test_probabilities_are_off_by_less_than_the_bound(n):
    bound = 2.0**-13 if n <= 128 else 2.0**-12
    for unit in UNITS:
        z = scores(n, unit)
        p = softmax(z, *softmax_units(unit))
        assert p.dtype == np.int32 and p.min() >= 0 and p.max() <= 2**15
        assert np.abs(p / 2**15 - exact_softmax(z, unit)).max() <= bound, unit


@pytest.mark.parametrize("n", [1, 2, 3, 64, 257, 384, 1024])
def test_normalised_numbers_are_off_by_less_than_the_bound(n):
    bound = 0.5 + n**0.5 * (3 / 32 + (1 + 0.39 * n**0.5) / 2048) + 2**-4  # its parts
    for unit, epsilon in (
        (2.0**-10, 0),
        (2.0**-10, 1e-12),
        (1e-3, 1e-5),
        (1, 9),
        (1, 1e6),
    ):
        z = features(n)
        y = normalise(z, *epsilon_units(epsilon, unit, n))
        assert y.dtype == np.int32 and np.abs(y).max() <= largest_normalised(n) < 2**15
        assert np.abs(y - 2**10 * exact_normalised(z, epsilon, unit)).max() <= bound
        assert not y[np.ptp(z, axis=-1) == 0].any()


def test_the_polynomial_is_off_by_less_than_its_bound():
    t = np.arange(2**14)
    z = np.stack([np.zeros_like(t), -t], 1).astype(np.int32)
    # A unit of 2**-14 in t: shift 0 and factor 2**14.
    got = routines._exponentials(z, 0, 2**14, 24)[:, 1] / 2**24
    exact = 2.0 ** (-t / 2**14)
    assert np.abs(got / exact - 1).max() < 1.03e-5
    assert (np.diff(got) < 0).all() and got[0] == 1 and got[-1] > 0.5


ROWS = st.integers(1, 40).flatmap(
    lambda n: st.lists(st.integers(-(2**22), 2**22), min_size=n, max_size=n)
)


@settings(max_examples=50)
@given(ROWS, st.integers(-(2**20), 2**20), st.sampled_from(UNITS), st.randoms())
def test_raising_all_numbers_of_a_row_changes_nothing(row, by, unit, random):
    order = random.sample(range(len(row)), len(row))
    z = np.array(row, np.int32)
    for routine, units in (
        (softmax, softmax_units(unit)),
        (normalise, epsilon_units(1e-6, 2.0**-10, len(row))),
    ):
        y = routine(z, *units)
        np.testing.assert_array_equal(routine(z + np.int32(by), *units), y)
        np.testing.assert_array_equal(routine(z[order], *units), y[order])


def test_a_masked_score_has_no_probability():
    z = np.full((64, 64), 250, np.int32)
    z[np.arange(64) < np.arange(64)[:, None]] -= 100_000  # all but 1..64 of a row
    p = softmax(z, *softmax_units(0.01))
    assert (p[z < 0] == 0).all() and p[-1, -1] == 2**15
    assert (np.abs(p.sum(-1) - 2**15) <= 32).all()


def test_units_may_differ_from_row_to_row():
    units = [softmax_units(unit) for unit in UNITS]
    z = scores(64, 0.01)[: len(UNITS), None]
    shift, factor = (
        np.array(side, np.int32)[:, None, None] for side in zip(*units, strict=True)
    )
    together = softmax(z, shift, factor)
    for row, of_row, mine in zip(z, together, units, strict=True):
        np.testing.assert_array_equal(softmax(row, *mine), of_row)


@pytest.mark.parametrize("n", [3, 512])
def test_jax_and_numpy_give_the_same_bits(n):
    shift, factor = (np.array([[side]]) for side in softmax_units(0.0113))
    z = scores(n, 0.0113)
    fast = jax.jit(lambda z: softmax(z, shift, factor))(z)
    np.testing.assert_array_equal(fast, softmax(z, shift, factor))
    units = epsilon_units(1e-6, 2.0**-10, n)
    z = features(n)
    fast = jax.jit(lambda z: normalise(z, *units))(z)
    np.testing.assert_array_equal(fast, normalise(z, *units))


def test_no_number_on_the_way_needs_more_than_32_bits(monkeypatch):
    """With 64 bits, nothing changes."""
    cases = [(softmax, scores(n, u), softmax_units(u)) for n in LENGTHS for u in UNITS]
    for n, epsilon in ((2, 0), (384, 1e-6), (1024, 1e-6), (1024, 1e3)):
        cases += [(normalise, features(n), epsilon_units(epsilon, 2.0**-10, n))]
    found = [routine(z, *units) for routine, z, units in cases]
    wide = types.SimpleNamespace(**{**vars(np), "int32": np.int64})
    monkeypatch.setattr(routines, "np", wide)
    for (routine, z, units), expected in zip(cases, found, strict=True):
        y = routine(z.astype(np.int64), *units)
        assert y.dtype == np.int64
        np.testing.assert_array_equal(y, expected)


class Counted(np.ndarray):
    """An array that counts what is done with its entries."""

    products, additions = 0, 0
    free = ("bitwise_and", "negative")  # masks

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        plain = [np.asarray(x) for x in inputs]
        made = getattr(ufunc, method)(*plain, **options)
        times = (plain[0] if method == "reduce" else made).size
        if ufunc is np.multiply:
            Counted.products += times
        elif ufunc.__name__ not in self.free:
            # A quotient of 16 bits: a shift, a comparison and a subtraction each.
            Counted.additions += times * (48 if ufunc is np.floor_divide else 1)
        return np.asarray(made).view(Counted)


@pytest.mark.parametrize("kind", ROUTINES)
def test_what_a_routine_costs_is_what_it_does(kind):
    routine = {"softmax": softmax, "normalised": normalise}[kind]
    units = {"softmax": (0, 2**20), "normalised": (2**30, -10)}[kind]
    for rows, entries in ((1, 100), (1, 200), (3, 100)):
        Counted.products = Counted.additions = 0
        routine(np.zeros((rows, entries), np.int32).view(Counted), *units)
        cost = ROUTINES[kind]
        assert Counted.products == rows * (entries * cost.products + cost.row_products)
        added = rows * (entries * cost.additions + cost.row_additions)
        assert Counted.additions == added


def test_wrong_units_and_long_rows_are_refused_in_a_line():
    with pytest.raises(ValueError, match="scores in units of 5, expected"):
        softmax_units(5.0)
    with pytest.raises(ValueError, match="epsilon 1e\\+30 is too large"):
        epsilon_units(1e30, 1e-3, 8)
    with pytest.raises(ValueError, match="rows of 513 entries, expected at most 512"):
        softmax(np.zeros(513, np.int32), 0, 2**20)
    with pytest.raises(ValueError, match="rows of 1025 entries"):
        normalise(np.zeros(1025, np.int32), 0, 0)
