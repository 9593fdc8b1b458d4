"""Every method, with a network of a few channels: it trains, bits are its floats."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bitsnn_jax.binary import METHODS, Sizes, binary_network
from bitsnn_jax.binary.execution import of_signs
from bitsnn_jax.binary.operations import KINDS, counting, total
from bitsnn_jax.config import Binary, Config, Model
from bitsnn_jax.numerics.layers import batch_norm
from bitsnn_jax.numerics.popcount import popcount_conv
from bitsnn_jax.tasks import task_of

SIZES = Sizes((2, 4, 4), 3, 2, nn.max_pool, batch_norm())
SIDE = 4
BATCH = 6
x = np.random.default_rng(0).normal(size=(BATCH, SIDE, SIDE, 1)).astype("f4")
labels = np.arange(BATCH) % 3
# Convolutions of signs by signs.
PRODUCTS = {"xnor": 2, "multi_prize": 2, "pokebnn": 2, "meliusnet": 4, "sakr": 0}
by_bits = jax.jit(partial(popcount_conv, padding=1))
each_method = pytest.mark.parametrize("name", METHODS)
# The plain one, and one that has penalties; all layers have tests of their own.
QUICK = {"xnor", "sakr"}
each_that_trains = pytest.mark.parametrize(
    "name",
    [pytest.param(m, marks=[pytest.mark.slow] * (m not in QUICK)) for m in METHODS],
)


def variables_of(model):
    """Draw values for all variables, without compiling `init`."""
    rng = np.random.default_rng(1)
    init = partial(model.init, train=False)

    def drawn(path, leaf):
        noise = rng.normal(size=leaf.shape)
        match path[-1].key:
            case "var" | "scale" | "m":
                noise = 1 + 0.3 * abs(noise)
            case _:
                noise = 0.5 * noise
        return jnp.asarray(noise, "f4")

    return jax.tree_util.tree_map_with_path(
        drawn, jax.eval_shape(init, jax.random.key(0), x)
    )


def products_of_signs(found):
    """Add to `found` (input, weights, product) of each product of signs."""

    def watch(call, args, options, context):
        product = call(*args, **options)
        if of_signs(context):
            found.append((*args, product))
        return product

    return nn.intercept_methods(watch)


@cache
def trained(name):
    """A method's variables, its gradients, its logits, and its products of signs."""
    model = METHODS[name].network(SIZES)
    variables = variables_of(model)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params):
        products = []
        with products_of_signs(products):
            outputs, updates = model.apply(
                {**variables, "params": params},
                x,
                train=True,
                progress=0.1,
                mutable=["batch_stats", "penalties"],
            )
        each = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        penalties = sum(jax.tree.leaves(updates.get("penalties", {})))
        return each.mean() + penalties, (outputs, products)

    return variables, *gradient(variables["params"])


@each_that_trains
def test_a_method_has_a_gradient_for_all_that_it_trains(name):
    variables, grads, (outputs, _) = trained(name)
    assert outputs.shape == (BATCH, 3) and jnp.isfinite(outputs).all()
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        assert jnp.isfinite(g).all()
        assert (path[-1].key != "frozen") == bool(g.any()), path
    assert jax.tree.structure(grads) == jax.tree.structure(variables["params"])


@each_that_trains
def test_all_products_of_signs_are_the_same_by_xnor_and_popcount(name):
    _, _, (_, products) = trained(name)
    assert len(products) == PRODUCTS[name]
    for signs, weights, in_floats in products:
        in_bits = by_bits(signs, weights)
        assert np.array_equal(in_floats, in_bits) and np.ptp(in_floats) > 1


