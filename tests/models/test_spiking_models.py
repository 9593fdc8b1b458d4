"""Networks that were published as spiking ones: their layers, and what feeds these."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.config import Model
from bitsnn_jax.models import (
    PLIFNet,
    ResNet,
    SpikeDrivenTransformer,
    Spikformer,
    build_model,
)
from bitsnn_jax.models.sew import SEWBlock
from bitsnn_jax.models.spiking_attention import SpikingAttention, linear_attention
from bitsnn_jax.numerics.layers import QCFS
from bitsnn_jax.tracing.program import trace
from bitsnn_jax.tracing.real_valued import real_numbers

LAYERS = {"act": QCFS, "norm": nn.BatchNorm, "num_classes": 3}
x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("f4")


class Step(nn.Module):
    """An activation of one step: 1 where the current is positive."""

    @nn.compact
    def __call__(self, z):
        return (z > 0).astype(z.dtype)


def variables_of(model, x):
    """Draw values for all variables, without compiling `init`."""
    init = partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), x)
    rng = np.random.default_rng(1)

    def drawn(path, leaf):
        noise = jnp.asarray(rng.normal(size=leaf.shape), "f4")
        return 1 + abs(noise) if path[-1].key in ("var", "scale", "theta") else noise

    return jax.tree_util.tree_map_with_path(drawn, shapes)


def real(model):
    """What is done without spikes; the values of variables have no part in it."""
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), x)
    program, _ = trace(partial(model.apply, train=False), shapes, x[:1])
    return real_numbers(program, jax.tree.leaves(shapes), [x])


# PLIFNet


def test_logits_are_the_mean_votes_of_the_last_spikes():
    model = PLIFNet((2, 2), 4, votes=5, pools=2, **LAYERS)
    variables = variables_of(model, x)
    logits, sown = model.apply(variables, x, train=False, mutable=["activations"])
    ((votes, _),) = sown["activations"]["head_act"]["a"]
    assert votes.shape == (2, 15) and votes.any()
    expected = np.stack([votes[:, i : i + 5].mean(-1) for i in (0, 5, 10)], -1)
    # Means of five float32 numbers of order 1.
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_a_dropout_of_its_own_is_asked_for_by_rate_and_name():
    asked = []

    def dropout(rate, *, name):
        asked.append((rate, name))
        return lambda x, *, deterministic: x * (2.0 if deterministic else 0.0)

    model = PLIFNet((2, 2), 4, pools=2, dropout=dropout, dropout_rate=0.25, **LAYERS)
    variables = variables_of(model, x)
    asked.clear()
    logits, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    assert asked == [(0.25, "hidden_dropout"), (0.25, "head_dropout")]
    assert not logits.any() and model.apply(variables, x, train=False).any()


def test_the_rate_of_the_config_reaches_the_network():
    model = build_model(Model(name="plif_net", dropout=0.5), image_shape=(28, 28, 1))
    assert model.dropout_rate == 0.5 and model.pools == 2


# Transformers


def test_attention_without_softmax_is_a_product_of_three_in_either_order():
    rng = np.random.default_rng(0)
    q, k, v = rng.integers(0, 2, (3, 2, 2, 3, 4)).astype("f4")
    expected = np.empty((2, 6, 4))
    for n, head in np.ndindex(2, 2):
        channels = slice(2 * head, 2 * head + 2)
        one, two, three = (a.reshape(2, 6, 4)[n, :, channels] for a in (q, k, v))
        expected[n, :, channels] = (one @ two.T) @ three
    found = linear_attention(*map(jnp.asarray, (q, k, v)), heads=2)
    np.testing.assert_array_equal(found, expected.reshape(2, 2, 3, 4))


def test_heads_that_cannot_share_the_channels_out_are_refused():
    layer = SpikingAttention(3, QCFS, nn.BatchNorm)
    with pytest.raises(ValueError, match="multiple of the 3 heads, got 4"):
        jax.eval_shape(
            partial(layer.init, train=False), jax.random.key(0), jnp.zeros((1, 2, 2, 4))
        )


def test_every_layer_of_a_spikformer_is_fed_by_spikes():
    found = real(Spikformer(layers=1, width=8, heads=2, hidden=8, **LAYERS))
    assert found.operations == [] and found.layers == []
    keys, queries = found.products
    names = [f"attention_0/{name}_act" for name in ("query", "key", "value")]
    assert [queries.streamed, (*keys.streamed, *keys.held)] == [
        (names[0],),
        (names[1], names[2]),
    ]


def test_a_spike_driven_transformer_multiplies_behind_depthwise_layers_alone():
    model = SpikeDrivenTransformer(widths=(4, 4), layers=1, heads=2, **LAYERS)
    found = real(model)
    assert found.operations == [] and len(found.products) == 2
    behind = {f"conv_{i}/project/conv" for i in (0, 1)}
    assert {layer.path for layer in found.layers} == behind


# The spike-element-wise block


@pytest.mark.parametrize("strides", [1, 2])
def test_a_block_joins_the_spikes_of_both_ways(strides):
    x = np.random.default_rng(0).integers(0, 2, (2, 4, 4, 3)).astype("f4")
    blocks = {
        connect: SEWBlock(3, strides, Step, nn.BatchNorm, connect=connect)
        for connect in ("add", "and", "iand")
    }
    variables = variables_of(blocks["add"], x)
    added, both, only = (
        block.apply(variables, x, train=False) for block in blocks.values()
    )
    assert {*np.unique(added)} == {0, 1, 2}
    np.testing.assert_array_equal(both, added == 2)
    # The shortcut, of the two spikes that may have made a sum of 1.
    shortcut = both + only
    if strides == 1:
        np.testing.assert_array_equal(shortcut, x)
    else:
        assert {*np.unique(only)} == {0, 1}
        assert ((added - shortcut == 0) | (added - shortcut == 1)).all()


def test_a_resnet_has_the_blocks_that_it_is_given():
    block = partial(SEWBlock, connect="and")
    model = ResNet((1, 1), (2, 3), block=block, **LAYERS)
    params = variables_of(model, x)["params"]
    assert "shortcut_act" in params["stages_1_0"]


def test_an_unknown_way_to_join_is_refused():
    block = SEWBlock(1, 1, QCFS, nn.BatchNorm, connect="or")
    with pytest.raises(ValueError, match="one of add, and, iand; got 'or'"):
        jax.eval_shape(partial(block.init, train=False), jax.random.key(0), x)
