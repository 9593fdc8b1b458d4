"""The layer graph: the same network, and an error for what it cannot say."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    OF_ONE_IMAGE,
    Concatenated,
    Inverted,
    Pooling,
    Residual,
    act,
    build,
    norm,
)

from bitsnn_jax import qcfs
from bitsnn_jax.config import Model
from bitsnn_jax.conversion.readings import OneShot, run
from bitsnn_jax.integers.graph import Conv, Dense, Move, Scale, evaluate
from bitsnn_jax.integers.linear_rules import LoweringError
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.models import build_model
from bitsnn_jax.numerics.qcfs import grid_codes
from bitsnn_jax.tracing.reading import SpikingError


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


class Codes(OneShot):
    """The re-quantised ANN, keeping its codes."""

    def __init__(self, **options):
        super().__init__(**options)
        self.codes = {}

    def observe(self, site, z, a, delta):
        self.codes[site.path] = grid_codes(a, delta)


def assert_same_network(apply_fn, variables, x, graph, steps):
    def ann(variables, x):
        reading = Codes(steps=steps)
        return run(reading, apply_fn, variables, x), reading.codes

    output, expected_codes = jax.jit(ann)(variables, x)
    outputs, codes = jax.jit(lambda x: evaluate(graph, x, steps=steps))(x)
    for path, expected in expected_codes.items():
        np.testing.assert_array_equal(codes[path][:, 0], expected, err_msg=path)
    # Sums in another order, over at most some thousand terms of order 1.
    np.testing.assert_allclose(outputs["output"][:, 0], output, atol=1e-11)


@pytest.mark.parametrize("network", OF_ONE_IMAGE)
def test_the_graph_has_every_code_of_the_network(network, x64):
    apply_fn, variables, x = build(network)
    graph = lower(apply_fn, variables, x[:1])
    assert_same_network(apply_fn, variables, x, graph, 4)


@pytest.mark.parametrize(
    "name, pool",
    [
        ("resnet20", "average"),
        pytest.param("vgg16", "max", marks=pytest.mark.slow),
        pytest.param("mobilenetv2", "average", marks=pytest.mark.slow),
    ],
)
def test_networks_of_the_zoo_are_lowered(name, pool, x64):
    settings = Model(name=name, width=0.25, pool=pool, theta_init=1.0)
    model = build_model(settings, image_shape=(16, 16, 3))
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables = model.init(jax.random.key(1), x, train=False)

    def apply_fn(variables, x):
        return model.apply(variables, x, train=False)

    graph = lower(apply_fn, variables, x[:1])
    assert_same_network(apply_fn, variables, x, graph, 4)


def test_batch_norm_goes_into_kernels():
    apply_fn, variables, x = build(Residual)
    for node in lower(apply_fn, variables, x[:1]).nodes:
        for term in node.terms:
            shortcut = isinstance(term.weight, Scale)
            assert not shortcut or np.size(term.weight.factor) == 1
            assert shortcut or isinstance(term.weight, (Conv, Dense))
            assert not term.after


def test_a_second_weight_makes_a_sum():
    apply_fn, variables, x = build(Inverted)
    graph = lower(apply_fn, variables, x[:1])
    sums = [node.name for node in graph.of_kind("sum")]
    assert sums == ["Inverted", "Inverted@2"]
    # The skip of the second block starts from the first sum, not from its terms again.
    assert "Inverted" in [term.source for term in graph["Inverted@2"].terms]


def test_maxima_are_nodes_and_keep_their_windows():
    apply_fn, variables, x = build(Pooling)
    maxima = lower(apply_fn, variables, x[:1]).of_kind("maximum")
    assert [node.shape[1:3] for node in maxima] == [(4, 4), (4, 4), (6,)]


def test_a_graph_can_be_printed_and_drawn():
    apply_fn, variables, x = build(Pooling)
    graph = lower(apply_fn, variables, x[:1])
    lines = str(graph).splitlines()
    assert len(lines) == len(graph.nodes) + 1
    assert lines[2].split() == "QCFS_0 neurons 8x8x6 input (conv 3x3x3x6)".split()
    text = graph.dot()
    assert text.count(" -> ") == sum(len(node.terms) for node in graph.nodes)
    assert '"QCFS_0" -> "max" [label="windowmax identity"]' in text


def test_moves_one_after_another_are_one_index():
    graph = lower(
        lambda v, x: qcfs(x, 1.0).reshape(1, 6)[:, ::2].T @ jnp.ones((1, 2)),
        {},
        jnp.zeros((1, 2, 3)),
    )
    [term] = graph["output"].terms
    [move] = term.before
    assert isinstance(move, Move)
    np.testing.assert_array_equal(move.index.ravel(), [0, 2, 4])


def test_a_border_of_padded_constants_goes_into_the_bias(x64):
    class Shifted(nn.Module):
        @nn.compact
        def __call__(self, x):
            return act()(nn.Conv(2, (3, 3), use_bias=False)(norm()(x)))

    apply_fn, variables, x = build(Shifted)
    graph = lower(apply_fn, variables, x[:1])
    bias = graph.of_kind("neurons")[0].bias
    assert bias.shape == (1, 8, 8, 2)
    assert not np.allclose(bias[0, 0, 0], bias[0, 4, 4])
    assert_same_network(apply_fn, variables, x, graph, 4)


def test_a_network_of_constants_has_no_terms():
    graph = lower(lambda v, x: qcfs(v, 2.0) + 0 * x, jnp.ones((1, 3)), jnp.ones((1, 3)))
    assert graph["neuron"].terms == ()
    assert graph["neuron"].bias == 1


def test_what_has_no_words_in_a_graph_is_an_error_with_its_module():
    class Dynamic(nn.Module):
        @nn.compact
        def __call__(self, x):
            a = act(name="spikes")(x)[None]
            return jax.lax.conv_general_dilated(a, a, (1,), "VALID")

    model = Dynamic()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 3)))
    with pytest.raises(LoweringError, match="^Dynamic: `conv_general_dilated` of two"):
        lower(model.apply, variables, jnp.zeros((1, 3)))


def test_what_is_not_linear_is_an_error():
    with pytest.raises(SpikingError, match="`exp`"):
        lower(lambda v, x: jnp.exp(qcfs(x, 1.0)), {}, jnp.zeros((1, 3)))


@pytest.mark.parametrize("shape", [(2, 3), ()])
def test_an_example_has_a_batch_of_one(shape):
    with pytest.raises(ValueError, match="one input with a batch of 1"):
        lower(lambda v, x: x, {}, jnp.zeros(shape))


def test_concatenation_is_a_term_for_each_part():
    apply_fn, variables, x = build(Concatenated)
    last = lower(apply_fn, variables, x[:1]).of_kind("neurons")[-1]
    assert len(last.terms) == 4


def test_sums_have_an_axis_of_examples_where_a_product_of_one_drops_it():
    def net(v, x):
        halves = x @ v  # [n, 3, 4]
        q, k = (
            (qcfs(z, 2.0) - qcfs(-z, 2.0)).reshape(len(x), 3, 2, 2).swapaxes(1, 2)
            for z in (halves, 2 * halves)
        )
        return q @ k.swapaxes(2, 3)

    v = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)), "f4")
    x = jnp.asarray(np.random.default_rng(1).integers(0, 4, (2, 3, 4)), "f4")
    graph = lower(net, v, x[:1])
    assert len(graph.of_kind("sum")) == 3
    assert all(node.shape[0] == 1 for node in graph.nodes)
    outputs, _ = evaluate(graph, x)
    # Sums of two products of order 1.
    np.testing.assert_allclose(outputs["output"][:, 0], net(v, x), atol=1e-5)
