"""A BERT in integers, from tokens to logits: softmax, LayerNorm, tables of vectors."""

import functools

import encoders
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import qcfs
from bitsnn_jax.integers.carriers import CARRIERS
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import FixedPointError, fixed_point
from bitsnn_jax.integers.graph import evaluate
from bitsnn_jax.integers.lowering import LoweringError, lower
from bitsnn_jax.numerics.mixing import lookup, softmax

TOKENS = encoders.sentences(8)
WHITE = np.array([[encoders.WORDS - 1], [1], [1]])


@functools.cache
def graph():
    """Lower one layer, in float64."""
    with jax.enable_x64(True):
        variables = jax.tree.map(np.float64, encoders.variables(layers=1))
        return lower(encoders.encoder, variables, TOKENS[:1])


@functools.cache
def integers():
    """Put it in integers, each node compared with that of the graph."""
    return fixed_point(graph(), steps=4, white=WHITE, inputs=TOKENS[:2])


def test_the_lowered_graph_is_the_program():
    with jax.enable_x64(True):
        variables = jax.tree.map(np.float64, encoders.variables(layers=1))
        wanted = encoders.encoder(variables, TOKENS)
        outputs, _ = evaluate(graph(), jnp.asarray(TOKENS, float))
    np.testing.assert_allclose(outputs["output"][:, 0], wanted, rtol=1e-9)
    kinds = [node.kind for node in graph().nodes]
    assert (kinds.count("softmax"), kinds.count("normalised")) == (1, 3)


def test_one_pass_and_spikes_have_the_same_codes_and_logits_in_every_carrier():
    network = integers()
    runs = [one_shot(network, carrier=c) for c in CARRIERS]
    runs += [stepped(network), stepped(network, unroll=False)]
    first, *others = jax.jit(lambda x: [run(x) for run in runs])(TOKENS)
    for other in others:
        for name, code in first.codes.items():
            np.testing.assert_array_equal(other.codes[name], code, err_msg=name)
        np.testing.assert_array_equal(other.outputs["output"], first.outputs["output"])
