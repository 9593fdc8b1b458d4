"""Folders in Hugging Face's layout, with random weights."""

import json

import numpy as np

from bitsnn_jax.interop.huggingface_names import table_of
from bitsnn_jax.interop.huggingface_sizes import Sizes
from bitsnn_jax.interop.torch_files import write_state_dict
from bitsnn_jax.models.bert import BERT_SIZES

BERT = BERT_SIZES["bert_tiny"]
SIZES = {
    "bert": BERT,
    "distilbert": BERT._replace(token_types=0, pooler="relu"),
}
CONFIGS = {
    "bert": {
        "model_type": "bert",
        "vocab_size": BERT.vocabulary,
        "hidden_size": BERT.width,
        "num_hidden_layers": BERT.layers,
        "num_attention_heads": BERT.heads,
        "intermediate_size": BERT.hidden,
        "max_position_embeddings": BERT.positions,
    },
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": BERT.vocabulary,
        "dim": BERT.width,
        "n_layers": BERT.layers,
        "n_heads": BERT.heads,
        "hidden_dim": BERT.hidden,
        "max_position_embeddings": BERT.positions,
    },
}


def tensors_of(kind, classes=3):
    rng = np.random.default_rng(0)
    table = table_of(Sizes(SIZES[kind], "gelu", 1e-12, kind), num_classes=classes)
    return {t.name: np.float32(rng.normal(size=t.shape)) for t in table.values()}


def folder_of(path, kind="bert", tensors=None, **changes):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIGS[kind] | changes))
    tensors = tensors_of(kind) if tensors is None else tensors
    write_state_dict(path / "model.safetensors", tensors)
    return path
