"""Integers: one pass and T steps give the same bits, whatever carries them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    OF_ONE_IMAGE,
    PIXELS,
    Concatenated,
    Convolutions,
    Inverted,
    Pooling,
    Reshaped,
    lowered,
)

from bitsnn_jax import qcfs
from bitsnn_jax.config import Model
from bitsnn_jax.integers.carriers import CARRIERS
from bitsnn_jax.integers.execution import bias_part, one_shot, stepped
from bitsnn_jax.integers.fixed_point import FixedPointError, fixed_point
from bitsnn_jax.integers.graph import Scale, Sum, WindowSum, evaluate
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.models import build_model
from bitsnn_jax.tracing.equations import parts


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def some_quick(networks, quick):
    """All of them as parameters, those that are not quick marked slow."""
    return [
        pytest.param(n, marks=() if n in quick else pytest.mark.slow) for n in networks
    ]


def check_spike_by_spike(network, steps):
    integers = fixed_point(lowered(network), steps=steps)
    once = jax.jit(one_shot(integers, carrier="int8"))(PIXELS)
    assert_same(once, jax.jit(stepped(integers))(PIXELS))


@pytest.mark.parametrize(
    "network", some_quick(OF_ONE_IMAGE, {Convolutions, Inverted, Pooling, Reshaped})
)
def test_spike_by_spike_equals_one_pass(network):
    check_spike_by_spike(network, steps=4)


@pytest.mark.parametrize("network", some_quick(OF_ONE_IMAGE, {Pooling, Inverted}))
def test_one_step_equals_one_pass(network):
    check_spike_by_spike(network, steps=1)


@pytest.mark.parametrize("network", [Pooling, Inverted])
def test_a_loop_over_time_gives_the_same_integers(network):
    integers = fixed_point(lowered(network), steps=4)
    rolled = jax.jit(stepped(integers, unroll=False))(PIXELS)
    assert_same(jax.jit(stepped(integers))(PIXELS), rolled)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_loop_over_time_does_not_grow_with_it(carrier):
    example = np.zeros((1, 8, 8, 3), np.float32)
    w = np.random.default_rng(0).normal(size=(2, 192, 192)) / 192**0.5
    graph = lower(
        lambda v, x: qcfs(qcfs(x.reshape(1, -1) @ w[0], 200.0) @ w[1], 200.0) @ w[1],
        {},
        example,
    )
    sizes = []
    for steps in (4, 8, 16):
        run = stepped(fixed_point(graph, steps=steps), carrier=carrier, unroll=False)
        compiled = jax.jit(run).lower(PIXELS).compile()
        temporaries = compiled.memory_analysis().temp_size_in_bytes
        sizes.append([compiled.as_text().count("\n"), temporaries])
    assert np.all(np.max(sizes, 0) <= 1.1 * np.array(sizes[0])), sizes


CARRIED = [Convolutions, Pooling, Inverted, Concatenated]


@pytest.mark.parametrize(
    ("steps", "network"),
    [
        pytest.param(
            steps, n, marks=[pytest.mark.slow] * (n not in (Pooling, Inverted))
        )
        for steps in (8, 2)
        for n in CARRIED
    ],
)
def test_the_carrier_does_not_matter(network, steps):
    integers = fixed_point(lowered(network), steps=steps)
    first, *others = [
        jax.jit(make(integers, carrier=carrier))(PIXELS)
        for carrier in CARRIERS
        for make in (one_shot, stepped)
    ]
    for other in others:
        assert_same(first, other)


def products(jaxpr):
    """The types of the operands of all products, calls entered."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
            yield {str(v.aval.dtype) for v in eqn.invars}
        for part in parts(eqn):
            yield from products(part.jaxpr)


@pytest.mark.parametrize("steps", [4, 8])
@pytest.mark.parametrize("network", [Convolutions, Inverted])
def test_what_fits_a_byte_is_multiplied_as_bytes(network, steps):
    """Pixels, codes of up to 8 bits, spikes: all but sums, of a layer or of places."""
    integers = fixed_point(lowered(network), steps=steps)
    sums = [n.name for n in integers.of_kind("sum")]
    added = [t for n in integers.nodes for t in n.terms if t.has_kernel]
    added = [
        t
        for t in added
        if t.source in sums or any(isinstance(op, Sum | WindowSum) for op in t.before)
    ]
    for make, times in ((one_shot, 1), (stepped, steps)):
        run = make(integers, carrier="int8")
        types = list(products(jax.make_jaxpr(run)(PIXELS).jaxpr))
        others = [t for t in types if t != {"int8"}]
        # At 8 steps a sum of places is taken apart in two.
        assert len(others) <= 2 * times * len(added) < len(types)


def test_integers_are_the_float_network_but_for_rounding():
    graph = lowered(Reshaped)
    network = fixed_point(graph, steps=4)
    result = one_shot(network)(PIXELS)
    _, codes = evaluate(graph, jnp.float32(PIXELS), steps=4)
    for name, code in result.codes.items():
        # Weights are off by 1/254 of the largest at most, codes by a step now and then.
        assert np.abs(code - codes[name][:, 0]).mean() < 0.5, name


