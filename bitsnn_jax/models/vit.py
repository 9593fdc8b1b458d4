"""Vision transformers: images as sequences of patches."""

from typing import NamedTuple

import flax.linen as nn
import jax

from bitsnn_jax.models.encoder import Block, Encoder


class ViTSize(NamedTuple):
    """How large a network is.

    Attributes:
      patch: side of a patch.
      layers: of the encoder.
      width: of a token.
      heads: of the attention.
      hidden: width of the middle of a feed-forward part.
    """

    patch: int
    layers: int
    width: int
    heads: int
    hidden: int


VIT_SIZES = {"vit_small": ViTSize(4, 4, 64, 4, 128)}  # for images of 28x28


class PatchEmbeddings(nn.Module):
    """A dense layer of each patch of an image, plus a vector for its place."""

    size: ViTSize
    block: Block

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width, side = self.size.width, (self.size.patch, self.size.patch)
        x = nn.Conv(width, side, side, dtype=self.block.dtype, name="patch_embeddings")(
            x
        )
        x = x.reshape(len(x), -1, width)
        init = nn.initializers.normal(0.02)
        x = x + self.param("position_embeddings", init, x.shape[1:])
        return self.block.dropped(x, train=train)


class ViT(nn.Module):
    """Patches, an encoder, the mean over patches, a linear classifier.

    Differs from Dosovitskiy et al. 2021: no class token, the mean takes its place. An
    image is padded with zeros to whole patches.

    Attributes:
      size: how large, see `VIT_SIZES`.
      num_classes: how many logits.
      block: what each layer of the encoder is.

    >>> model = ViT(ViTSize(2, 1, 8, 2, 8), num_classes=3, block=Block(2, hidden=8))
    >>> x = jax.numpy.zeros((1, 4, 4, 1))
    >>> variables = model.init(jax.random.key(0), x, train=False)
    >>> model.apply(variables, x, train=False).shape
    (1, 3)
    """

    size: ViTSize
    num_classes: int
    block: Block

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Compute logits [n, num_classes] of images [n, h, w, c]."""
        embeddings = PatchEmbeddings(self.size, self.block, name="embeddings")
        x = embeddings(x, train=train)
        x = Encoder(self.size.layers, self.block, name="encoder")(x, train=train)
        if self.block.pre_norm:
            x = self.block.norm(x, train=train, name="layernorm")
        x = self.block.codes.signed(x, name="output_act").mean(axis=1)
        return nn.Dense(self.num_classes, name="classifier")(x)
