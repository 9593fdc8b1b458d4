"""The ledger of biases: what is asked is what comes out, or it is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.conversion.bias_ledger import (
    BiasLedger,
    DifferentPlaces,
    Origin,
    moved,
)
from bitsnn_jax.tracing.equations import apply_equation
from bitsnn_jax.tracing.reading import SpikingError
from bitsnn_jax.tracing.values import Constant

LEAF = np.arange(6, dtype=np.float32).reshape(2, 3)
WANTED = LEAF**2 + 10


def ledger():
    return BiasLedger([LEAF, LEAF], ["first", "second"])


def use(move=lambda leaf: leaf, leaf=0):
    """The origin of a leaf after a move."""
    program = jax.make_jaxpr(move)(LEAF)
    value = Constant(LEAF, Origin(leaf))
    for eqn in program.jaxpr.eqns:
        origin = moved(eqn, [value])
        value = Constant(apply_equation(eqn, [value.value])[0], origin)
    return value.origin


MOVES = {
    "none": lambda x: x,
    "reshaped": lambda x: x.reshape(3, 1, 2),
    "transposed": lambda x: x.T,
    "broadcast": lambda x: jnp.broadcast_to(x, (4, 2, 3)),
    "reversed": lambda x: x[::-1],
    "one after another": lambda x: jnp.repeat(x.T.reshape(2, 3)[:, ::-1], 2, axis=0),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_moved_values_that_are_asked_are_the_values_of_the_leaf(move):
    book = ledger()
    book.change(use(move), np.asarray(move(WANTED)), "layer")
    [(leaf, values)] = book.changed().items()
    assert leaf == 0
    np.testing.assert_array_equal(values, WANTED)
    assert values.dtype == np.float64  # rounded once, by `convert`


def test_entries_that_nobody_asks_for_stay():
    book = ledger()
    book.change(use(lambda x: x[0, 1:]), WANTED[0, 1:], "layer")
    values = book.changed()[0]
    np.testing.assert_array_equal(values[0, 1:], WANTED[0, 1:])
    np.testing.assert_array_equal(values[1], LEAF[1])
    assert values[0, 0] == LEAF[0, 0]
    assert ledger().changed() == {}


def test_places_that_ask_for_the_same_agree():
    book = ledger()
    for path in ("first", "second"):
        book.change(use(), WANTED, path)
    np.testing.assert_array_equal(book.changed()[0], WANTED)


def test_places_that_ask_for_different_values_are_an_error_with_leaf_and_module():
    book = ledger()
    book.change(use(lambda x: x[0]), WANTED[0], "here")
    book.change(use(lambda x: x[1]), WANTED[1], "there")
    with pytest.raises(SpikingError, match="first is used in elsewhere/too and"):
        book.change(use(lambda x: x[0]), 2 * WANTED[0], "elsewhere/too")


@pytest.mark.parametrize("first", ["keep", "change"])
def test_a_value_cannot_both_stay_and_change_whoever_asks_first(first):
    book = ledger()
    asks = [
        lambda: book.keep(use(lambda x: x[:, 0]), "image"),
        lambda: book.change(use(lambda x: x[0]), WANTED[0], "layer"),
    ]
    for ask in asks if first == "keep" else reversed(asks):
        ask()
    with pytest.raises(SpikingError, match="first is used in image and elsewhere"):
        book.changed()


def test_other_entries_and_other_leaves_may_stay():
    book = ledger()
    book.keep(use(lambda x: x[1]), "image")
    book.keep(use(leaf=1), "image")
    book.change(use(lambda x: x[0]), WANTED[0], "layer")
    assert list(book.changed()) == [0]


def test_one_entry_has_one_value():
    book, origin = ledger(), use(lambda x: jnp.broadcast_to(x, (2, 2, 3)))
    with pytest.raises(DifferentPlaces, match="first would differ from place to place"):
        book.change(origin, np.stack([WANTED, 2 * WANTED]), "layer")
    book.change(origin, np.stack([WANTED, WANTED * (1 + 2**-22)]), "layer")  # rounding


def test_what_is_computed_from_a_leaf_is_no_longer_it():
    assert use(lambda x: -x[0]) is None
    assert use(lambda x: x.sum(0)) is None
