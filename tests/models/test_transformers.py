"""Transformers: names and sizes of Hugging Face's, masks, and exact conversion."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from bitsnn_jax import referee, verify
from bitsnn_jax.config import Model
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.models import build_model
from bitsnn_jax.models.bert import Bert, BertSize
from bitsnn_jax.models.encoder import Block
from bitsnn_jax.models.vit import ViT, ViTSize
from bitsnn_jax.tracing.program import trace
from bitsnn_jax.tracing.real_valued import real_numbers

SPIKING = {"norm": "batch", "attention": "relu", "hidden_act": "relu"}


def bert(*, tokens=3, **options):
    """One layer of four channels, and sentences of one to three tokens."""
    options = {"name": "bert_tiny", "norm": "layer", "num_classes": 2} | options
    sizes = BertSize(1, 4, 2, 6, vocabulary=7, positions=tokens)
    made = build_model(Model(**options))
    block = Block(**vars(made.block) | {"heads": 2, "hidden": 6})
    rng = np.random.default_rng(0)
    words, types = rng.integers(0, [[[7]], [[2]]], (2, 3, tokens))
    mask = np.arange(tokens) < [[tokens], [2], [1]]
    x = np.stack([words, types, mask], axis=1).astype(np.int32)
    return Bert(sizes, 2, block), x


def vit(**options):
    """One layer of four channels, and images of four patches."""
    options = {"name": "vit_small", "norm": "layer", "num_classes": 3} | options
    block = build_model(Model(**options)).block
    block = Block(**vars(block) | {"heads": 2, "hidden": 6})
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1))
    return ViT(ViTSize(2, 1, 4, 2, 6), 3, block), pixels.astype(np.float32)


def shapes(model, x):
    init = partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), x)


def random_variables(model, x, dtype="f4"):
    """Values for all variables, none of them special; without compiling `init`."""
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        noise = rng.normal(size=leaf.shape)
        match path[-1].key:
            case "theta":
                probs = any("probs" in str(key) for key in path)
                # Of 0.4, a threshold at T = 2 would be the probability 1/3.
                return np.asarray(0.37 if probs else 2.0) + 0 * noise
            case "var" | "scale":
                return 1 + np.abs(noise) / 8
            case "bias":
                return noise / 8
        return noise / np.sqrt(leaf.shape[0] if leaf.ndim > 1 else 1)

    def value(path, leaf):
        return jnp.asarray(drawn(path, leaf), dtype)

    return jax.tree_util.tree_map_with_path(value, shapes(model, x))


def equations(jaxpr):
    """All operations of a trace, those inside of calls included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


