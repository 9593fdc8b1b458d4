"""The anytime read-out: logits after each step of the last spikes, and early exit.

A layer collects charge for T steps, then fires for T steps while the next one collects.
So a network with l layers of neurons in a row takes l T steps, and (l - 1) T of them
are over before the last layer fires. Only the read-out can be cut short: the T steps in
which the output collects the spikes of the layers that feed it. After t of them it
knows the t most significant bits of their codes, and may stop if the logits are far
enough apart.

This saves the spikes that those layers emit at steps t+1..T, their additions in the
output, and T - t of l T steps of latency. Earlier layers save nothing. It stops a train
of T steps early; it is not the network re-quantised to t steps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers.graph import apply_term
from bitsnn_jax.integers.maxima import largest_codes
from bitsnn_jax.integers.network import IntegerNetwork

Codes = Mapping[str, jax.Array]


def prefix_logits(
    network: IntegerNetwork, *, output: str = "output"
) -> Callable[[Codes], jax.Array]:
    """Compute the logits after each prefix of the spikes that feed the output.

        logits(t) = sum of terms of k(t) + bias,   k(t) = k - k mod 2**(T - t)

    in integers, so that logits(T) equal those of the network bit by bit. A maximum of
    prefixes is the prefix of the maximum, so layers may be pooled on their way.

    Args:
      network: of `fixed_point`.
      output: name of the output.

    Returns:
      A function of `Result.codes`, name -> [n, ...], that returns int32 [T, n, ...]. It
      needs the codes of the layers that feed the output. Wrap it in `jax.jit`.

    Raises:
      ValueError: no such output, or one fed by a node that does not fire; when called,
        codes that lack a layer.
    """
    outputs = [node.name for node in network.of_kind("output")]
    if output not in outputs:
        raise ValueError(f"no output {output!r}; there is {', '.join(outputs)}")
    node, steps = network[output], network.steps
    layers = {name for term in node.terms for name in _layers(network, term.source)}
    if silent := sorted(n for n in layers if network[n].kind != "neurons"):
        name = silent[0]
        raise ValueError(
            f"{output} is fed by {name}, of kind {network[name].kind!r}: that has no "
            "spikes, and so no prefixes"
        )

    def prefix(name, codes, t):
        if name in layers:
            missing = steps - t
            return jnp.asarray(codes[name], jnp.int32)[None] >> missing << missing
        node = network[name]
        sources = {term.source for term in node.terms}
        return largest_codes(node, {s: prefix(s, codes, t) for s in sources})

    def logits(codes, t):
        z = jnp.broadcast_to(jnp.asarray(node.bias, jnp.int32), node.shape)
        for term in node.terms:
            z += apply_term(term, prefix(term.source, codes, t))
        return z[0]

    def fn(codes):
        if lacking := sorted(layers - set(codes)):
            raise ValueError(f"codes of {', '.join(lacking)} are needed")

        def one(codes):
            return jnp.stack([logits(codes, t) for t in range(1, steps + 1)])

        return jax.vmap(one, out_axes=1)({name: codes[name] for name in layers})

    return fn


def _layers(network, name) -> list[str]:
    """List what a maximum is of, or the node itself."""
    if network[name].kind != "maximum":
        return [name]
    return [n for term in network[name].terms for n in _layers(network, term.source)]


def mean_missing(logits: Any) -> np.ndarray:
    """Average what the bits to come add to the logits, for each step.

    The read-out is linear, so what is missing after step t is logits(T) - logits(t) on
    average. This is measured, not derived: most neurons are silent, and their bits far
    from even. `logits + mean[:, None]` has no bias on average in its early steps, and
    the same last step.

    Args:
      logits: [T, n, classes] of examples other than those that accuracy is reported on.

    Returns:
      float64 [T, classes], 0 in the last row.
    """
    logits = np.asarray(logits, np.float64)
    return (logits[-1] - logits).mean(1)


def early_exit(logits: Any, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Choose classes as soon as the logits are far enough apart.

    An example stops at the first step at which its largest logit exceeds the second by
    `margin` or more, at the latest at step T. Larger margins stop later.

    Args:
      logits: [T, n, classes], of at least two classes.
      margin: 0 or more, in the units of the logits. 0 stops at step 1, infinity at T.

    Returns:
      predictions [n]; steps used [n], 1..T.

    Raises:
      ValueError: another shape, a negative margin.

    >>> predictions, steps = early_exit([[[2, 0], [1, 0]], [[1, 0], [0, 3]]], margin=2)
    >>> predictions.tolist(), steps.tolist()
    ([0, 1], [1, 2])
    """
    logits = np.asarray(logits, np.float64)  # holds int32, and differences of them
    if logits.ndim != 3 or logits.shape[0] < 1 or logits.shape[2] < 2:
        raise ValueError(
            f"expected logits [T, n, classes] of 2 classes or more, got {logits.shape}"
        )
    if not margin >= 0:
        raise ValueError(f"margin must be 0 or more, got {margin}")
    clear = _gaps(logits) >= margin
    clear[-1] = True
    first = clear.argmax(0)
    chosen = logits[first, np.arange(logits.shape[1])]
    return chosen.argmax(-1), first + 1


class Curve(NamedTuple):
    """Accuracy against mean steps of the read-out, one entry a margin."""

    margins: np.ndarray
    accuracy: np.ndarray
    mean_steps: np.ndarray


def accuracy_curve(
    logits: Any, labels: Any, margins: Sequence[float] | None = None
) -> Curve:
    """Compute accuracy and mean steps of `early_exit` for each margin.

    Choose a margin on other examples than those that accuracy is reported on.

    Args:
      logits: [T, n, classes].
      labels: [n].
      margins: in the units of the logits. None: 0, the deciles of the gaps that occur,
        infinity.

    Raises:
      ValueError: as `early_exit`; no examples, or another number of labels.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if labels.shape != logits.shape[1:2] or not labels.size:
        raise ValueError(
            f"expected a label for each example, got labels {labels.shape} for logits "
            f"{logits.shape}"
        )
    if margins is None:
        deciles = np.quantile(_gaps(logits), np.arange(1, 10) / 10)
        margins = [0.0, *np.unique(deciles[deciles > 0]), np.inf]
    exits = [early_exit(logits, margin) for margin in margins]
    return Curve(
        np.array(margins, np.float64),
        np.array([(predictions == labels).mean() for predictions, _ in exits]),
        np.array([steps.mean() for _, steps in exits]),
    )


def _gaps(logits) -> np.ndarray:
    """Subtract the second largest logit from the largest: [T, n]."""
    second, first = np.moveaxis(np.partition(logits, -2, axis=-1)[..., -2:], -1, 0)
    return first - second
