"""BERT and its relatives: an encoder of words, and a classifier of sentences."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bitsnn_jax.models.encoder import Block, Encoder
from bitsnn_jax.numerics.mixing import lookup


class BertSize(NamedTuple):
    """How large a network is.

    Attributes:
      layers: of the encoder.
      width: of a token.
      heads: of the attention.
      hidden: width of the middle of a feed-forward part.
      vocabulary: words that it knows.
      positions: tokens that a sentence may have.
      token_types: 0 for a network that does not tell the parts of a pair apart.
      pooler: "tanh", a dense layer and tanh, as in BERT; or "relu", `pre_classifier`
        and ReLU, as in DistilBERT.
    """

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int = 30522
    positions: int = 512
    token_types: int = 2
    pooler: str = "tanh"


BERT_SIZES = {
    "bert_base": BertSize(12, 768, 12, 3072),
    "bert_tiny": BertSize(2, 32, 2, 64, vocabulary=128, positions=64),
    "distilbert": BertSize(6, 768, 12, 3072, token_types=0, pooler="relu"),
    "minilm": BertSize(6, 384, 12, 1536),
}


class Embedding(nn.Module):
    """A table of vectors, of which integers name rows."""

    rows: int
    width: int

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        init = nn.initializers.normal(0.02)
        table = self.param("embedding", init, (self.rows, self.width))
        return lookup(table, ids)


class Embeddings(nn.Module):
    """The sum of the vectors of word, position and token type, behind a norm."""

    size: BertSize
    block: Block

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        size, length = self.size, tokens.shape[-1]
        if length > size.positions:
            raise ValueError(
                f"a sentence may have {size.positions} tokens, got {length}: set "
                f"data.max_length to at most {size.positions}"
            )

        def embedding(rows, name):
            return Embedding(rows, size.width, name=name)

        x = embedding(size.vocabulary, "word_embeddings")(tokens[:, 0])
        positions = embedding(size.positions, "position_embeddings")
        x = x + positions(jnp.arange(length))
        if size.token_types:
            types = embedding(size.token_types, "token_type_embeddings")
            x = x + types(tokens[:, 1])
        x = self.block.norm(x, train=train)
        return self.block.dropped(x, train=train)


class Pooler(nn.Module):
    """Dense layer, tanh or ReLU, and their code, of the first token of a sentence."""

    size: BertSize
    block: Block

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        block = self.block
        x = block.codes.signed(x, name="input_act")
        x = block.dense(self.size.width, name="dense")(x)
        if self.size.pooler == "relu":
            return block.codes.rectified(x, name="act")
        return block.codes.signed(jnp.tanh(x), name="act")


class Bert(nn.Module):
    """Embeddings, an encoder, a pooler, a linear classifier (Devlin et al. 2019).

    The input is one array of integers, [n, 3, s]: for each of s tokens the word, the
    token type, and 1 for a word or 0 for padding.

    Attributes:
      size: how large, see `BERT_SIZES`.
      num_classes: how many logits.
      block: what each layer of the encoder is.

    >>> size = BERT_SIZES["bert_tiny"]
    >>> model = Bert(size, num_classes=2, block=Block(size.heads, size.hidden))
    >>> tokens = jnp.ones((1, 3, 5), int)
    >>> variables = model.init(jax.random.key(0), tokens, train=False)
    >>> model.apply(variables, tokens, train=False).shape
    (1, 2)
    >>> model.apply(variables, tokens, train=False, method="encode").shape
    (1, 5, 32)
    """

    size: BertSize
    num_classes: int
    block: Block

    def setup(self):
        self.embeddings = Embeddings(self.size, self.block)
        self.encoder = Encoder(self.size.layers, self.block)
        pooler = Pooler(self.size, self.block)
        # DistilBERT's name of it.
        if self.size.pooler == "relu":
            self.pre_classifier = pooler
        else:
            self.pooler = pooler
        self.dropout = nn.Dropout(self.block.dropout)
        self.classifier = nn.Dense(self.num_classes)

    def encode(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        """Compute what the encoder says of each token, [n, s, width]."""
        return self._encoded(tokens, train=train)

    @nn.nowrap  # paths of modules would have its name in them
    def _encoded(self, tokens, *, train):
        x = self.embeddings(tokens, train=train)
        return self.encoder(x, tokens[:, 2], train=train)

    def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        """Compute logits [n, num_classes] of tokens, integers [n, 3, s]."""
        x = self._encoded(tokens, train=train)[:, 0]
        pooler = self.pre_classifier if self.size.pooler == "relu" else self.pooler
        return self.classifier(self.dropout(pooler(x), deterministic=not train))
