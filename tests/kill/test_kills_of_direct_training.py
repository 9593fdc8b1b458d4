"""Training through time, killed at random moments; `make kill`."""

import pytest
from harness import Killer, contents, finish, train

pytestmark = pytest.mark.slow

KILLS = 6


@pytest.mark.parametrize("method", ["plif"])  # trains numbers of its neurons, too
def test_a_killed_run_through_time_ends_with_the_bits_of_one_left_in_peace(
    tmp_path, method
):
    def command(name):
        return train(
            tmp_path / name,
            "--config.steps=2",
            "--config.model.activation=spiking",
            f"--config.direct.method={method}",
        )

    finish(command("compiled"))
    _, seconds = finish(command("whole"))
    killer, killed = Killer(seed=22), 0
    while killed < KILLS and killer.kill(
        command("killed"), tmp_path / "killed", seconds=seconds
    ):
        killed += 1
    finish(command("killed"))
    found, want = (contents(tmp_path / name) for name in ("killed", "whole"))
    assert found == want
    assert killed >= KILLS / 2, killer.moments
