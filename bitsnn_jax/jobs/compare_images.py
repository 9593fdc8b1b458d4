"""The images that a comparison shows: to calibrate with, and to test on in batches."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from bitsnn_jax import config, data
from bitsnn_jax.runs.checkpoint import Run

BATCH = 50  # of images over all devices: a layer's trains of all steps are in memory
CALIBRATION, CALIBRATION_BATCH = 512, 64  # training images


def calibration_images(
    main: Run, train: data.Examples, *, seed: int
) -> list[np.ndarray]:
    """Return training images in batches, not augmented: the first, or by seed.

    Those that cannot be read are left out with `data.unreadable="skip"`.

    Raises:
      ValueError: none can be read.
    """
    count = min(CALIBRATION, len(train))
    order = np.arange(len(train))
    if seed:
        order = np.random.default_rng(seed).permutation(order)
    settings = main.config.data
    examples = (data.as_evaluated(settings, train, int(i)) for i in order[:count])
    # Label -1 stands for an image that could not be read.
    images = [e["image"] for e in examples if e["label"] >= 0]
    if not images:
        raise ValueError(
            f"data.directory {settings.directory}: expected training images to "
            f"calibrate with, got {count} of which none can be read"
        )
    stack = data.normalise(np.stack(images), train)
    return [
        stack[i : i + CALIBRATION_BATCH]
        for i in range(0, len(stack), CALIBRATION_BATCH)
    ]


def batches(
    settings: config.Data,
    test: data.Examples,
    *,
    size: int = BATCH,
    pixels: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return (images, labels) of every example once; the last batch may be smaller.

    With `pixels`, images are as they are stored, for a network that normalises them.
    """
    for batch in data.eval_batches(settings, test, batch_size=min(size, len(test))):
        image, label = (batch[name][batch["mask"]] for name in ("image", "label"))
        yield image if pixels else data.normalise(image, test), label


def each_batch(
    run: Callable[[Any, Any], Any], variables: Any, shown: Iterable[tuple[Any, Any]]
) -> tuple[list[tuple[Any, Any]], float]:
    """Return (results, labels) of all batches, and the median seconds an image.

    A batch of a new size compiles and is not timed, unless there are no others: the
    last is run again then.
    """
    results, seconds = [], []
    compiled: set[int] = set()
    for image, label in shown:
        result, taken = _timed(run, variables, image)
        results.append((result, label))
        if len(image) in compiled:
            seconds.append(taken)
        compiled.add(len(image))
    return results, float(np.median(seconds or _timed(run, variables, image)[1]))


def _timed(run, variables, image):
    started = time.perf_counter()
    result = jax.block_until_ready(run(variables, image))
    return result, (time.perf_counter() - started) / len(image)
