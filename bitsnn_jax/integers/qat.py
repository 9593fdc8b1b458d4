"""Quantisation-aware fine-tuning: weights that lose little when they are rounded.

The network that is trained is the one in integers that `fixed_point` makes, with a real
number behind every integer: the pass forward rounds it, the gradient does not see that.
The grid, which is a unit for each channel, is read off `fixed_point` and stays.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bitsnn_jax.integers.fixed_point import IntegerNetwork, IntegerNode, fixed_point
from bitsnn_jax.integers.folding import fed, scaled
from bitsnn_jax.integers.graph import (
    Graph,
    Node,
    Scale,
    Shift,
    Term,
    WindowMax,
    WindowSum,
    apply,
    batched,
)
from bitsnn_jax.numerics.qcfs import qcfs

LEARNING_RATE = 2e-3
# A grid finer by so many bits is tried for each channel, its largest weights clipped.
FINER = 3
# Weights lie so much inside of their grid that no logarithm rounds down to another.
_INSIDE = 1 - 2.0**-40

# name of a node -> {"bias": array, "kernels": one array for each term with a kernel}
Params = dict[str, dict[str, Any]]


class Latent(NamedTuple):
    """An integer network, and the real numbers that its weights are rounded from.

    Attributes:
      network: of which everything but kernels and biases stays as it is.
      params: kernels are W / (2**(bits - 1) - 1), so in -1..1; biases of neurons are in
        units of theta.
      low, high: where the kernels must stay. A kernel that has a channel's largest
        weight keeps that one large: the unit would be another without it.
    """

    network: IntegerNetwork
    params: Params
    low: Params
    high: Params


class Tuned(NamedTuple):
    """What `tune` gives.

    Attributes:
      graph: with weights on the grid; `fixed_point` of it is `network`'s equal.
      losses: of each step.
    """

    graph: Graph
    losses: np.ndarray


def latent(graph: Graph, *, steps: int, bits: int, levels: int = 255) -> Latent:
    """The start of a training: a grid for each channel, and weights clipped to it.

    `fixed_point` has the finest grid which the largest weight of a channel fits. With
    few bits, a finer one on which large weights are clipped is often nearer to most of
    them: of these, the one with the least squared error is taken.

    Args:
      graph, steps, bits, levels: as in `fixed_point`.

    Raises:
      FixedPointError, ValueError: as `fixed_point`.
    """
    options = {"steps": steps, "bits": bits, "levels": levels}
    limit = 2 ** (bits - 1) - 1
    first = fixed_point(graph, **options)
    clipped = [_clipped(node, first, limit) for node in graph.nodes]
    network = fixed_point(Graph(tuple(clipped)), **options)
    params, low, high = {}, {}, {}
    for node, near in zip(graph.nodes[1:], clipped[1:], strict=True):
        integers = network[node.name]
        if node.kind == "maximum":
            continue
        if _is_fixed(node, integers):
            start = [t.weight.kernel / limit for t in _with_kernel(integers.terms)]
            bounds = start, start
        else:
            sizes = _in_units(node, network)
            start = [value / limit for value in _in_units(near, network)]
            bounds = _bounds(sizes, integers, limit)
        size = _bias_size(integers, network)
        for tree, kernels, bias in (
            (params, start, integers.bias / size),
            (low, bounds[0], np.full((), -np.inf)),
            (high, bounds[1], np.full((), np.inf)),
        ):
            tree[node.name] = {
                "kernels": [np.asarray(k, np.float32) for k in kernels],
                "bias": np.asarray(bias, np.float32),
            }
    return Latent(network, params, low, high)


def rounded(network: IntegerNetwork, params: Params) -> Params:
    """The integers of the parameters, as floats. Gradient: straight through."""
    limit = 2 ** (network.bits - 1) - 1
    return {
        name: {
            "kernels": [_through(jnp.round, k * limit) for k in of["kernels"]],
            "bias": _through(
                jnp.round, of["bias"] * _bias_size(network[name], network)
            ),
        }
        for name, of in params.items()
    }


def forward(
    network: IntegerNetwork,
) -> Callable[[Params, jax.Array], tuple[dict, dict]]:
    """The network of `integers.one_shot` as a function of its weights, with gradients.

    Computes in the type of its input: float32 is exact while sums stay below 2**24.
    Gradient: that of `qcfs` in neurons; rounding is passed straight through.

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
                for term in _filled(node.terms, of["kernels"]):
                    z += _term(term, values[term.source])
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


