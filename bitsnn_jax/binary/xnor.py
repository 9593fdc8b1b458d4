"""The plain binary network, much as XNOR-Net has it.

    y = alpha (sign(norm(x)) * sign(w)),   alpha = mean |w| of each output channel

First and last layer are real. Rastegari et al., XNOR-Net, ECCV 2016. Differs from the
paper, whose activations have a scale for each place too, which its own ablation finds
to matter little; and in the gradient of alpha, see `scaled_by_mean`.
"""

import flax.linen as nn
import jax

from bitsnn_jax.binary.layers import BinaryConv, NormSign, he_normal
from bitsnn_jax.binary.method import Method, Sizes


class XNOR(nn.Module):
    """A real convolution, two binary ones, and a real classifier."""

    sizes: Sizes

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, progress: object = 1.0):
        """Compute logits [n, num_classes] of images [n, h, w, c]."""
        del progress
        size = self.sizes
        first, second, third = size.widths
        x = nn.Conv(
            first, (3, 3), padding=1, use_bias=False, kernel_init=he_normal, name="conv"
        )(x)
        x = NormSign(size.norm, name="act_1")(x, train=train)
        x = size.pooled(BinaryConv(second, name="conv_2")(x), 0)
        x = NormSign(size.norm, name="act_2")(x, train=train)
        x = size.pooled(BinaryConv(third, name="conv_3")(x), 1)
        x = nn.relu(size.norm(use_running_average=not train, name="norm")(x))
        return nn.Dense(size.num_classes, name="head")(x.reshape(len(x), -1))


METHOD = Method(
    name="xnor",
    title="XNOR-Net",
    source="Rastegari et al., XNOR-Net, ECCV 2016",
    network=XNOR,
)
