"""Measure a trained binary network: bits against floats, operations, energy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bitsnn_jax.binary import by_popcount
from bitsnn_jax.binary.operations import PRODUCTS, counting, total
from bitsnn_jax.integers.energy import Profile, energy
from bitsnn_jax.integers.operations import NodeOperations, Operations
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.runs.loading import ann_fn
from bitsnn_jax.tasks import Examples, task_of

_COUNTED = 100  # images at a time, see `counting`


class Agreement(NamedTuple):
    """A network in floats beside itself with products of signs by popcount.

    Attributes:
      logits: that were compared.
      differing: of these, in any bit.
    """

    logits: int
    differing: int


def agreement(run: Run, examples: Examples) -> Agreement:
    """Compare all logits of some examples, bit for bit."""
    apply_fn = ann_fn(run.config, run.input_shape)
    # Not compiled as a whole, see `by_popcount`.
    in_floats, in_bits = apply_fn, by_popcount(apply_fn)
    logits = differing = 0
    for inputs, kept in _inputs(run, examples, run.config.data.eval_batch_size):
        one, other = (
            np.asarray(fn(run.variables, inputs))[kept] for fn in (in_floats, in_bits)
        )
        logits += one.size
        differing += int((one.view(np.uint32) != other.view(np.uint32)).sum())
    return Agreement(logits, differing)


def operations(run: Run, examples: Examples) -> dict[str, int]:
    """Count what the network does on some examples, summed, see `counting`."""
    count = counting(ann_fn(run.config, run.input_shape))
    batches = _inputs(run, examples, min(_COUNTED, len(examples)))
    # Without padding, which would be counted.
    return dict(total(count(run.variables, inputs[kept]) for inputs, kept in batches))


def compute_joules(
    counts: Mapping[str, int], profile: Profile, *, examples: int
) -> float:
    """Price counts of `operations`, an example, without memory.

    A product of signs costs `Profile.binary_product`, all else what it costs in a
    spiking network.

    >>> from bitsnn_jax.integers.energy import profile
    >>> counts = {"binary_products": 1000, "synaptic_operations": 10}
    >>> round(1e12 * compute_joules(counts, profile("mixed"), examples=1), 4)
    5.6875
    """
    others: Any = {kind: n for kind, n in counts.items() if kind != PRODUCTS}
    node = NodeOperations("network", "neurons", 1, **others)
    real = energy(Operations((node,), examples, 1), profile).compute
    return real + 1e-12 * profile.binary_product * counts[PRODUCTS] / examples


def _inputs(run: Run, examples: Examples, size: int) -> Any:
    task = task_of(run.config).on(examples)
    for batch in task.eval_batches(run.config.data, examples, batch_size=size):
        yield task.inputs(batch), batch["mask"]
