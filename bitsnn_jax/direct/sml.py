"""SML: float networks behind two layers, taught together with the spiking one.

From the authors' code, whose heads are of ResNet-18's size; here they are as wide as
the widest layer that they stand behind, at most 256, which is the same there. They have
parameters of their own, "heads", that are trained and kept with the others and that no
evaluation looks at.

Published with AdamW 0.01, weight decay 0.02, cosine, 300 epochs, batches of 256 and
AutoAugment.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from bitsnn_jax.direct.layers import outside_blocks
from bitsnn_jax.direct.method import Method, Seen, TaskLoss, of_mean
from bitsnn_jax.direct.neurons import Fired, IntegrateAndFire, decay
from bitsnn_jax.direct.surrogates import SURROGATES

ALIKE, OF_HEADS, TEMPERATURE = 0.9, 0.5, 3.0
WIDEST = 256
NEURON = IntegrateAndFire(decay(0.5), SURROGATES["dspike_centred"])


def loss(seen: Seen, task_loss: TaskLoss) -> jax.Array:
    """Return the loss of the network, of N heads, and of their disagreement, [n].

        (L(o) + a sum_i L(q_i)) / (1 + N a)
            + w / (1 - w) / (2 N) sum_i (KL(o || q_i) + KL(q_i || o))

    o is the mean output over time, q_i that of a head; w = 0.9, a = 1/2. KL is of
    probabilities at temperature 3, and its first argument passes no gradient on.
    Differs from the code, which has 1 - w times this. Its AdamW does not feel such a
    factor; SGD would train at a tenth of its rate.
    """
    outputs, heads = seen.outputs.mean(0), list(seen.heads.values())
    of_heads = jnp.stack([task_loss(head) for head in heads])
    right = of_mean(seen, task_loss) + OF_HEADS * of_heads.sum(0)
    pairs = [_kl(outputs, head) + _kl(head, outputs) for head in heads]
    alike = jnp.stack(pairs).mean(0) / 2
    return right / (1 + len(heads) * OF_HEADS) + ALIKE / (1 - ALIKE) * alike


def _kl(target, logits):
    target = jax.nn.softmax(jax.lax.stop_gradient(target) / TEMPERATURE)
    return optax.losses.kl_divergence(jax.nn.log_softmax(logits / TEMPERATURE), target)


def behind(layers: Mapping[str, Fired]) -> dict[str, Fired]:
    """Return the layers that heads stand behind, a third and two thirds of the way.

    In ResNet-18 that is after the third and the sixth block, as in the authors' code.
    """
    outside = list(outside_blocks(layers).items())
    return dict(outside[i * len(outside) // 3] for i in (1, 2))


class Heads(nn.Module):
    """Float classifiers of the mean spikes over time, one for each of some layers.

    Attributes:
      norm: makes a norm of rows [n, ...]; None for none.
    """

    norm: Callable[..., Any] | None

    @nn.compact
    def __call__(
        self, layers: Mapping[str, Fired], *, outputs: jax.Array, train: bool
    ) -> dict[str, jax.Array]:
        """Compute logits [n, K] by layer, with as many as `outputs`, [T, n, K]."""
        rates = {path: f.values.mean(0) for path, f in behind(layers).items()}
        width = min(WIDEST, max(x.shape[-1] for x in rates.values()))
        return {
            path: Head(width, outputs.shape[-1], self.norm, name=f"head_{i}")(
                x, train=train
            )
            for i, (path, x) in enumerate(rates.items())
        }


class Head(nn.Module):
    """Convolutions 7x7, 5x5 and 3x3, four averages, two dense layers.

    Attributes:
      width: channels; there are twice as many hidden units.
      num_classes: how many logits.
      norm: see `Heads`.
    """

    width: int
    num_classes: int
    norm: Callable[..., Any] | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Compute logits [n, K] of rates [n, h, w, c], or [n, c], a single pixel."""

        def activated(x, name):
            if self.norm is not None:
                norm = self.norm(use_running_average=not train, name=f"{name}_norm")
                x = norm(x)
            return nn.leaky_relu(x, 0.01)

        def conv(x, size, strides, name):
            layer = nn.Conv(
                self.width,
                (size, size),
                strides=strides,
                padding=size // 2,
                use_bias=self.norm is None,
                kernel_init=nn.initializers.he_normal(),
                name=name,
            )
            return activated(layer(x), name)

        x = x if x.ndim == 4 else x[:, None, None]
        if x.shape[-1] > self.width:
            x = conv(x, 1, 1, "conv_1")
        for size, strides in ((7, 2), (5, 2), (3, 1)):
            x = conv(x, size, strides, f"conv_{size}")
        x = nn.Dense(2 * self.width, name="hidden")(_quarters(x))
        return nn.Dense(self.num_classes, name="head")(activated(x, "hidden"))


def _quarters(x):
    """Average the four quarters of images, which share a middle of odd sizes."""
    rows, columns = (
        (slice((size + 1) // 2), slice(size // 2, None)) for size in x.shape[1:3]
    )
    means = [x[:, r, c].mean((1, 2)) for r in rows for c in columns]
    return jnp.concatenate(means, axis=-1)


METHOD = Method(
    name="sml",
    title="SML",
    source="Deng et al., Surrogate module learning, ICML 2023",
    neuron=lambda progress: NEURON,
    loss=loss,
    heads=Heads,
)