def written_back(graph: Graph, network: IntegerNetwork, params: Params) -> Graph:
    """The float graph with the rounded parameters for weights and biases.

    `fixed_point` of it has the weights, thresholds and biases of the training. Only the
    rounding of a "sum" to 16 bits follows the size of the sum, which training changes.
    """
    integers = jax.tree.map(np.asarray, rounded(network, params))
    nodes = []
    for node in graph.nodes:
        if node.name not in integers:
            nodes.append(node)
            continue
        made, found = network[node.name], integers[node.name]
        unit = made.unit / 2.0**made.fraction
        node = node._replace(bias=np.float64(found["bias"]) * unit)
        if not _is_fixed(node, made):
            kernels = [
                np.float64(w) * _INSIDE / factor
                for w, factor in zip(
                    found["kernels"], _factors(node, network), strict=True
                )
            ]
            node = node._replace(terms=tuple(_filled(node.terms, kernels)))
        nodes.append(node)
    return Graph(tuple(nodes))


def tune(
    graph: Graph,
    batches: Iterable[dict[str, Any]],
    *,
    steps: int,
    bits: int,
    num_steps: int,
    learning_rate: float = LEARNING_RATE,
    levels: int = 255,
) -> Tuned:
    """Fine-tunes weights and biases for T steps and so many bits, by cross-entropy.

    Adam, its rate along half a cosine to 0. Thresholds stay, and with them the grid.
    Weights of which results are moved before they are added up stay too, since no
    channel has a unit of its own there: only the biases of such nodes are trained.

    Args:
      graph: with one output, of logits.
      batches: of {"image": [b, ...] integers 0..levels of any type, "label": [b]}.
      steps, bits, levels: as in `fixed_point`.
      num_steps: batches to train on, at least 1.
      learning_rate: the first one, as a part of the largest weight that `bits` hold.

    Returns:
      The graph with trained numbers, and the losses.

    Raises:
      FixedPointError, ValueError: as `fixed_point`.
    """
    network, params, low, high = latent(graph, steps=steps, bits=bits, levels=levels)
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


def _with_kernel(terms):
    return [term for term in terms if not isinstance(term.weight, Scale)]


def _filled(terms, kernels) -> list[Term]:
    """The terms with other kernels."""
    rest = iter(kernels)
    return [
        term
        if isinstance(term.weight, Scale)
        else term._replace(weight=term.weight._replace(kernel=next(rest)))
        for term in terms
    ]


def _is_fixed(node: Node, made: IntegerNode) -> bool:
    """Whether its kernels stay: channels, or terms of unlike size, share a unit."""
    moved = any(term.after for term in node.terms)
    return moved or len(set(map(_shift, _with_kernel(made.terms)))) > 1


def _shift(term: Term) -> int:
    return sum(op.amount for op in term.after if isinstance(op, Shift))


def _factors(node: Node, network: IntegerNetwork) -> list[np.ndarray]:
    """What `fixed_point` multiplies kernels with before it rounds them."""
    made = network[node.name]
    coarse = made.unit / 2.0**made.fraction
    factors = []
    for term, integer in zip(node.terms, made.terms, strict=True):
        if isinstance(term.weight, Scale):
            continue
        guard = _shift(integer)
        source = network[term.source]
        ones = term.weight._replace(kernel=np.ones(term.weight.kernel.shape))
        one = fed(term._replace(weight=ones), source.unit, source.shape)
        one = scaled(one, 1 / (coarse * 2.0**guard), source.shape)
        assert not isinstance(one.weight, Scale), "kernels stay kernels"
        factors.append(one.weight.kernel)
    return factors


