"""Products of two layers, tables and joined maxima: every execution, reader, count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import referee
from bitsnn_jax.exports import bundle_writer, nir_writer
from bitsnn_jax.integers import qat
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import FixedPointError, fixed_point
from bitsnn_jax.integers.graph import (
    Dense,
    Graph,
    Held,
    Max,
    Move,
    Node,
    Reshape,
    Scale,
    Sum,
    Term,
    evaluate,
)
from bitsnn_jax.integers.latent import latent
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.operations import COUNTS, count
from bitsnn_jax.integers.products import with_tops
from bitsnn_jax.numerics.codings import CODINGS

PIXELS = np.random.default_rng(1).integers(0, 256, (5, 8))
ONE = Scale(np.ones(()))


def move(*index):
    return Move(np.array(index, np.int32))


@functools.cache
def graph():
    """Layers of six; a product entry by entry, one of matrices, one with a product."""
    rng = np.random.default_rng(0)

    def dense(source, inputs, outputs, size):
        return Term(source, (), Dense(size * rng.normal(size=(inputs, outputs))), ())

    def layer(name, theta, fn=None):
        terms = (dense("input", 8, 6, 0.01),)
        theta = np.broadcast_to(np.asarray(theta, float), (1, np.size(theta)))
        return Node(name, "neurons", (1, 6), terms, theta=theta, levels=15, fn=fn)

    def product(name, shape, before, held, after=()):
        term = Term("a", before, held, after)
        return Node(name, "sum", shape, (term,))

    rows = np.arange(6, dtype=np.int32)
    matrices = Held("b", (Move(rows[:4].reshape(2, 1, 2)),), (2, 1, 2))
    again = Held("ab", (Move(np.stack([rows, rows]).reshape(2, 3, 2)),), (2, 3, 2))
    joined = (
        Term(
            "a", (move([0, 1, 2, -1, -1, -1]), Reshape((1, 3, 2)), Max((2,))), ONE, ()
        ),
        Term(
            "c", (move([-1, -1, -1, -1, 1, 1]), Reshape((1, 3, 2)), Max((2,))), ONE, ()
        ),
    )
    after = (
        *(dense("ab", 6, 5, 0.5), dense("off", 6, 5, 0.3), dense("abb", 4, 5, 0.2)),
        *(
            dense("c", 6, 5, 0.2),
            dense("qk", 8, 5, 0.2)._replace(before=(Reshape((1, 8)),)),
        ),
    )
    results = dense("d", 5, 3, 1.0), dense("joined", 3, 3, 1.0)
    last = Node("d", "neurons", (1, 5), after, theta=np.full((1, 1), 2.0), levels=15)
    return Graph(
        (
            Node("input", "input", (1, 8)),
            layer("a", 3.0, jax.nn.silu),
            layer("b", 1.0, jax.nn.sigmoid),
            layer("off", np.full(6, 0.25), lambda z: -jax.nn.silu(z)),
            layer("c", np.linspace(1, 3, 6)),
            product("ab", (1, 6), (), Held("b", (Reshape((6, 1, 1)),), (6, 1, 1))),
            product("qk", (1, 2, 2, 2), (Move(rows[:4].reshape(2, 2)),), matrices,
                    (Reshape((1, 2, 2, 2)),)),
            product("abb", (1, 4), (), again),
            Node("joined", "maximum", (1, 3), joined),
            last._replace(fn=jnp.tanh),
            Node("output", "output", (1, 3), results),
        )
    )  # fmt: skip


@functools.cache
def network(steps=4):
    return fixed_point(graph(), steps=steps)


@functools.cache
def expected(steps=4):
    return jax.jit(one_shot(network(steps)))(PIXELS)


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    "steps, options",
    [
        (4, {}),
        (4, {"coding": "signed_digits"}),
        pytest.param(
            *(8, {"carrier": "bfloat16", "unroll": False}), marks=pytest.mark.slow
        ),
        pytest.param(*(8, {"carrier": "int32"}), marks=pytest.mark.slow),
    ],
)
def test_spikes_of_products_are_those_of_codes(steps, options):
    assert_same(expected(steps), jax.jit(stepped(network(steps), **options))(PIXELS))
    carrier = options.get("carrier")
    assert_same(
        expected(steps), jax.jit(one_shot(network(steps), carrier=carrier))(PIXELS)
    )


def test_codes_that_a_product_adds_up_take_more_bits_than_one_of_them():
    nodes = IntegerNode("input", "input", (1, 4)), IntegerNode("a", "neurons", (1, 4))
    added = Held("a", (Sum((1,)), Reshape((1, 1, 1))), (1, 1, 1))
    values = {"a": jnp.full((1, 4), 255, jnp.uint8)}
    term = Term("a", (), added, ())
    held = with_tops(term, values, IntegerNetwork(nodes, 8, 8, 255)).weight
    assert held.kernel.item() == held.largest == 4 * 255


def test_products_of_codes_are_exact_where_16_bits_hold_them():
    made = network()["ab"]
    assert made.fraction == 0 and made.bound == 15 * 15
    np.testing.assert_allclose(made.unit, 3 / 15 / 15)
    assert network(8)["ab"].fraction == 1  # 255 * 255, rounded


def test_integers_are_the_float_network_but_for_rounding():
    with jax.enable_x64(True):
        _, codes = evaluate(graph(), jnp.asarray(PIXELS, float), steps=4)
    for name, code in expected().codes.items():
        # Weights are off by 1/254 of the largest, codes by one now and then.
        assert np.abs(code - codes[name][:, 0]).mean() < 0.1, name


@pytest.mark.parametrize("coding", CODINGS)
def test_the_referee_has_every_spike_and_every_count(coding, tmp_path):
    bundle_writer.save(network(), tmp_path / "net", vectors=PIXELS)
    assert_same(
        expected(), jax.jit(one_shot(bundle_writer.load(tmp_path / "net")))(PIXELS)
    )
    read = referee.read(tmp_path / "net")._replace(coding=coding)
    counts, agreed, difference = referee.compare(read)
    assert agreed > 0 and not difference
    formula = count(network(), expected().codes, examples=len(PIXELS), coding=coding)
    for node in formula.nodes:
        for field in set(COUNTS) - {"code_multiply_accumulates"}:
            where = f"{field} of {node.name}"
            assert getattr(counts[node.name], field) == getattr(node, field), where
    assert counts["ab"].synaptic_operations == sum(counts["a"].spikes)
    assert counts["off"].compares == 2 * counts["a"].compares
    assert counts["off"].resets == 0


def test_nir_keeps_tables_and_products(tmp_path):
    pytest.importorskip("nir")
    nir_writer.write(tmp_path / "net.nir", network())
    read = nir_writer.read(tmp_path / "net.nir")
    bounds = {node.name: node.bound for node in network().nodes}
    assert {node.name: node.bound for node in read.nodes} == bounds
    assert_same(expected(), jax.jit(one_shot(read))(PIXELS))


@pytest.mark.slow
def test_what_is_trained_is_the_network_in_integers():
    start = latent(graph(), steps=4, bits=8)
    result = one_shot(start.network)(PIXELS)
    with jax.enable_x64(True):
        run, x = qat.forward(start.network), jnp.asarray(PIXELS, float)
        _, codes = run(start.params, x)
        slopes = jax.grad(lambda p: run(p, x)[0]["output"].sum())(start.params)
    for name, code in result.codes.items():
        np.testing.assert_array_equal(codes[name], code, err_msg=name)
    # Through a table, a product, and what a product holds.
    assert all(np.any(slopes[name]["kernels"][0]) for name in ("a", "b", "off", "c"))


def test_units_that_differ_along_what_is_added_up_are_an_error():
    nodes = [
        node._replace(theta=np.linspace(1, 2, 6)[None]) if node.name == "a" else node
        for node in graph().nodes
    ]
    with pytest.raises(FixedPointError, match="^abb: .*different units"):
        fixed_point(Graph(tuple(nodes)), steps=4)
