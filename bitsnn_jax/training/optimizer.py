"""SGD as the reference trains with it, and thresholds that stay positive."""

import jax
import jax.numpy as jnp
import optax

from bitsnn_jax import config

THETA_FLOOR = 1e-3


def learning_rate(
    optimizer: config.Optimizer, *, steps_per_epoch: int
) -> optax.Schedule:
    """Follow half a cosine from the peak to 0 at the last step, after a warm-up.

    >>> rate = learning_rate(config.Optimizer(learning_rate=0.1), steps_per_epoch=5)
    >>> [round(float(rate(step)), 3) for step in (0, 50, 100)]
    [0.1, 0.05, 0.0]
    """
    warmup = round(optimizer.warmup_epochs * steps_per_epoch)
    peak, total = optimizer.learning_rate, optimizer.epochs * steps_per_epoch
    cosine = optax.cosine_decay_schedule(peak, total - warmup)
    if not warmup:
        return cosine
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup), cosine], [warmup]
    )


def sgd(
    optimizer: config.Optimizer, *, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Build SGD with momentum and coupled weight decay, projected to positive theta.

        g <- grad + weight_decay p;   m <- momentum m + g;   p <- p - rate m

    The decay is part of the gradient (L2), and acts on all parameters, theta and those
    of batch norm included, as in the authors' code.
    """
    return optax.chain(
        optax.add_decayed_weights(optimizer.weight_decay),
        optax.trace(optimizer.momentum),
        optax.scale_by_learning_rate(
            learning_rate(optimizer, steps_per_epoch=steps_per_epoch)
        ),
        keep_theta_positive(),
    )


def keep_theta_positive(floor: float = THETA_FLOOR) -> optax.GradientTransformation:
    """Project updates so that no leaf called "theta" moves below `floor`.

    A negative threshold turns its activation off for good, for da/dtheta is then 0 or
    scaled by 1 / theta. Last in a chain, since it looks at where the update leads to.
    """

    def project(path, update, p):
        if getattr(path[-1], "key", None) != "theta":
            return update
        return jnp.maximum(p + update, floor) - p

    def update(updates, state, params=None):
        return jax.tree_util.tree_map_with_path(project, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