def _in_units(node: Node, network: IntegerNetwork) -> list[np.ndarray]:
    """The kernels before they are rounded."""
    kernels = [term.weight.kernel for term in _with_kernel(node.terms)]
    return [
        kernel * factor
        for kernel, factor in zip(kernels, _factors(node, network), strict=True)
    ]


def _grouped(kernels, kind) -> np.ndarray:
    """[weights, groups]: those that share a unit side by side."""
    if kind == "output":
        return np.concatenate([k.reshape(-1, 1) for k in kernels])
    return np.concatenate([k.reshape(-1, k.shape[-1]) for k in kernels])


def _clipped(node: Node, network: IntegerNetwork, limit: int) -> Node:
    kept = _with_kernel(node.terms)
    if not kept or _is_fixed(node, network[node.name]):
        return node
    kernels = _in_units(node, network)
    groups = np.abs(_grouped(kernels, node.kind))
    errors = []
    for shift in range(FINER + 1):
        grid = np.minimum(np.round(groups * 2.0**shift), limit) / 2.0**shift
        errors.append(np.square(grid - groups).sum(0))
    # A grid that is not bound by the largest weight does not become finer.
    best = np.where(groups.max(0) > limit / 2, np.argmin(errors, 0), 0)
    most = limit * _INSIDE / 2.0**best
    kernels = [
        np.clip(k, -most, most) / factor
        for k, factor in zip(kernels, _factors(node, network), strict=True)
    ]
    return node._replace(terms=tuple(_filled(node.terms, kernels)))


def _bounds(kernels, node: IntegerNode, limit: int):
    """Below and above: -1..1, but for the largest weight that a unit comes from."""
    if not kernels:
        return [], []
    groups = _grouped(kernels, node.kind)
    low, high = np.full(groups.shape, -1.0), np.ones(groups.shape)
    index = np.argmax(np.abs(groups), 0), np.arange(groups.shape[1])
    largest = groups[index]
    # Half of the range would fit a finer grid. Other units are exactly the largest's.
    need = (limit + 1) / 2 / limit if node.kind == "neurons" else 1.0
    bound = np.abs(largest) > limit / 2
    low[index] = np.where(bound & (largest > 0), need, -1.0)
    high[index] = np.where(bound & (largest < 0), -need, 1.0)
    ends = np.cumsum([k.size // groups.shape[1] for k in kernels])[:-1]
    return tuple(
        [
            part.reshape(k.shape)
            for part, k in zip(np.split(side, ends), kernels, strict=True)
        ]
        for side in (low, high)
    )


def _bias_size(node: IntegerNode, network: IntegerNetwork) -> np.ndarray:
    """What a bias is counted in: the threshold of neurons, or one large term."""
    top = 2**network.steps - 1
    if node.kind == "neurons":
        size = top * 2.0**node.fraction
    else:
        size = np.asarray(top * 2.0 ** (network.bits - 1))
    return np.asarray(size, np.float32)


def _value(node: IntegerNode, z, steps: int):
    one = jnp.asarray(2.0**node.fraction, z.dtype)
    if node.kind == "neurons":
        levels = 2**steps - 1
        return qcfs(z, levels * one, levels=levels) / one
    if node.kind == "sum":
        return _through(jnp.floor, (z + jnp.asarray(node.half, z.dtype)) / one)
    return z


def _through(fn, x):
    """fn(x), with the gradient of x."""
    return x + jax.lax.stop_gradient(fn(x) - x)


# A start that is an array, as in `graph.apply`, has no gradient under `jax.jit`; nor
# has a maximum that starts at 0, which is as good for codes.
_WINDOWS = {WindowSum: (0.0, jax.lax.add), WindowMax: (-jnp.inf, jax.lax.max)}


def _term(term: Term, x: jax.Array) -> jax.Array:
    """`graph.apply_term`, with gradients."""
    for op in (*term.before, term.weight, *term.after):
        if isinstance(op, WindowSum | WindowMax):
            start, combine = _WINDOWS[type(op)]
            x = jax.lax.reduce_window(
                x, start, combine, op.window, op.strides, op.padding
            )
        else:
            x = apply(op, x)
    return x
