"""Multi-prize tickets: random weights that are never trained, only masked, as signs.

    y = alpha (x * (sign(w) M)),   M = the largest |S|,   alpha = mean |w| where M

Scores S are trained by `masked`, signs by the derivative of Bi-Real Net. All layers are
masked, the first and the last too; these two see real numbers. Diffenderfer and
Kailkhura, Multi-prize lottery ticket hypothesis, ICLR 2021, and their public code,
chrundle/biprop. Differs in the network, which is theirs in order (convolution, pooling,
norm, sign) and ours in size, and in the share of the weights that stays: a quarter of
wide layers there, half of these narrow ones.
"""

import flax.linen as nn
import jax

from bitsnn_jax.binary.layers import MaskedConv, NormSign
from bitsnn_jax.binary.method import Method, Sizes
from bitsnn_jax.numerics.binary import SLOPES

KEEP = 0.5


class MultiPrize(nn.Module):
    """Three masked convolutions and a masked classifier.

    Attributes:
      keep: share of the weights of each layer that stays.
    """

    sizes: Sizes
    keep: float = KEEP

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, progress: object = 1.0):
        """Compute logits [n, num_classes] of images [n, h, w, c]."""
        del progress
        size, keep = self.sizes, self.keep
        slope = SLOPES["bireal"]
        first, second, third = size.widths
        x = MaskedConv(first, keep=keep, analog=True, name="conv")(x)
        x = NormSign(size.norm, slope, name="act_1")(x, train=train)
        x = size.pooled(MaskedConv(second, keep=keep, name="conv_2")(x), 0)
        x = NormSign(size.norm, slope, name="act_2")(x, train=train)
        x = size.pooled(MaskedConv(third, keep=keep, name="conv_3")(x), 1)
        x = nn.relu(size.norm(use_running_average=not train, name="norm")(x))
        # A dense layer is a convolution of one place.
        x = x.reshape(len(x), 1, 1, -1)
        head = MaskedConv(size.num_classes, 1, keep=keep, analog=True, name="head")
        return head(x)[:, 0, 0]


METHOD = Method(
    name="multi_prize",
    title="Multi-prize tickets",
    source="Diffenderfer and Kailkhura, Multi-prize lottery ticket hypothesis, "
    "ICLR 2021",
    network=MultiPrize,
)
