"""A network from words to logits, in integers: tables, normalised rows, a softmax."""

import functools

import numpy as np

from bitsnn_jax.integers import routines
from bitsnn_jax.integers.graph import Dense, Lookup, Move, Reshape, Scale, Term
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode, largest_sum

WORDS, LENGTH, WIDTH = 7, 3, 4
TOKENS = np.random.default_rng(4).integers(0, [[WORDS], [2]], (5, 2, LENGTH))
TOKENS[:, 1, 0] = 1  # one word at least


@functools.cache
def tokens_to_logits():
    """Words from a table, normalised; scores with a mask, softmax; T = 4."""
    rng, of = np.random.default_rng(0), np.int32

    def drawn(*shape, top=127, dtype=np.int8):
        return rng.integers(-top, top, shape, dtype)

    def row(i, repeated=1):  # of the input
        places = np.arange(LENGTH * i, LENGTH * (i + 1), dtype=of)
        return Move(np.tile(places, (1, repeated, 1)))

    table = Lookup(drawn(WORDS, WIDTH, top=32000, dtype=np.int16))
    scores = Term(
        "code",
        (Reshape((LENGTH, WIDTH)),),
        Dense(drawn(WIDTH, LENGTH)),
        (Reshape((1, LENGTH, LENGTH)),),
    )
    mask = Term("input", (row(1, LENGTH),), Scale(np.array(30000, np.int16)), ())
    flat = (Reshape((1, LENGTH**2)),)
    last = Term("chosen", flat, Dense(drawn(LENGTH**2, 2)), ())
    network = IntegerNetwork(
        (IntegerNode("input", "input", (1, 2, LENGTH), bound=WORDS - 1),),
        *(4, 8, WORDS - 1),
        tops=np.array([[WORDS - 1], [1]]),
    )
    for node in (
        IntegerNode(
            *("words", "normalised", (1, LENGTH, WIDTH)),
            (Term("input", (row(0), Reshape((1, LENGTH))), table, ()),),
            fraction=np.array([3, 4, 3, 3], of),
            routine=routines.epsilon_units(1e-3, 2.0**-9, WIDTH),
            row_unit=2.0**-9,
            unit=np.array(2.0**-10),
        ),
        IntegerNode(
            *("code", "neurons", (1, LENGTH, WIDTH)),
            (Term("words", (), Scale(np.full(WIDTH, 300, np.int16)), ()),),
            fraction=np.array(14, of),
        ),
        IntegerNode(
            *("softmax", "softmax", (1, LENGTH, LENGTH)),
            (scores, mask),
            bias=np.array(-30000, of),
            routine=routines.softmax_units(1e-3),
            row_unit=1e-3,
            unit=np.array(2.0**-15),
        ),
        IntegerNode(
            *("chosen", "neurons", (1, LENGTH, LENGTH)),
            (Term("softmax", (), Scale(np.array(30, np.int16)), ()),),
            fraction=np.array(15, of),
        ),
        IntegerNode("output", "output", (1, 2), (last,), bias=np.array([9, -9], of)),
    ):
        bound = largest_sum(node, network) + int(node.half.max())
        nodes = (*network.nodes, node._replace(bound=bound))
        network = IntegerNetwork(nodes, 4, 8, WORDS - 1, network.tops)
    return network
