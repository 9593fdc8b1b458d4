"""Heads, places and rows of a network with attention."""

import encoders
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import qcfs
from bitsnn_jax.jobs.places import by_head_and_place
from bitsnn_jax.tracing.attention import Attention, Layout, attention
from bitsnn_jax.tracing.outside import rows_outside

PLACES, HEADS, WIDTH = 5, 2, 6
X = jax.ShapeDtypeStruct((1, PLACES, WIDTH), np.float32)


def split(x):
    return x.reshape(*x.shape[:2], HEADS, -1)


def scores(q):
    return jnp.einsum("nqhd,nkhd->nhqk", q, q)


def code_in_front_of_the_reshape(w, x):
    return scores(split(qcfs(x @ w, 1.0)))


def code_behind_it(w, x):
    return scores(qcfs(split(x @ w), 1.0))


def code_in_front_of_both(w, x):
    q = split(qcfs(x @ w, 1.0)).transpose(0, 2, 1, 3)
    return q @ q.transpose(0, 1, 3, 2)


def code_behind_a_transposition(w, x):
    q = qcfs(split(x @ w).transpose(0, 2, 1, 3), 1.0)
    return q @ q.transpose(0, 1, 3, 2)


@pytest.mark.parametrize(
    ("network", "layout", "shape"),
    [
        (code_in_front_of_the_reshape, Layout(HEADS, 2, 1), (1, PLACES, WIDTH)),
        (code_in_front_of_both, Layout(HEADS, 2, 1), (1, PLACES, WIDTH)),
        (code_behind_it, Layout(HEADS, 2, 1), (1, PLACES, HEADS, 3)),
        (code_behind_a_transposition, Layout(HEADS, 1, 2), (1, HEADS, PLACES, 3)),
    ],
)
def test_heads_are_found_wherever_the_code_stands(network, layout, shape):
    found = attention(network, jnp.eye(WIDTH), X)
    assert found == Attention(PLACES, {"neuron": layout})
    # The same neurons, in three orders of the axes.
    code = np.random.default_rng(0).integers(0, 16, (1, PLACES, HEADS, 3))
    ordered = code.transpose(0, 2, 1, 3) if layout.places == 2 else code
    counts = by_head_and_place(ordered.reshape(shape), layout, steps=4)
    bits = code[0, ..., None] >> np.arange(4)[::-1] & 1  # [places, heads, 3, T]
    np.testing.assert_array_equal(counts, bits.sum(2).T)


def test_layers_without_heads_or_places_are_counted_as_a_whole():
    code = np.array([[3, 0, 1]])
    counts = by_head_and_place(code, Layout(), steps=2)
    np.testing.assert_array_equal(counts, [[[1]], [[2]]])


def test_a_network_without_attention_has_no_places():
    def gated(w, x):
        return qcfs(x @ w, 1.0) * qcfs(x @ w + 1, 1.0)

    assert attention(gated, jnp.eye(WIDTH), X) is None


def test_encoders_have_words_in_all_layers_but_the_pooler_and_rows_of_their_length():
    of = encoders.encoder, encoders.variables(layers=1), encoders.sentences(1)
    found = attention(*of)
    assert found.places == encoders.LENGTH
    *layers, on, off = found.layouts.values()
    assert all(layout.places for layout in layers)
    assert on == off == Layout()
    # Queries, keys and values are pairs of neurons, probabilities are not.
    assert sum(layout.heads == encoders.HEADS for layout in layers) == 7

    rows = [(row.operation, row.rows, row.length) for row in rows_outside(*of)]
    softmax = ("softmax", encoders.HEADS * encoders.LENGTH, encoders.LENGTH)
    norm = ("normalise", encoders.LENGTH, encoders.WIDTH)
    assert rows == [norm, softmax, norm, norm]
