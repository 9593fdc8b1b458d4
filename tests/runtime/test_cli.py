"""How commands end."""

import subprocess
import sys

import pytest

from bitsnn_jax.runtime.cli import one_line


@pytest.mark.parametrize(
    "code, status",
    [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_a_command_that_failed_is_named_and_gives_its_status(code, status, capsys):
    with pytest.raises(SystemExit) as stop, one_line():
        subprocess.run([sys.executable, "-c", code], check=True)
    assert stop.value.code == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and code.split(";")[0] in error
    assert error.startswith("error: ") and "ended with status" in error
