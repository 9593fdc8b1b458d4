"""Softmax, LayerNorm and tables of vectors in integers, from tokens to logits."""

import functools

import encoders
import jax
import numpy as np
import pytest

from bitsnn_jax import qcfs
from bitsnn_jax.integers.carriers import CARRIERS
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import (
    FixedPointError,
    begun,
    extended,
    fixed_point,
)
from bitsnn_jax.integers.gptq import gptq
from bitsnn_jax.integers.graph import ROWS, Graph, Node, evaluate
from bitsnn_jax.integers.latent import latent
from bitsnn_jax.integers.linear_rules import LoweringError
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.integers.network import largest_sum
from bitsnn_jax.numerics.mixing import lookup, normalise, softmax

WORDS, LENGTH, WIDTH = 7, 3, 4
WHITE = np.array([[WORDS - 1], [1]])  # of word ids, and of the mask


def drawn(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


VARIABLES = {
    "words": drawn(WORDS, WIDTH, seed=0),
    "scale": 1 + 0.1 * drawn(WIDTH, seed=1),
    "scores": 2 * drawn(WIDTH, LENGTH, seed=2),
    "last": drawn(LENGTH * LENGTH, 2, seed=3),
}
TOKENS = np.random.default_rng(4).integers(0, [[WORDS], [2]], (9, 2, LENGTH))
TOKENS[:, 1, 0] = 1  # one word at least


def network(v, tokens):
    words, mask = tokens[:, 0], tokens[:, 1].astype(v["scale"].dtype)
    x = v["scale"] * normalise(lookup(v["words"], words), epsilon=1e-3) + 0.2
    scores = qcfs(x, 1.3) @ v["scores"] + ((mask - 1) * 1000)[:, None]
    return qcfs(softmax(scores), 0.83).reshape(len(x), -1) @ v["last"]


@functools.cache
def graph():
    return lower(network, VARIABLES, TOKENS[:1])


@functools.cache
def integers():
    """Put it in integers, without a comparison of each node with that of the graph."""
    network = begun(graph(), steps=2, bits=8, white=WHITE)
    for node in graph().nodes[1:]:
        network = extended(network, node)
    return network


def test_the_lowered_graph_is_the_program():
    # In float32, where no sum of this network lies on a threshold.
    lowered = graph()
    outputs, _ = jax.jit(lambda x: evaluate(lowered, x))(TOKENS.astype(np.float32))
    wanted = jax.jit(network)(VARIABLES, TOKENS)
    np.testing.assert_allclose(outputs["output"][:, 0], wanted, rtol=1e-5, atol=1e-5)
    kinds = [node.kind for node in lowered.nodes]
    assert kinds == ["input", "normalised", "neurons", "softmax", "neurons", "output"]


def assert_same(runs, tokens):
    first, *others = jax.jit(lambda x: [run(x) for run in runs])(tokens)
    for other in others:
        for name, code in first.codes.items():
            np.testing.assert_array_equal(other.codes[name], code, err_msg=name)
        np.testing.assert_array_equal(other.outputs["output"], first.outputs["output"])


def test_one_pass_and_spikes_have_the_same_codes_and_logits():
    assert_same([one_shot(integers()), stepped(integers())], TOKENS)


@pytest.mark.slow
def test_rounding_explains_every_difference_from_the_graph():
    fixed_point(graph(), steps=4, white=WHITE, inputs=TOKENS)


@pytest.mark.slow
def test_all_carriers_have_the_same_codes_and_logits():
    runs = [one_shot(integers(), carrier=c) for c in CARRIERS]
    assert_same([*runs, stepped(integers(), unroll=False)], TOKENS)


def test_a_mask_leaves_the_scores_beside_it_precise():
    scores = integers()["softmax"]
    [spikes, mask] = scores.terms
    # The unit is as fine as the weights let it be, whatever the mask brings.
    assert np.abs(spikes.numbers).max() == 127
    assert spikes.numbers.dtype == np.int8 and mask.numbers.dtype == np.int16
    # Of the mask, 1 is the largest number, and not the last word.
    brought = 2000 / scores.row_unit
    assert brought < scores.bound == largest_sum(scores, integers()) < 1.1 * brought


def test_what_comes_from_a_table_does_not_depend_on_the_last_row():
    node = integers()["normalised"]
    [term] = node.terms
    rows = np.abs(term.numbers.astype(int)).max(0)
    assert largest_sum(node, integers()) == rows.max()
    assert term.numbers.dtype == np.int16


@pytest.mark.parametrize(
    "fn, said",
    [
        (lambda v, x: lookup(v["words"], x[:, 0] + x[:, 1]), "are a sum|computed"),
        (lambda v, x: lookup(x[0] * v["scale"][:1], x[:, 0]), "depends on the input"),
    ],
)
def test_rows_are_looked_up_by_integers_of_the_input_as_they_are(fn, said):
    with pytest.raises(LoweringError, match=said):
        lower(fn, VARIABLES, TOKENS[:1])


@pytest.mark.parametrize("kind, entries", [("softmax", 513), ("normalised", 1025)])
def test_rows_that_no_routine_takes_are_refused(kind, entries):
    start = Node("input", "input", (1, entries))
    term = graph()["softmax"].terms[0]._replace(source="input", before=(), after=())
    one = term._replace(weight=type(graph()["neuron"].terms[0].weight)(np.ones(())))
    rows = Node("rows", kind, (1, entries), (one,))
    with pytest.raises(FixedPointError, match=f"rows: rows of {entries} numbers"):
        fixed_point(Graph((start, rows)), steps=2)


def test_rows_are_not_fine_tuned_in_integers():
    with pytest.raises(ValueError, match="normalised: weights behind a node of kind"):
        latent(graph(), steps=2, bits=8)


def test_the_largest_integers_of_an_input_have_its_shape():
    with pytest.raises(ValueError, match=r"white has the shape \(5,\), expected"):
        fixed_point(graph(), steps=4, white=np.ones(5))


@pytest.mark.slow
def test_rounding_that_looks_at_sentences_loses_less():
    tokens = encoders.sentences(64)
    white = np.array([[encoders.WORDS - 1], [1], [1]])
    of_bert = lower(encoders.encoder, encoders.variables(layers=1), tokens[:1])
    outputs = jax.jit(lambda x: evaluate(of_bert, x, steps=4)[0]["output"])
    wanted = outputs(tokens.astype(np.float32))[:, 0]

    def lost(of_bert):
        rounded = fixed_point(of_bert, steps=4, bits=4, white=white, inputs=tokens[:1])
        found = jax.jit(one_shot(rounded))(tokens).outputs["output"]
        return np.abs(found * rounded["output"].unit - wanted).mean()

    closer = gptq(of_bert, tokens, steps=4, bits=4, white=white)
    assert lost(closer) < lost(of_bert)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 4, 8])
def test_a_bert_runs_in_integers_from_tokens_to_logits(steps):
    tokens = encoders.sentences(40)
    white = np.array([[encoders.WORDS - 1], [1], [1]])
    of_bert = lower(encoders.encoder, encoders.variables(), tokens[:1])
    in_integers = fixed_point(of_bert, steps=steps, white=white, inputs=tokens[:4])
    assert len(in_integers.of_kind(*ROWS)) == 7
    assert_same([one_shot(in_integers), stepped(in_integers)], tokens)