def test_layers_become_steps_one_after_the_other():
    model = METHODS["sakr"].network(SIZES)
    variables = variables_of(model)

    @jax.jit
    @jax.grad
    def slope(params, progress):
        apply = partial(model.apply, train=False, progress=progress)
        return apply({**variables, "params": params}, x).sum()

    moving = []
    for progress in (0.0, 0.25, 0.5, 0.75):
        grads = slope(variables["params"], progress)
        moving.append(
            [bool(grads[f"conv_{i}"]["conv"]["kernel"].any()) for i in (1, 2, 3)]
        )
    # A step hands no gradient on: what is before the last one stays as it is.
    assert moving == [
        [True] * 3,
        [False, True, True],
        [False, False, True],
        [False] * 3,
    ]


def of_model(name):
    model = METHODS[name].network(SIZES)
    apply_fn = partial(model.apply, train=False)
    return total([counting(apply_fn)(variables_of(model), x)])


def test_operations_of_xnor_net_are_those_counted_by_hand():
    """4x4 images; a 3x3 window reaches (3 * 4 - 2)^2 = 100 pixels in all, then 16."""
    counts = of_model("xnor")
    expected = {
        "binary_products": 100 * 2 * 4 + 16 * 4 * 4,
        "multiply_accumulates": 100 * 2 + 4 + 4 * 3,  # first layer, last norm, head
        "synaptic_operations": 0,
        "bias_additions": 3,
        "compares": 16 * 2 + 4 * 4,
    }
    assert counts == {kind: BATCH * n for kind, n in expected.items()}


def test_counts_may_be_larger_than_an_int32():
    dense, x = nn.Dense(256), jnp.ones((2**15, 256))
    variables = dense.init(jax.random.key(0), x[:1])
    assert counting(dense.apply)(variables, x)["multiply_accumulates"] == 2**31


def test_pruned_weights_cost_nothing():
    counts = of_model("multi_prize")
    assert set(counts) == set(KINDS)
    dense = of_model("xnor")
    # A half of each layer is left; borders see more or less of it.
    assert 0.3 < counts["binary_products"] / dense["binary_products"] < 0.7
    assert counts["multiply_accumulates"] == BATCH * 4  # the last norm
    assert counts["synaptic_operations"] > 0


def test_bits_that_are_zero_cost_nothing():
    counts = of_model("sakr")
    most = 100 * 2 * 4 + 16 * 4 * 4 + 4 * 3
    assert 0 < counts["synaptic_operations"] < BATCH * most
    assert counts["binary_products"] == 0
    assert counts["multiply_accumulates"] == BATCH * 100 * 2
    assert counts["compares"] == BATCH * (16 * 2 + 16 * 4 + 4 * 4)


def settings(method="xnor", **model):
    model = Model(name="small", activation="binary", num_classes=3, **model)
    return Config(model=model, binary=Binary(method=method))


@each_method
def test_a_config_builds_the_network_of_its_method(name):
    config = settings(name, width=0.25, pool="max")
    model = task_of(config).build(config, (8, 8, 1))
    assert isinstance(model, type(METHODS[name].network(SIZES)))
    assert model.sizes[:4] == ((2, 4, 4), 3, 2, nn.max_pool)
    shapes = jax.eval_shape(
        partial(model.init_with_output, train=False),
        jax.random.key(0),
        jnp.ones((5, 8, 8, 1)),
    )
    assert shapes[0].shape == (5, 3)


@each_method
def test_an_image_of_one_pixel_has_nothing_to_pool(name):
    model = METHODS[name].network(SIZES._replace(pools=0))
    init = partial(model.init_with_output, train=False)
    outputs, _ = jax.eval_shape(init, jax.random.key(0), jnp.ones((5, 1, 1, 1)))
    assert outputs.shape == (5, 3)


def test_an_unknown_method_and_another_model_are_errors():
    known = ", ".join(sorted(METHODS))
    for config, line in (
        (settings("xnorr"), f"binary.method must be one of {known}; got 'xnorr'"),
        (settings(), "model.name must be small for binary.method=xnor, got resnet20"),
    ):
        if "resnet20" in line:
            config.model.name = "resnet20"
        with pytest.raises(ValueError) as error:
            binary_network(config.binary, config.model, image_shape=(8, 8, 1))
        assert str(error.value) == line
