"""Go on from the newest checkpoint of a run, or begin."""

from typing import Any, NamedTuple

import jax
import numpy as np

from bitsnn_jax.config import differences
from bitsnn_jax.runs.checkpoint import CheckpointError, Checkpoints
from bitsnn_jax.runs.provenance import run_metadata
from bitsnn_jax.tasks import Batches
from bitsnn_jax.training.setup import Setup
from bitsnn_jax.training.start import start
from bitsnn_jax.training.step import State


class Begun(NamedTuple):
    """Where a run stands.

    Attributes:
      state: on one device, after as many steps as it says.
      seconds: that those steps took.
      metadata: to be saved with every checkpoint.
    """

    state: State
    seconds: float
    metadata: dict[str, Any]


def begin(
    setup: Setup, state: State, batches: Batches, checkpoints: Checkpoints
) -> Begun:
    """Return the newest state of a run, and move `batches` to its place.

    Args:
      setup: of the run.
      state: with random variables, for a run without checkpoints.
      batches: to train on.
      checkpoints: of the run.

    Raises:
      ValueError: checkpoints of a run that trains differently, or that are damaged; a
        run to start from that does not fit.
    """
    config, examples = setup.config, setup.train
    metadata = run_metadata(config, examples.input_shape)
    state, origin = start(state, config, examples, checkpoints)
    metadata |= origin
    if setup.teacher:
        metadata["teacher"] = setup.teacher.origin
    step = checkpoints.latest
    if step is None:
        return Begun(state, 0.0, metadata)
    _check_same(checkpoints, step, metadata)
    variables, opt_state, progress = checkpoints.read(
        step,
        "variables",
        "optimizer",
        "progress",
        optimizer=jax.tree.map(np.asarray, state.opt_state),
    )
    batches.set_state(progress["batches"])
    state = State(np.int32(step), opt_state=opt_state, **variables)
    return Begun(state, progress["seconds"], metadata)


def _check_same(checkpoints, step, metadata):
    (saved,) = checkpoints.read(step, "metadata")
    changed = differences(saved["config"], metadata["config"])
    if changed:
        raise CheckpointError(
            f"{checkpoints.folder} belongs to a run with another config: "
            f"{', '.join(changed)}; set them back or choose another --workdir"
        )
    before, now = saved.get("teacher"), metadata.get("teacher")
    if before != now:
        raise CheckpointError(
            f"{checkpoints.folder}: expected the teacher that the run began with "
            f"({before}), got another ({now}): loss.teacher was trained since"
        )
