"""Pictures for the report: boxes of the truth, and those that each network finds."""

import io
from typing import Any

import jax
import numpy as np
from PIL import Image

from bitsnn_jax.jobs.evaluation import NetworkFn
from bitsnn_jax.jobs.sources import Network
from bitsnn_jax.results.pictures import NamedBox, Picture

PICTURES = 4  # the first examples


class Gallery:
    """The first pictures of a task that finds boxes; of any other task there are none.

    Args:
      network: for its task and examples.
    """

    def __init__(self, network: Network):
        self._task = network.task
        settings, examples = network.config.data, network.examples
        count = min(PICTURES, len(examples))
        shown = [self._task.shown(settings, examples, i) for i in range(count)]
        self._shown = shown if all("truth" in facts for _, facts in shown) else []
        self._found: list[dict[str, tuple[NamedBox, ...]]] = [{} for _ in self._shown]

    def add(self, name: str, network_fn: NetworkFn, variables: Any) -> None:
        """Show the pictures to one more network.

        Args:
          name: of the network, for readers.
          network_fn, variables: as `evaluate` takes them.
        """
        if not self._shown:
            return
        run = jax.jit(lambda variables, inputs: network_fn(variables, inputs)[0])
        batches = [self._task.inputs(batch) for batch, _ in self._shown]
        inputs = jax.tree.map(lambda *rows: np.concatenate(rows), *batches)
        outputs = jax.device_get(run(variables, inputs))
        for i, found in enumerate(self._found):
            alone = jax.tree.map(lambda rows, i=i: rows[i : i + 1], outputs)
            found[name] = _boxes(self._task.answer(alone)["found"])

    def pictures(self) -> tuple[Picture, ...]:
        """Return the pictures with all that was found in them."""
        pairs = zip(self._shown, self._found, strict=True)
        return tuple(
            Picture(
                example=i,
                image=_png(facts["image"]),
                truth=_boxes(facts["truth"]),
                found=found,
            )
            for i, ((_, facts), found) in enumerate(pairs)
        )


def _boxes(named: Any) -> tuple[NamedBox, ...]:
    return tuple(NamedBox(**each) for each in named)


def _png(pixels: Any) -> bytes:
    """Write pixels, [h, w] or [h, w, 3] of 0..255, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