def paths(variables):
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # transformers 5.24: BertModel 109,482,240 and a classifier of 1,538.
        pytest.param("bert_base", 109_483_778, marks=pytest.mark.slow),
        # DistilBertForSequenceClassification.
        pytest.param("distilbert", 66_955_010, marks=pytest.mark.slow),
        # BertModel 22,713,216 and 770.
        ("minilm", 22_713_986),
    ],
)
def test_parameters_are_as_many_as_published(name, parameters):
    config = Model(name=name, norm="layer", activation="gelu", num_classes=2)
    sizes = shapes(build_model(config), np.ones((1, 3, 5), np.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(sizes)) == parameters


def test_names_are_those_of_hugging_face():
    dense, norm = {"kernel", "bias"}, {"scale", "bias"}
    layer = "encoder/layer_0"
    modules = {
        "embeddings/word_embeddings": {"embedding"},
        "embeddings/position_embeddings": {"embedding"},
        "embeddings/token_type_embeddings": {"embedding"},
        "embeddings/LayerNorm": norm,
        f"{layer}/attention/self/query": dense,
        f"{layer}/attention/self/key": dense,
        f"{layer}/attention/self/value": dense,
        f"{layer}/attention/output/dense": dense,
        f"{layer}/attention/output/LayerNorm": norm,
        f"{layer}/intermediate/dense": dense,
        f"{layer}/output/dense": dense,
        f"{layer}/output/LayerNorm": norm,
        "pooler/dense": dense,
        "classifier": dense,
    }
    expected = {f"{path}/{leaf}" for path in modules for leaf in modules[path]}
    model, x = bert(activation="gelu")
    assert paths(shapes(model, x)).keys() == expected
    # Codes add thetas, and nothing else.
    found = paths(shapes(*bert(per_channel=True)))
    thetas = {path: shape for path, shape in found.items() if path.endswith("theta")}
    assert found.keys() - thetas.keys() == expected
    assert {path.split("/")[-2]: shape for path, shape in thetas.items()} == {
        **{name: () for name in ("query_act", "key_act", "probs_act")},
        **{name: (4,) for name in ("input_act", "ffn_act", "value_act", "act")},
        **{"context_act": (4,), "hidden_act": (6,)},
    }


@pytest.mark.parametrize(
    "options", [{"activation": "gelu"}, {"attention": "relu"}], ids=str
)
def test_padding_has_no_part_in_the_answer(options):
    model, x = bert(**options)
    variables = random_variables(model, x)
    logits = jax.jit(partial(model.apply, train=False))
    others = np.where(x[:, 2:] == 1, x, [[[3], [1], [0]]])
    assert (others != x).any()
    np.testing.assert_array_equal(logits(variables, x), logits(variables, others))


@pytest.mark.slow
@pytest.mark.parametrize(("made", "steps"), [(bert, 2), (bert, 4), (bert, 8), (vit, 4)])
def test_a_transformer_converts_exactly(made, steps):
    model, x = made(levels=2**steps - 1, per_channel=True)
    with jax.enable_x64(True):
        certificate = verify(
            partial(model.apply, train=False),
            random_variables(model, x, "f8"),
            x if x.dtype == np.int32 else x / 255.0,
            steps=steps,
            nonspiking="decode",
        )
    assert certificate.exact, certificate


def real(model, x, **options):
    """What is done without spikes; the values of variables have no part in it."""
    variables = shapes(model, x)
    program, _ = trace(partial(model.apply, train=False), variables, x[:1])
    return real_numbers(program, jax.tree.leaves(variables), [x], **options)


def test_only_softmax_and_layer_norm_do_not_spike():
    found = real(*bert(), nonspiking="decode")
    layer = "Bert/encoder/layer_0"
    assert {path for _, path in found.operations} == {
        "Bert/embeddings/LayerNorm",
        f"{layer}/attention/self",
        f"{layer}/attention/output/LayerNorm",
        f"{layer}/output/LayerNorm",
    }


def test_with_relu_attention_and_batch_norm_everything_spikes():
    found = real(*vit(**SPIKING))
    assert found.operations == [] and found.layers == []
    scores, context = found.products
    attention = "encoder/layer_0/attention/self"
    assert scores.path == context.path == f"ViT/{attention}"
    names = [f"{attention}/{name}" for name in ("query_act", "key_act", "value_act")]
    pairs = [(name, f"{name}@2") for name in names]
    assert [scores.streamed, scores.held, context.held] == pairs
    assert context.streamed == (f"{attention}/probs_act",)


@pytest.mark.slow
def test_a_vit_that_spikes_everywhere_runs_in_integers(tmp_path):
    model, x = vit(**SPIKING)
    variables = random_variables(model, x)

    def of_pixels(variables, pixels):
        return model.apply(variables, pixels / 255, train=False)

    network = fixed_point(lower(of_pixels, variables, x[:1]), steps=4)
    pixels = x.astype(np.int32)
    ours, theirs = jax.jit(one_shot(network))(pixels), jax.jit(stepped(network))(pixels)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    for node in network.nodes:
        assert node.shape[0] == 1, node.name  # the axis of examples
    bundle_writer.save(network, tmp_path / "network", vectors=pixels)
    _, _, difference = referee.compare(referee.read(tmp_path / "network"))
    assert not difference


def test_products_are_narrow_and_the_rest_is_wide():
    model, x = bert(dtype="bfloat16")
    apply = partial(model.apply, train=False)
    trace = jax.make_jaxpr(apply)(shapes(model, x), x)
    types = {}
    for eqn in filter(lambda eqn: eqn.invars, equations(trace.jaxpr)):
        narrow = eqn.invars[0].aval.dtype == jnp.bfloat16
        types.setdefault(eqn.primitive.name, []).append(narrow)
    # Three in front of the products, two of codes, three behind; pooler, classifier.
    assert types["dot_general"] == [True] * 9 + [False]
    assert not any(types["qcfs"] + types["softmax"] + types["normalise"])


@pytest.mark.parametrize(
    ("message", "build"),
    [
        (
            "pre_norm must be False with a batch norm",
            lambda: Block(2, 4, pre_norm=True, batch_norm=object),
        ),
        (
            "may have 2 tokens, got 3: set data.max_length to at most 2",
            lambda: shapes(bert(tokens=2)[0], bert()[1]),
        ),
        (
            "multiple of the 3 heads, got 4",
            lambda: shapes(vit()[0].clone(block=Block(3, 4)), vit()[1]),
        ),
    ],
)
def test_what_does_not_fit_is_refused(message, build):
    with pytest.raises(ValueError, match=message):
        build()
