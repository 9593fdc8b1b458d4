"""What a run says: metrics.jsonl for programs, TensorBoard, lines on the terminal."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
import msgspec
from tensorboardX import SummaryWriter
from tqdm import tqdm

from bitsnn_jax.runtime.files import naming, replace_text
from bitsnn_jax.runtime.reading import parse_json, typed

Write = Callable[[int, str, dict[str, float]], None]  # (step, split, values)


class _Line(msgspec.Struct):
    """What each line has, beside its metrics."""

    step: int
    split: str


@contextmanager
def metrics_log(workdir: Path, *, step: int) -> Iterator[Write]:
    """Give a function write(step, split, values), for metrics.jsonl and TensorBoard.

    Opened after `step` steps: lines of later steps, left by a run that was killed, are
    dropped, so that no step is there twice; so is a last line that is half written.
    Of several hosts, only the first writes.

    Raises:
      ValueError: another line is no line of metrics.
    """
    if jax.process_index() > 0:
        yield lambda step, split, values: None
        return
    path = workdir / "metrics.jsonl"
    if path.exists():
        replace_text(path, "".join(f"{line}\n" for line in _kept(path, step)))
    # Line-buffered: what was logged before a checkpoint is on disk before it.
    with path.open("a", buffering=1) as file:
        pictures = workdir / "tensorboard"
        with naming(pictures):
            board = SummaryWriter(str(pictures), purge_step=step + 1)

        def write(step, split, values):
            with naming(path):
                file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
            with naming(pictures):
                for name, value in values.items():
                    board.add_scalar(f"{split}/{name}", value, step)

        try:
            yield write
        finally:
            with naming(pictures):
                board.close()


def say(line: str) -> None:
    """Print a line above the progress bar; of several hosts, on the first."""
    if jax.process_index() == 0:
        tqdm.write(line)
        sys.stdout.flush()


def progress(first: int, total: int) -> Iterable[int]:
    """Return the steps from `first` to `total`, with a bar where somebody looks."""
    steps = range(first, total + 1)
    hidden = jax.process_index() > 0 or not sys.stderr.isatty()
    return tqdm(steps, initial=first - 1, total=total, disable=hidden, unit="step")


def _kept(path, step):
    """Keep the lines of steps up to this one."""
    *lines, last = path.read_bytes().splitlines() or [b""]
    for number, line in enumerate(lines, 1):
        try:
            at = _step(line)
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged in line {number} ({error}): mend that line or move "
                "the file away; checkpoints do not need it"
            ) from error
        if at <= step:
            yield line.decode()
    with suppress(ValueError):  # a kill may have cut it short
        if _step(last) <= step:
            yield last.decode()


def _step(line):
    return typed(parse_json(line), _Line).step
