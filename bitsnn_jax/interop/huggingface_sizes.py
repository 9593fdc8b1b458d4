"""Sizes of a network of Hugging Face, from its `config.json`."""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from bitsnn_jax.models.bert import BertSize
from bitsnn_jax.runtime.reading import ReadingError, read_json, typed

_Count = Annotated[int, Meta(ge=1, le=10**9)]


class Sizes(NamedTuple):
    """What `config.json` says that no tensor does, and what tensors must be.

    Attributes:
      size: of the network.
      hidden_act: the function in the middle of a feed-forward part.
      epsilon: of the LayerNorms.
      names: which names the tensors have, "bert" or "distilbert".
    """

    size: BertSize
    hidden_act: str
    epsilon: float
    names: str


class _Bert(Struct):
    """`BertConfig`, with the defaults that it has."""

    vocab_size: _Count = 30522
    hidden_size: _Count = 768
    num_hidden_layers: _Count = 12
    num_attention_heads: _Count = 12
    intermediate_size: _Count = 3072
    hidden_act: Literal["gelu", "relu"] = "gelu"
    max_position_embeddings: _Count = 512
    type_vocab_size: _Count = 2
    layer_norm_eps: float = 1e-12
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False

    def sizes(self) -> Sizes:
        size = BertSize(
            layers=self.num_hidden_layers,
            width=self.hidden_size,
            heads=self.num_attention_heads,
            hidden=self.intermediate_size,
            vocabulary=self.vocab_size,
            positions=self.max_position_embeddings,
            token_types=self.type_vocab_size,
        )
        return Sizes(size, self.hidden_act, self.layer_norm_eps, "bert")


class _DistilBert(Struct):
    """`DistilBertConfig`, with the defaults that it has."""

    vocab_size: _Count = 30522
    dim: _Count = 768
    n_layers: _Count = 6
    n_heads: _Count = 12
    hidden_dim: _Count = 3072
    activation: Literal["gelu", "relu"] = "gelu"
    max_position_embeddings: _Count = 512

    def sizes(self) -> Sizes:
        size = BertSize(
            layers=self.n_layers,
            width=self.dim,
            heads=self.n_heads,
            hidden=self.hidden_dim,
            vocabulary=self.vocab_size,
            positions=self.max_position_embeddings,
            token_types=0,
            pooler="relu",
        )
        return Sizes(size, self.activation, 1e-12, "distilbert")


_KINDS: dict[str, type[_Bert | _DistilBert]] = {
    "bert": _Bert,
    "distilbert": _DistilBert,
}


def read_sizes(folder: Path) -> Sizes:
    """Read the `config.json` of a folder.

    Raises:
      ReadingError: no such file, a damaged one, or a network of another kind.
    """
    path = folder / "config.json"
    values = read_json(path, advice="give the folder of a BERT of Hugging Face")
    if (kind := values.get("model_type")) not in _KINDS:
        raise ReadingError(
            f"{path}: model_type must be one of {', '.join(_KINDS)}; got {kind!r}"
        )
    try:
        sizes = typed(values, _KINDS[kind]).sizes()
    except ReadingError as error:
        raise ReadingError(f"{path} has what is not supported ({error})") from None
    width, heads = sizes.size.width, sizes.size.heads
    if width % heads:
        raise ReadingError(
            f"{path}: expected a width that is a multiple of the {heads} heads, got "
            f"{width}"
        )
    return sizes
