"""Names and shapes of the tensors of BERT and DistilBERT, by our paths."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bitsnn_jax.interop.huggingface_sizes import Sizes
from bitsnn_jax.runtime.reading import ReadingError

# Modules of ours, what they are called in DistilBERT, and inputs and outputs of a dense
# layer, rows and columns of a table, or the width of a norm. In BERT they have the
# names that they have here.
_EMBEDDINGS = {
    "word_embeddings": ("word_embeddings", "vocabulary", "width"),
    "position_embeddings": ("position_embeddings", "positions", "width"),
    "token_type_embeddings": ("token_type_embeddings", "token_types", "width"),
    "LayerNorm": ("LayerNorm", "width"),
}
_LAYER = {
    "attention/self/query": ("attention.q_lin", "width", "width"),
    "attention/self/key": ("attention.k_lin", "width", "width"),
    "attention/self/value": ("attention.v_lin", "width", "width"),
    "attention/output/dense": ("attention.out_lin", "width", "width"),
    "attention/output/LayerNorm": ("sa_layer_norm", "width"),
    "intermediate/dense": ("ffn.lin1", "width", "hidden"),
    "output/dense": ("ffn.lin2", "hidden", "width"),
    "output/LayerNorm": ("output_layer_norm", "width"),
}
_POOLERS = {"bert": "pooler.dense", "distilbert": "pre_classifier"}

# What a file may hold beside the network: places that are counted anyway, and the heads
# of other tasks, such as those that it was pre-trained with.
_NOT_OURS = re.compile(
    r"embeddings\.position_ids$|cls\.|qa_outputs\."
    r"|vocab_(transform|layer_norm|projector)\."
)
_OLD = {"gamma": "weight", "beta": "bias"}  # as LayerNorms of 2018 are called


class Tensor(NamedTuple):
    """A tensor of theirs.

    Attributes:
      name: without the prefix of the encoder.
      shape: as it is there; kernels are transposed.
      head: it is behind the encoder, and may be missing.
    """

    name: str
    shape: tuple[int, ...]
    head: bool = False

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


def table_of(sizes: Sizes, *, num_classes: int) -> dict[tuple[str, ...], Tensor]:
    """List the tensors of a network, by our paths among the parameters."""
    rows: dict[tuple[str, ...], Tensor] = {}
    for path, name, axes, head in _modules(sizes, num_classes):
        for leaf, theirs, shape in _leaves(path, axes):
            rows[(*path.split("/"), leaf)] = Tensor(f"{name}.{theirs}", shape, head)
    return rows


def _modules(sizes, num_classes) -> Iterator[tuple[str, str, tuple[int, ...], bool]]:
    """Yield our path, their name, axes and whether it is a head, of each module."""
    size: Any = sizes.size._asdict()
    distil = sizes.names == "distilbert"
    layers = "transformer.layer" if distil else "encoder.layer"
    parts = [("embeddings", "embeddings", _EMBEDDINGS)] + [
        (f"encoder/layer_{i}", f"{layers}.{i}", _LAYER) for i in range(size["layers"])
    ]
    for ours, theirs, modules in parts:
        for path, (name, *axes) in modules.items():
            shape = tuple(size[axis] for axis in axes)
            if shape[0]:  # DistilBERT has no token types
                name = name if distil else path.replace("/", ".")
                yield f"{ours}/{path}", f"{theirs}.{name}", shape, False
    pooler = _POOLERS[sizes.names]
    path = f"{pooler.split('.')[0]}/dense"
    yield path, pooler, (size["width"],) * 2, True
    yield "classifier", "classifier", (size["width"], num_classes), True


def _leaves(path, axes) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield our name, their name and their shape of each array of a module."""
    if path.endswith("_embeddings"):
        yield "embedding", "weight", axes
    elif len(axes) == 1:
        yield "scale", "weight", axes
        yield "bias", "bias", axes
    else:
        yield "kernel", "weight", axes[::-1]
        yield "bias", "bias", axes[1:]


def modern(tensors: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Give tensors the names of `table_of`; leave out what is no part of the network.

    Raises:
      ReadingError: two of them are the same one.

    >>> from bitsnn_jax.models.bert import BERT_SIZES
    >>> sizes = Sizes(BERT_SIZES["bert_tiny"], "gelu", 1e-12, "bert")
    >>> names = ["bert.embeddings.LayerNorm.beta", "cls.predictions.bias"]
    >>> modern(dict.fromkeys(names), sizes)
    {'embeddings.LayerNorm.bias': None}
    """
    named = {}
    for name, tensor in tensors.items():
        name = name.removeprefix(f"{sizes.names}.")
        module, _, leaf = name.rpartition(".")
        if _NOT_OURS.match(name):
            continue
        name = f"{module}.{_OLD.get(leaf, leaf)}"
        if name in named:
            raise ReadingError(f"expected one tensor {name}, got it under two names")
        named[name] = tensor
    return named
