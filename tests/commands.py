"""Commands, experiments and benchmarks, run in the process of a test."""

import importlib
import sys
from pathlib import Path

from absl.testing import flagsaver

import compare
import convert
import export
from bitsnn_jax import referee
from bitsnn_jax.runs.pretrained import __main__ as pretrained
from bitsnn_jax.runtime import cli
from bitsnn_jax.scripts import train

ROOT = Path(__file__).parents[1]
_MAINS = {
    "convert": convert,
    "compare": compare,
    "export": export,
    "pretrained": pretrained,
}


def run(command, words, monkeypatch):
    """Runs a command with these words behind it, and returns its status.

    An experiment or a benchmark is called by its folder as well: experiments.bits.
    """
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back later
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *words])
    folder, _, name = command.rpartition(".")
    try:
        if command == "train":
            monkeypatch.setattr(train, "own_process", lambda: None)
            with flagsaver.flagsaver():
                train.run()
        elif command == "referee":
            return referee.main(words)
        elif folder:
            monkeypatch.syspath_prepend(str(ROOT / folder))
            sys.modules.pop(name, None)  # one of the other folder has this name too
            cli.as_script(importlib.import_module(name).main)
        else:
            _MAINS[command].main(words)
    except SystemExit as stop:
        return stop.code or 0
    return 0


def check_line(status, captured, line):
    """One line of error that has `line` in it, and no output."""
    assert (status, captured.out) == (2, ""), captured.err
    assert captured.err.startswith("error: "), captured.err
    assert captured.err.count("\n") == 1, captured.err
    assert line in captured.err


def tree(folder):
    """What is in a folder, by path."""
    return {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")}
