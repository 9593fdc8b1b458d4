"""The run: from a config and a folder to a trained network and its result."""

import json
import os
from pathlib import Path

import jax

from bitsnn_jax.config import Config
from bitsnn_jax.runs.checkpoint import Checkpoints
from bitsnn_jax.runtime.devices import replicate
from bitsnn_jax.runtime.files import replace_text
from bitsnn_jax.runtime.locks import alone_in
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.training.evaluator import Evaluate, evaluator
from bitsnn_jax.training.log import say
from bitsnn_jax.training.loop import train
from bitsnn_jax.training.setup import Setup, set_up


@alone_in("workdir", "result.json", "metrics.jsonl")
def train_and_evaluate(config: Config, workdir: str | os.PathLike) -> dict:
    """Train on all devices of all hosts, from the newest checkpoint if there is one.

    After each epoch the validation split is evaluated and a checkpoint saved. In the
    end the one that was best on it, the later of equals, meets the test split, once,
    and `result.json` is written. A run that was killed and is started again ends with
    the same bits as one that was not, on the same devices; on more or fewer, or other
    hosts, it goes on to rounding. SIGTERM or Ctrl-C on any host makes all of them save
    the same step, then end with status 143 or 130.

    Args:
      config: the run; see `bitsnn_jax.config`.
      workdir: folder for checkpoints, metrics and the result; made if not there.

    Returns:
      What is in `result.json`.

    Raises:
      ValueError: a field that is out of range, or does not fit the data, the devices or
        the checkpoint in `workdir`.
      FloatingPointError: the loss or a parameter is not finite any more. The
        checkpoints before that stay.
      OSError: data that cannot be read, or a folder that cannot be written, or that
        another process works in.
    """
    setup = set_up(config, workdir)
    evaluate = evaluator(setup)
    workdir = Path(workdir).absolute()
    file = workdir / "result.json"
    with Checkpoints(workdir) as checkpoints:
        trained, seconds = train(setup, workdir, checkpoints, evaluate)
        # The test split is not looked at again by a run that had come to its end.
        if not trained and file.exists():
            return read_json(file, advice="remove it, and the end is evaluated again")
        result = _result(setup, checkpoints, evaluate, seconds)
    if jax.process_index() == 0:
        replace_text(file, json.dumps(result, indent=2) + "\n")
    name, step = setup.task.score, result["step"]
    say(f"test {name} {result['test'][name]:.4f} at step {step}: {file}")
    return result


def _result(
    setup: Setup, checkpoints: Checkpoints, evaluate: Evaluate, seconds: float
) -> dict:
    """Evaluate the best checkpoint on the test split, and say where it comes from."""
    best = checkpoints.best
    assert best is not None  # the last step saved, if no step before it
    variables, metadata = checkpoints.read(best, "variables", "metadata")
    return {
        "test": evaluate(replicate(variables), setup.test),
        f"validation_{setup.task.score}": checkpoints.score(best),
        "step": best,
        "seconds": round(seconds, 1),
        "seed": setup.config.seed,
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        **metadata,
    }
