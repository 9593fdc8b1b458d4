"""Quantisation-aware fine-tuning: weights that lose little when they are rounded.

The network that is trained is the one in integers that `fixed_point` makes, with a real
number behind every integer: the pass forward rounds it, the gradient does not see that.
The grid, which is a unit for each channel, is read off `fixed_point` and stays.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bitsnn_jax.integers.graph import (
    Graph,
    Term,
    WindowMax,
    WindowSum,
    apply,
    batched,
)
from bitsnn_jax.integers.kernels import filled
from bitsnn_jax.integers.latent import (
    Params,
    latent,
    rounded,
    straight_through,
    written_back,
)
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.tables import differentiable_codes
from bitsnn_jax.numerics.qcfs import qcfs

LEARNING_RATE = 2e-3


def forward(
    network: IntegerNetwork,
) -> Callable[[Params, jax.Array], tuple[dict, dict]]:
    """Return `execution.one_shot` as a function of its weights, with gradients.

    Computes in the type of its input: float32 is exact while sums stay below 2**24.
    Gradient: that of `qcfs` in neurons, and of a table the slope between thresholds;
    rounding is passed straight through.

    Returns:
      (params, integers [n, ...] as floats) -> logits by name, in the units of the float
      network; and the codes of each layer of neurons. Both are floats.
    """

    def run(params, x):
        weights = rounded(network, params)

        def one(x):
            values, codes = {"input": x}, {}
            for node in network.nodes[1:]:
                of = weights.get(node.name, {"kernels": [], "bias": 0})
                bias = jnp.asarray(of["bias"], x.dtype)
                z = jnp.broadcast_to(bias, node.shape)
                if node.kind == "maximum":
                    terms = [_term(t, values[t.source]) for t in node.terms]
                    values[node.name] = functools.reduce(jnp.maximum, terms)
                    continue
                for term in filled(node.terms, of["kernels"]):
                    z += _term(term.given(values), values[term.source])
                values[node.name] = _value(node, z, network.steps)
                if node.kind == "neurons":
                    codes[node.name] = values[node.name]
            outputs = network.of_kind("output")
            return {
                node.name: values[node.name] * jnp.asarray(node.unit, x.dtype)
                for node in outputs
            }, codes

        outputs, codes = batched(one)(x)
        return jax.tree.map(lambda y: y[:, 0], (outputs, codes))

    return run


class Tuned(NamedTuple):
    """What `tune` gives.

    Attributes:
      graph: with weights on the grid; `fixed_point` of it is `network`'s equal.
      losses: of each step.
    """

    graph: Graph
    losses: np.ndarray


def tune(
    graph: Graph,
    batches: Iterable[dict[str, Any]],
    *,
    steps: int,
    bits: int,
    num_steps: int,
    learning_rate: float = LEARNING_RATE,
    white: int = 255,
) -> Tuned:
    """Fine-tune weights and biases for T steps and so many bits, by cross-entropy.

    Adam, its rate along half a cosine to 0. Thresholds stay, and with them the grid.
    Weights of which results are moved before they are added up stay too, since no
    channel has a unit of its own there: only the biases of such nodes are trained.

    Args:
      graph: with one output, of logits.
      batches: of {"image": [b, ...] integers 0..white of any type, "label": [b]}.
      steps, bits, white: as in `fixed_point`.
      num_steps: batches to train on, at least 1.
      learning_rate: the first one, as a part of the largest weight that `bits` hold.

    Returns:
      The graph with trained numbers, and the losses.

    Raises:
      FixedPointError, ValueError: as `fixed_point`; or several outputs.
    """
    if len(outputs := graph.of_kind("output")) > 1:
        raise ValueError(
            f"expected a graph with one output, of logits, got {len(outputs)}, the "
            f"first {outputs[0].name}: round its weights without fine-tuning"
        )
    network, params, low, high = latent(graph, steps=steps, bits=bits, white=white)
    run = forward(network)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def loss_fn(params, batch):
        outputs, _ = run(params, batch["image"].astype(jnp.float32))
        return jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(
                outputs["output"], batch["label"]
            )
        )

    @jax.jit
    def step(params, state, batch):
        loss, gradient = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = optimizer.update(gradient, state)
        params = jax.tree.map(jnp.clip, optax.apply_updates(params, updates), low, high)
        return params, state, loss

    state, losses = optimizer.init(params), []
    for _, batch in zip(range(num_steps), batches, strict=False):
        params, state, loss = step(params, state, batch)
        losses.append(loss)
    return Tuned(written_back(graph, network, params), np.array(losses))


def _value(node: IntegerNode, z, steps: int):
    one = jnp.asarray(2.0**node.fraction, z.dtype)
    if node.has_table:
        return differentiable_codes(node, z)
    if node.kind == "neurons":
        levels = 2**steps - 1
        return qcfs(z, levels * one, levels=levels) / one
    if node.kind == "sum":
        return straight_through(jnp.floor, (z + jnp.asarray(node.half, z.dtype)) / one)
    return z


# A start that is an array, as in `graph.apply`, has no gradient under `jax.jit`; nor
# has a maximum that starts at 0, which is as good for codes.
_WINDOWS = {WindowSum: (0.0, jax.lax.add), WindowMax: (-jnp.inf, jax.lax.max)}


def _term(term: Term, x: jax.Array) -> jax.Array:
    """Compute `graph.apply_term`, with gradients."""
    for op in (*term.before, term.weight, *term.after):
        if isinstance(op, WindowSum | WindowMax):
            start, combine = _WINDOWS[type(op)]
            x = jax.lax.reduce_window(
                x, start, combine, op.window, op.strides, op.padding
            )
        else:
            x = apply(op, x)
    return x
