"""Metrics on disk: JSON lines to be read by programs, TensorBoard to be looked at."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from tensorboardX import SummaryWriter

from bitsnn_jax.files import replace_text


@contextmanager
def metrics_log(
    workdir: Path, *, step: int
) -> Iterator[Callable[[int, str, dict[str, float]], None]]:
    """A function write(step, split, values), for metrics.jsonl and TensorBoard.

    Opened after `step` steps: lines of later steps, left by a run that was killed, are
    dropped, so that no step is there twice; so is a last line that is half written.
    Of several hosts, only the first writes.
    """
    if jax.process_index() > 0:
        yield lambda step, split, values: None
        return
    path = workdir / "metrics.jsonl"
    if path.exists():
        kept = [line for line in path.read_text().splitlines() if _is_up_to(step, line)]
        replace_text(path, "".join(f"{line}\n" for line in kept))
    # Line-buffered: what was logged before a checkpoint is on disk before it.
    with path.open("a", buffering=1) as file:
        board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

        def write(step, split, values):
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
            for name, value in values.items():
                board.add_scalar(f"{split}/{name}", value, step)

        try:
            yield write
        finally:
            board.close()


def _is_up_to(step, line):
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
