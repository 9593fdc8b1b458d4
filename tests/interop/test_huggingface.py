"""Weights in Hugging Face's layout: every name and shape, and what is refused."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from huggingface_folders import BERT, SIZES, folder_of, tensors_of

from bitsnn_jax.config import Model
from bitsnn_jax.interop.huggingface import check_fit, from_huggingface
from bitsnn_jax.interop.huggingface_sizes import Sizes
from bitsnn_jax.models import Bert
from bitsnn_jax.models.encoder import Block, Codes


@pytest.mark.parametrize("kind", SIZES)
def test_a_folder_has_the_parameters_of_our_network(kind, tmp_path):
    size = SIZES[kind]
    net = Bert(size, 3, Block(size.heads, size.hidden, Codes(None)))
    tokens = jax.ShapeDtypeStruct((1, 3, 5), np.int32)
    wanted = jax.eval_shape(
        lambda x: net.init(jax.random.key(0), x, train=False), tokens
    )["params"]
    found = from_huggingface(folder_of(tmp_path, kind))
    assert found.sizes == Sizes(size, "gelu", 1e-12, kind) and not found.missing
    assert {p: a.shape for p, a in flatten_dict(found.params).items()} == {
        p: a.shape for p, a in flatten_dict(wanted).items()
    }


@pytest.mark.parametrize(
    ("kind", "name", "path"),
    [
        ("bert", "encoder.layer.1.output.dense", "encoder layer_1 output dense"),
        ("bert", "pooler.dense", "pooler dense"),
        (
            "distilbert",
            "transformer.layer.0.attention.k_lin",
            "encoder layer_0 attention self key",
        ),
        ("distilbert", "pre_classifier", "pre_classifier dense"),
    ],
)
def test_a_dense_layer_is_the_one_of_pytorch(kind, name, path, tmp_path):
    tensors = tensors_of(kind)
    module = from_huggingface(folder_of(tmp_path, kind, tensors)).params
    for part in path.split():
        module = module[part]
    x = np.random.default_rng(1).normal(size=module["kernel"].shape[0])
    np.testing.assert_allclose(
        x @ module["kernel"] + module["bias"],
        tensors[f"{name}.weight"] @ x + tensors[f"{name}.bias"],
    )


def test_prefixes_old_names_and_other_heads_change_nothing(tmp_path):
    tensors = tensors_of("bert")
    plain = from_huggingface(folder_of(tmp_path / "plain", tensors=tensors)).params
    old = {
        name if name.startswith("classifier") else f"bert.{name}": tensor
        for name, tensor in tensors.items()
    }
    for new, name in (("weight", "gamma"), ("bias", "beta")):
        tensor = old.pop(f"bert.embeddings.LayerNorm.{new}")
        old[f"bert.embeddings.LayerNorm.{name}"] = tensor
    old["bert.embeddings.position_ids"] = np.arange(BERT.positions)[None]
    old["cls.predictions.bias"] = np.zeros(BERT.vocabulary, np.float32)
    found = from_huggingface(folder_of(tmp_path / "old", tensors=old)).params
    jax.tree.map(np.testing.assert_array_equal, found, plain)


def test_heads_may_be_missing_and_are_named(tmp_path):
    tensors = {
        name: tensor
        for name, tensor in tensors_of("bert").items()
        if not name.startswith(("pooler", "classifier"))
    }
    found = from_huggingface(folder_of(tmp_path, tensors=tensors))
    assert found.missing == ("pooler", "classifier")
    assert found.params.keys() == {"embeddings", "encoder"}


def without(name):
    return lambda tensors: tensors.pop(name)


def replaced(name, value):
    return lambda tensors: tensors.update({name: value})


WORDS = "embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("changes", "damage", "words"),
    [
        ({"model_type": "roberta"}, None, "one of bert, distilbert; got 'roberta'"),
        ({"hidden_act": "gelu_new"}, None, "Invalid enum value 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, None, "'relative_key'"),
        (
            {"hidden_size": "32"},
            None,
            r"Expected `int`, got `str` - at `\$.hidden_size",
        ),
        ({"num_attention_heads": 5}, None, "a multiple of the 5 heads, got 32"),
        ({"is_decoder": True}, None, "is_decoder"),
        (
            {"hidden_size": 64},
            None,
            r"of another shape: embeddings.word_embeddings.weight \(expected "
            r"\[128, 64\], got \[128, 32\]\)",
        ),
        ({"vocab_size": 100}, None, r"expected \[100, 32\], got \[128, 32\]"),
        ({"num_hidden_layers": 1}, None, "unknown: encoder.layer.1"),
        ({}, without(WORDS), rf"missing: {WORDS} \[128, 32\]"),
        ({}, without("classifier.bias"), r"missing: classifier.bias \[3\]"),
        ({}, replaced("lm_head.bias", np.ones(1)), r"unknown: lm_head.bias \[1\]"),
        ({}, replaced(f"bert.{WORDS}", np.ones(1)), "under two names"),
        ({}, replaced(WORDS, np.full((128, 32), np.nan)), "finite"),
        ({}, replaced(WORDS, np.ones((128, 32), int)), "floating type, got int64"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(changes, damage, words, tmp_path):
    tensors = tensors_of("bert")
    if damage:
        damage(tensors)
    with pytest.raises(ValueError, match=words) as error:
        from_huggingface(folder_of(tmp_path, tensors=tensors, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors", None, "must hold model.safetensors"),
        ("model.safetensors", lambda data: data[:-50], "no safetensors file"),
        ("model.safetensors", lambda data: b"\xff" * 90, "no safetensors file"),
        ("config.json", None, "config.json cannot be read"),
        ("config.json", lambda data: data[:-1], "config.json cannot be read .no JSON"),
        ("config.json", lambda data: b"[]", "must hold a dict"),
    ],
)
def test_damaged_files_are_said_in_one_line(name, content, words, tmp_path):
    file = folder_of(tmp_path) / name
    data = file.read_bytes()
    file.unlink()
    if content:
        file.write_bytes(content(data))
    with pytest.raises(ValueError, match=words) as error:
        from_huggingface(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "minilm"}, "layers is 2 there, 6 here"),
        ({"width": 2.0}, "width is 32 there, 64 here"),
        ({"num_classes": 2}, "num_classes is 3 there, 2 here"),
        (
            {"norm": "batch"},
            "set model.name to one of bert_base, .*got bert_tiny, batch",
        ),
        ({"name": "vit_small"}, "got vit_small, layer"),
    ],
)
def test_a_network_of_another_size_is_refused(fields, words, tmp_path):
    given = {"name": "bert_tiny", "num_classes": 3, "norm": "layer"}
    check_fit(found := from_huggingface(folder_of(tmp_path)), Model(**given))
    with pytest.raises(ValueError, match=words):
        check_fit(found, Model(**given | fields))