def test_codes_and_logits_by_hand():
    # delta = 1 at T = 2. Weights 0.75 and -0.25, bias 0.5. The largest, 0.75, has
    # 0.75 * 2**7 = 96 <= 127 units of 1/2**7, the other -32, the bias 64.
    w = np.array([[0.75], [-0.25]])
    graph = lower(
        lambda v, x: 2 * qcfs(x @ w + 0.5, 3.0), {}, np.zeros((1, 2), np.float32)
    )
    network = fixed_point(graph, steps=2, white=4)
    node = network["neuron"]
    np.testing.assert_array_equal(node.terms[0].weight.kernel, [[96], [-32]])
    assert (node.bias, node.fraction, node.half, node.unit) == (64, 7, 64, 1.0)
    assert node.bound == 4 * 96 + 4 * 32 + 64 + 64
    # z = 0.75 * 4 - 0.25 * 1 + 0.5 = 3.25 -> 3; 1.25 -> 1; -0.5 -> 0 = floor(0)
    x = np.array([[4, 1], [1, 0], [0, 4]])
    result = stepped(network)(x)
    np.testing.assert_array_equal(result.codes["neuron"], [[3], [1], [0]])
    logits = result.outputs["output"] * network["output"].unit
    np.testing.assert_allclose(logits, [[6], [2], [0]], rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_have_the_bits_asked_for(bits):
    network = fixed_point(lowered(Inverted), steps=4, bits=bits)
    limit, seen = 2 ** (bits - 1) - 1, set()
    for node in network.nodes:
        for term in node.terms:
            if not isinstance(term.weight, Scale):
                kernel = term.weight.kernel
                assert kernel.dtype == np.int8
                assert np.abs(kernel).max() <= limit
                seen.add(int(np.abs(kernel).max()))
    assert max(seen) == limit
    assert_same(one_shot(network)(PIXELS), stepped(network)(PIXELS))


@pytest.mark.parametrize("network", [Convolutions, Pooling, Inverted])
def test_no_input_reaches_the_bound(network):
    """Of extreme images, and of the one that is worst for a channel of the stem."""
    integers = fixed_point(lowered(network), steps=4)
    first = integers.of_kind("neurons")[0]
    kernel = first.terms[0].weight.kernel
    images = [np.zeros((8, 8, 3)), np.full((8, 8, 3), 255)]
    worst = np.zeros((8, 8, 3))
    worst[2:5, 2:5] = 255 * (kernel[..., 0] > 0)
    result = one_shot(integers)(np.stack([*images, worst]).astype(np.uint8))
    bound = integers["output"].bound
    assert np.abs(result.outputs["output"]).max() <= bound
    reach = 255 * np.abs(kernel.astype(int)).sum((0, 1, 2)).max()
    assert first.bound >= reach


def test_parts_of_a_bias_add_up_to_it():
    bias = np.arange(-9, 10, dtype=np.int32)
    for steps in (1, 3, 4, 8):
        parts = np.array([bias_part(bias, t, steps) for t in range(steps)])
        np.testing.assert_array_equal(parts.sum(0), bias)
        assert (parts.max(0) - parts.min(0)).max() <= 1


def test_a_batch_is_its_examples_one_by_one():
    run = jax.jit(stepped(fixed_point(lowered(Pooling), steps=4)))
    together = run(PIXELS)
    for i in range(len(PIXELS)):
        alone = run(PIXELS[i : i + 1])
        assert_same(alone, jax.tree.map(lambda x, i=i: x[i : i + 1], together))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34", "mobilenetv2"])
def test_imagenet_networks_are_exact(name):
    model = build_model(Model(name=name, stem="cifar"), image_shape=(32, 32, 3))
    x = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    variables = model.init(jax.random.key(0), jnp.zeros(x.shape), train=False)

    def apply_fn(variables, x):
        return model.apply(variables, x / 64 - 2, train=False)

    example = np.zeros((1, 32, 32, 3), np.float32)
    network = fixed_point(lower(apply_fn, variables, example), steps=4)
    assert_same(one_shot(network)(x), jax.jit(stepped(network))(x))


def one_layer(w, b=0.0, theta=1.0):
    example = np.zeros((1, len(w)), np.float32)
    w = np.asarray(w, np.float32)
    return lower(lambda v, x: qcfs(qcfs(x @ w, theta) @ w + b, theta), {}, example)


def test_weights_that_overflow_are_an_error_with_the_layer():
    with pytest.raises(FixedPointError, match="^neuron: weights overflow"):
        fixed_point(one_layer(1e6 * np.eye(2)), steps=4)


def test_large_weights_are_shifted():
    """A spike may drive a neuron by more codes than the weights can tell."""
    graph = one_layer(np.diag([300.0, 100.0]), theta=1e4)
    network = fixed_point(graph, steps=2, bits=3)
    assert network["neuron@2"].terms[0].after
    assert_same(one_shot(network)(np.eye(2)), stepped(network)(np.eye(2)))


def test_a_sum_that_leaves_32_bits_is_an_error_with_the_layer():
    graph = one_layer(np.ones((300, 300)), theta=100.0)
    with pytest.raises(FixedPointError, match="^neuron: its sum can reach"):
        fixed_point(graph, steps=4, white=2**24)


def test_a_bias_that_leaves_32_bits_is_an_error_with_the_layer():
    with pytest.raises(FixedPointError, match="^neuron@2: a bias of"):
        fixed_point(one_layer(np.eye(2), b=1e9), steps=4)


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range(bits):
    with pytest.raises(ValueError, match=f"2 to 8, got {bits}"):
        fixed_point(lowered(Inverted), steps=4, bits=bits)


def test_unknown_carrier_and_wrong_shape():
    network = fixed_point(one_layer(np.eye(2), theta=200.0), steps=4)
    with pytest.raises(ValueError, match="one of float32, int8, int32, bfloat16"):
        one_shot(network, carrier="float16")
    with pytest.raises(ValueError, match="expected inputs"):
        one_shot(network)(np.zeros((1, 3)))


def test_levels_of_two_to_the_t_are_refused():
    graph = lower(
        lambda v, x: qcfs(x, 1.0, levels=16), {}, np.zeros((1, 2), np.float32)
    )
    with pytest.raises(FixedPointError, match="^neuron: 16 levels do not fit"):
        fixed_point(graph, steps=4)
