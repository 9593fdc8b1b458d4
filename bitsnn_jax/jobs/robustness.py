"""Images with noise, and images made to be mistaken: FGSM and PGD.

Pixels are floating, from 0 (black) to 1 (white), so that sigma, epsilon and the step of
an attack are fractions of the pixel range: 8 / 255 is eight grey levels. Every result
is clipped to 0..1 and is not rounded to grey levels. A network of such pixels is made
by `of_pixels`; the attacks follow the gradient of its loss, `loss_gradient`.

The gradient of a spiking network is that of `spiking(..., mode="fused")`: the codes of
all neurons as they are, and `qcfs` straight through the floor. "stepped" has the same
codes and no gradient, it cannot be attacked in this way.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from bitsnn_jax.data import Examples, scale_and_shift
from bitsnn_jax.tracing.fast_convolutions import with_fast_convolutions
from bitsnn_jax.tracing.program import ApplyFn

Pixels = Float[Array | np.ndarray, "n ..."]
Labels = Int[Array | np.ndarray, " n"]
GradientFn = Callable[[Pixels, Labels], Array]


def of_pixels(apply_fn: ApplyFn, examples: Examples) -> ApplyFn:
    """Turn a network of normalised images into one of pixels 0..1.

    Args:
      apply_fn: (variables, images) -> logits, of images as `data.normalise` makes them.
      examples: what says how: (pixel - mean) / std for each channel.
    """
    scale, shift = scale_and_shift(examples)
    scale = scale * examples.white  # of 0..1, where it was of stored pixels

    def pixels_fn(variables: Any, pixels: Pixels) -> Array:
        pixels = jnp.asarray(pixels)
        images = pixels * scale.astype(pixels.dtype) + shift.astype(pixels.dtype)
        return apply_fn(variables, images)

    return pixels_fn


def noisy(key: Array, pixels: Pixels, *, sigma: float) -> Array:
    """Add Gaussian noise to pixels, and clip them.

        x' = clip(x + sigma n, 0, 1),   n ~ N(0, 1), independent in every entry

    Clipping is ours: the paper does not say what becomes of pixels beyond white.

    Args:
      key: of the noise.
      pixels: [n, ...] in 0..1.
      sigma: standard deviation, as a fraction of the pixel range; 0 changes nothing.

    Raises:
      ValueError: sigma < 0.
    """
    _check("sigma", sigma, least=0)
    pixels = jnp.asarray(pixels)
    noise = jax.random.normal(key, pixels.shape, pixels.dtype)
    return jnp.clip(pixels + sigma * noise, 0, 1)


def project(pixels: Pixels, centre: Pixels, *, epsilon: float) -> Array:
    """Find the nearest pixels in 0..1 that are at most epsilon away in every entry."""
    low, high = jnp.maximum(centre - epsilon, 0), jnp.minimum(centre + epsilon, 1)
    return jnp.clip(pixels, low, high)


def cross_entropy(logits: Array, labels: Labels) -> Array:
    """Compute the loss that attacks raise, of each example: [n]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels))


def loss_gradient(apply_fn: ApplyFn) -> Callable[[Any, Pixels, Labels], Array]:
    """Build (variables, pixels, labels) -> dL/dx of each example, from the sum.

    Attacks call it once an iteration: wrap it in `jax.jit`. The iterations are no loop
    of XLA's, because its CPU backend runs convolutions inside of one several times
    slower.

    Args:
      apply_fn: (variables, pixels) -> logits [n, classes], each row of its example.
    """

    def loss(pixels, variables, labels):
        return cross_entropy(apply_fn(variables, pixels), labels).sum()

    gradient = with_fast_convolutions(jax.grad(loss))
    return lambda variables, pixels, labels: gradient(pixels, variables, labels)


def fgsm(
    gradient_fn: GradientFn, pixels: Pixels, labels: Labels, *, epsilon: float
) -> Array:
    """Run the fast gradient sign method: one step to the corner of the ball.

        x' = clip(x + epsilon sign(dL/dx), 0, 1)

    Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR
    2015. `pgd` says what the arguments are.
    """
    return pgd(gradient_fn, pixels, labels, epsilon=epsilon, step=epsilon, iterations=1)


def pgd(
    gradient_fn: GradientFn,
    pixels: Pixels,
    labels: Labels,
    *,
    epsilon: float,
    step: float,
    iterations: int,
    key: Array | None = None,
) -> Array:
    """Run projected gradient ascent on the cross-entropy, in the maximum norm.

        x(k+1) = P(x(k) + step sign(dL/dx(k))),   P = `project` around the clean x

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR
    2018. The result is the last iterate, whatever the earlier ones did.

    Args:
      gradient_fn: (pixels, labels) -> dL/dx, `loss_gradient` given the variables.
      pixels: [n, ...] in 0..1, the clean images.
      labels: int [n], the true classes, from which the attack leads away.
      epsilon: the largest change of a pixel, as a fraction of the pixel range.
      step: of one iteration, on the same scale.
      iterations: how many.
      key: the attack starts at a point drawn uniformly from the ball; None: at x.

    Returns:
      [n, ...] pixels in 0..1, at most epsilon away from the clean ones.

    Raises:
      ValueError: epsilon or step negative, fewer than one iteration.
    """
    _check("epsilon", epsilon, least=0)
    _check("step", step, least=0)
    _check("iterations", iterations, least=1)
    clean = x = jnp.asarray(pixels)
    if key is not None:
        bounds = {"minval": -epsilon, "maxval": epsilon}
        moved = jax.random.uniform(key, x.shape, x.dtype, **bounds)
        x = project(clean + moved, clean, epsilon=epsilon)
    for _ in range(iterations):
        ascent = step * jnp.sign(gradient_fn(x, labels))
        x = project(x + ascent, clean, epsilon=epsilon)
    return x


def _check(name, value, *, least):
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
