"""Time of what follows a detector's network: matching, losses, boxes that are found.

    python benchmarks/boxes.py [--size 512] [--classes 80] [--boxes 100] [--batch 1 8]

Random outputs of a pyramid, with more boxes above the least score than are wanted, and
random boxes of a truth. Each function is jitted; runs are interleaved, and ratios are
medians over rounds to `detect` of the same round. Besides: non-maximum suppression
alone, of as many boxes as `detect` has, in one step for each box that is wanted and, to
compare, by the matrix of all IoU until nothing changes. Both must take the same boxes.
With --out the numbers are stored.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timings

from bitsnn_jax import detection
from bitsnn_jax.detection.detections import CANDIDATES, LIMIT
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, whole
from bitsnn_jax.runtime.columns import table

STRIDES = (8, 16, 32, 64, 128)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--size", type=whole(8, 4096), default=512, help="of the image")
    parser.add_argument("--classes", type=whole(1, 10**4), default=80)
    parser.add_argument("--boxes", type=whole(1, 10**4), default=100)
    parser.add_argument(
        "--batch", type=whole(1, 2**10), action=Distinct, nargs="+", default=[1, 8]
    )
    parser.add_argument("--rounds", type=whole(2, 10**6), default=9)
    parser.add_argument("--out", type=a_path, help="JSON file that keeps the numbers")
    options = parser.parse_args()
    places = [-(-options.size // stride) for stride in STRIDES]
    shapes = [(n, n) for n in places]
    rows = []
    for batch in options.batch:
        passes = passes_of(
            options.size, shapes, batch, classes=options.classes, boxes=options.boxes
        )
        seconds = timings.in_turns(passes, rounds=options.rounds)
        found = timings.rows(seconds, reference="detect")
        rows += [{"batch": batch} | row for row in found]
    print(
        f"{options.size} x {options.size}, {sum(detection.level_sizes(shapes)):,} "
        f"anchors, {options.classes} classes, {options.boxes} boxes, "
        f"{jax.devices()[0].device_kind}, JAX {jax.__version__}"
    )
    print(described(rows))
    if options.out:
        facts = {name: vars(options)[name] for name in ("size", "classes", "boxes")}
        store_numbers(
            options.out, rows, config="none", seed=0, rounds=options.rounds, **facts
        )


def passes_of(
    size: int, shapes: list[tuple[int, int]], batch: int, *, classes: int, boxes: int
) -> dict[str, Callable[[], float]]:
    """Functions that each take one pass and return its seconds."""
    anchors = jnp.asarray(detection.anchors((size, size), shapes))
    sizes = detection.level_sizes(shapes)
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=(batch, *shape)).astype(np.float32)

    def some_boxes(count):
        low = rng.uniform(0, 0.8 * size, (batch, count, 2))
        sides = rng.uniform(0.02, 0.3, low.shape) * size
        return np.concatenate([low, low + sides], axis=-1).astype(np.float32)

    outputs = 1.5 * normal(len(anchors), classes) - 4, 0.1 * normal(len(anchors), 4)
    truth = (
        some_boxes(boxes),
        rng.integers(0, classes, (batch, boxes)).astype(np.int32),
        np.zeros((batch, boxes), bool),
    )
    candidates = sum(min(CANDIDATES, n * classes) for n in sizes)
    seen = (
        some_boxes(candidates),
        rng.uniform(0.05, 1, (batch, candidates)).astype(np.float32),
        rng.integers(0, min(classes, 10), (batch, candidates)).astype(np.int32),
    )

    def step(outputs, truth, box_loss):
        def loss(outputs):
            logits, offsets = outputs
            each = detection.loss(logits, offsets, anchors, *truth, box_loss=box_loss)
            return each.sum()

        return jax.value_and_grad(loss)(outputs)

    def detect(outputs):
        return detection.detect(*outputs, anchors, sizes, (size, size))

    stepwise, by_matrix = (
        jax.jit(jax.vmap(partial(fn, limit=LIMIT)))
        for fn in (detection.nms, suppression_by_matrix)
    )
    np.testing.assert_array_equal(stepwise(*seen), by_matrix(*seen))
    return {
        "detect": timed(detect, outputs),
        "match": timed(jax.vmap(partial(detection.match, anchors)), *truth),
        **{
            f"loss and gradient, {kind}": timed(
                partial(step, box_loss=kind), outputs, truth
            )
            for kind in detection.BOX_LOSSES
        },
        "suppression, a step a box": timed(stepwise, *seen),
        "suppression, by the matrix": timed(by_matrix, *seen),
    }


def suppression_by_matrix(boxes, scores, classes, *, limit):
    """The boxes of `detection.nms`, found at once by a fixed point.

    A box stays if none that stays is better and near it. Repeated from "all stay", what
    is decided grows from the best box on, until nothing changes.
    """
    order = jnp.argsort(-scores)
    boxes, classes = boxes[order], classes[order]
    rank = jnp.arange(len(boxes))
    near = (detection.iou(boxes, boxes) > 0.5) & (classes[:, None] == classes)
    near &= rank[:, None] < rank

    def changed(state):
        return (state[0] != state[1]).any()

    def again(state):
        stay, _ = state
        return ~(near & stay[:, None]).any(axis=0), stay

    everything = jnp.ones(len(boxes), bool)
    stay, _ = jax.lax.while_loop(changed, again, (everything, ~everything))
    [places] = jnp.nonzero(stay, size=limit, fill_value=-1)
    return jnp.where(places >= 0, order[places], -1)


def timed(fn: Callable, *args: Any) -> Callable[[], float]:
    compiled = jax.jit(fn).lower(*args).compile()
    args = jax.device_put(args)

    def take() -> float:
        started = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        return time.perf_counter() - started

    return take


def described(rows: list[dict[str, Any]]) -> str:
    found = {(row["pass"], row["batch"]): row["milliseconds"] for row in rows}
    batches = list(dict.fromkeys(batch for _, batch in found))
    names = dict.fromkeys(name for name, _ in found)
    head = ("pass", *(f"batch {batch}, ms" for batch in batches))
    cells = [(n, *(f"{found[n, b]:.1f}" for b in batches)) for n in names]
    return table([head, *cells])


if __name__ == "__main__":
    as_script(main)
