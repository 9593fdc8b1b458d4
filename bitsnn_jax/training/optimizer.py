"""Optimisers and schedules, and thresholds that stay positive."""

import jax
import jax.numpy as jnp
import optax

from bitsnn_jax import config

THETA_FLOOR = 1e-3


# Leaves that AdamW lets be, besides all vectors; they are no weights of a product.
_NOT_DECAYED = {"bias", "scale", "theta"}


def learning_rate(
    optimizer: config.Optimizer, *, steps_per_epoch: int
) -> optax.Schedule:
    """Fall from the peak to 0 at the last step, after a warm-up that rises from 0.

    The way down is a straight line or half a cosine.

    >>> rate = learning_rate(config.Optimizer(learning_rate=0.1), steps_per_epoch=5)
    >>> [round(float(rate(step)), 3) for step in (0, 50, 100)]
    [0.1, 0.05, 0.0]
    """
    warmup = round(optimizer.warmup_epochs * steps_per_epoch)
    peak, total = optimizer.learning_rate, optimizer.epochs * steps_per_epoch
    steps = total - warmup
    if optimizer.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, steps)
    else:
        decay = optax.linear_schedule(peak, 0.0, steps)
    if not warmup:
        return decay
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup), decay], [warmup]
    )


def make_optimizer(
    optimizer: config.Optimizer, *, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Build the optimiser of a config, by its name.

    With `clip_norm`, a gradient whose norm over all parameters is larger is scaled down
    to it, before anything else.
    """
    made = {"sgd": sgd, "adamw": adamw}[optimizer.name]
    updates = made(optimizer, steps_per_epoch=steps_per_epoch)
    if not optimizer.clip_norm:
        return updates  # without a state that earlier checkpoints do not have
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), updates)


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


def adamw(
    optimizer: config.Optimizer, *, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Build Adam with decoupled weight decay, projected to positive theta.

        m <- b1 m + (1 - b1) grad;   v <- b2 v + (1 - b2) grad^2
        p <- p - rate ((m / c1) / (sqrt(v / c2) + epsilon) + weight_decay p)

    with c_i = 1 - b_i^step. As for BERT, the decay acts on matrices and tables: biases,
    the weights of norms and theta are left out.
    """
    return optax.chain(
        optax.scale_by_adam(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.epsilon),
        optax.add_decayed_weights(optimizer.weight_decay, mask=_decayed),
        optax.scale_by_learning_rate(
            learning_rate(optimizer, steps_per_epoch=steps_per_epoch)
        ),
        keep_theta_positive(),
    )


def _decayed(params):
    def decays(path, p):
        return p.ndim > 1 and getattr(path[-1], "key", None) not in _NOT_DECAYED

    return jax.tree_util.tree_map_with_path(decays, params)


def keep_theta_positive(floor: float = THETA_FLOOR) -> optax.GradientTransformation:
    """Project updates so that no leaf called "theta" moves below `floor`.

    A negative threshold turns its activation off for good, for da/dtheta is then 0 or
    scaled by 1 / theta. In the same way no leaf called "leak" moves above 1, where a
    membrane would grow by itself. A leaf called "frozen" does not move at all, whatever
    the decay. Last in a chain, since it looks at where the update leads to.
    """

    def project(path, update, p):
        name = getattr(path[-1], "key", None)
        if name == "theta":
            return jnp.maximum(p + update, floor) - p
        if name == "leak":
            return jnp.minimum(p + update, 1) - p
        if name == "frozen":
            return jnp.zeros_like(update)
        return update

    def update(updates, state, params=None):
        return jax.tree_util.tree_map_with_path(project, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
