"""Data workers: whatever becomes of one, the run goes on or ends, and never waits."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from bitsnn_jax.data.images import Unreadable
from bitsnn_jax.data.workers import Ahead

# More than a pipe holds: a start that writes them blocks until somebody reads.
BALLAST = np.zeros(2**20, np.uint8)


@dataclass
class Squares:
    """Items with an array larger than a pipe and one that is smaller."""

    length: int = 7
    dies_at: int | None = None
    raises_at: int | None = None
    ballast: np.ndarray = field(default_factory=lambda: BALLAST)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == self.raises_at:
            raise Unreadable(f"item {index} is damaged")
        return {
            "large": np.full((300, 1000), index, np.float32),
            "small": np.int32(index**2),
        }


class DiesAtStart(Squares):
    def __reduce__(self):
        return _die, (BALLAST,)


def _die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def shared_memory():
    folder = Path("/dev/shm")
    return set(os.listdir(folder)) if folder.is_dir() else set()


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = shared_memory()
    yield
    assert not multiprocessing.active_children()
    assert shared_memory() == before


@pytest.mark.parametrize("workers", [1, 3])
def test_items_come_in_order_with_their_bits(workers):
    made = list(Ahead(Squares(), workers=workers))
    assert [int(item["small"]) for item in made] == [0, 1, 4, 9, 16, 25, 36]
    for index, item in enumerate(made):
        np.testing.assert_array_equal(item["large"], Squares()[index]["large"])
        item["large"][:] = 0  # they belong to who asked


@pytest.mark.parametrize(
    ("items", "before"),
    [(DiesAtStart(), 0), (Squares(dies_at=0), 0), (Squares(dies_at=4), 4)],
    ids=["start", "first", "midst"],
)
def test_a_worker_that_dies_is_an_error_of_one_line(items, before):
    ahead = Ahead(items, workers=2)
    number = before % 2 + 1
    for _ in range(before):
        next(ahead)
    with pytest.raises(
        ChildProcessError, match=rf"data worker {number} of 2 .* by SIGKILL: .*workers"
    ) as caught:
        next(ahead)
    assert "\n" not in str(caught.value)
    with pytest.raises(StopIteration):  # and nothing waits after it
        next(ahead)


def test_an_error_in_a_worker_is_raised_where_its_item_was_due():
    ahead = Ahead(Squares(raises_at=3), workers=2)
    assert [int(next(ahead)["small"]) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(Unreadable, match="item 3 is damaged"):
        next(ahead)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_job_do_not_reach_workers(number):
    ahead = Ahead(Squares(), workers=2)
    for process in multiprocessing.active_children():
        os.kill(process.pid, number)  # before it has run a line of Python
    assert int(next(ahead)["small"]) == 0
    for process in multiprocessing.active_children():
        os.kill(process.pid, number)
    assert [int(item["small"]) for item in ahead] == [1, 4, 9, 16, 25, 36]


def test_closing_ends_workers_in_the_midst_of_their_work():
    ahead = Ahead(Squares(length=10**9), workers=2)
    assert int(next(ahead)["small"]) == 0
    processes = multiprocessing.active_children()
    assert len(processes) == 2
    ahead.close()
    assert list(ahead) == []
    # Ended, and waited for.
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)


def test_workers_end_with_the_process_that_started_them(tmp_path):
    context = multiprocessing.get_context("spawn")
    file = tmp_path / "workers"
    parent = context.Process(target=_start_and_wait, args=(file,))
    parent.start()
    while not file.exists():
        assert parent.is_alive()
        time.sleep(0.01)
    parent.kill()
    parent.join()
    for pid in map(int, file.read_text().split()):
        while _lives(pid):  # at most until it hands over its next item
            time.sleep(0.01)


def _start_and_wait(file):
    ahead = Ahead(Squares(length=10**9), workers=2)
    next(ahead)
    pids = [str(process.pid) for process in multiprocessing.active_children()]
    file.with_suffix(".new").write_text(" ".join(pids))
    file.with_suffix(".new").rename(file)
    time.sleep(1000)


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
