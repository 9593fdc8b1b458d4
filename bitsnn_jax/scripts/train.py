"""Train a quantised network, which `bitsnn-convert` turns into a spiking one.

    bitsnn-train --config digits_resnet --config.optimizer.epochs=10

In a clone of the repository, `python train.py` does the same. A config is a file, or
the name of one of the package: `digits_resnet` is configs/digits_resnet.py. Set any of
its fields (see `bitsnn_jax/config.py`) as above. Started again with the same --workdir,
a run resumes from its newest checkpoint. For several hosts, run the same command on
each, with --distributed under SLURM or on TPUs, else with --coordinator, --num_hosts
and --host. SIGTERM saves the run and ends it with status 143.
"""

import argparse
import sys
from pathlib import Path
from typing import Literal

from absl import app, flags
from ml_collections import config_flags

from bitsnn_jax.config import read_config
from bitsnn_jax.runtime import hosts
from bitsnn_jax.runtime.cli import (
    fail,
    one_line,
    only_our_errors,
    own_process,
    readable,
)
from bitsnn_jax.training import train_and_evaluate
from bitsnn_jax.training.validation import validate

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (
    _PACKAGE / "configs",  # in a wheel
    _PACKAGE.parent / "configs",  # in a clone, beside the package
)
_DEFAULT = "digits_resnet"
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Checkpoints and results go here; default runs/<config.name>."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Several hosts, which find each other by SLURM or as TPUs do."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "ADDRESS:PORT of host 0, free there and open to the others."
)
_NUM_HOSTS = flags.DEFINE_integer("num_hosts", None, "How many hosts there are.")
_HOST = flags.DEFINE_integer("host", None, "Which of them this is, from 0.")
_HOST_TIMEOUT = flags.DEFINE_integer(
    "host_timeout", hosts.TIMEOUT, "Seconds to wait for all hosts to come."
)
flags.register_validator(
    _WORKDIR,
    lambda folder: folder is None or folder.strip(),
    "must not be empty: leave it out for runs/<config.name>",
)


def main(argv):
    del argv
    config = flags.FLAGS.config
    validate(config)  # before hosts wait for each other
    with hosts.together(
        distributed=_DISTRIBUTED.value,
        coordinator=_COORDINATOR.value,
        num_hosts=_NUM_HOSTS.value,
        host=_HOST.value,
        timeout=_HOST_TIMEOUT.value,
    ):
        train_and_evaluate(config, _WORKDIR.value or Path("runs", config.name))


def configs() -> dict[str, Path]:
    """List the configs of the package by name, as in "direct/fashion_mnist"."""
    folder = next(filter(Path.is_dir, _FOLDERS), _FOLDERS[0])
    files = [*sorted(folder.glob("*.py")), *sorted(folder.glob("*/*.py"))]
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def config_file(name: str) -> str:
    """Find the file of `--config=NAME`: one of that name, else the package's.

    Raises:
      FileNotFoundError: neither is there.
    """
    file, colon, argument = name.partition(":")
    if Path(file).is_file():
        return name
    if file in (ours := configs()):
        return f"{ours[file]}{colon}{argument}"
    raise FileNotFoundError(
        f"--config={name}: expected a file, which is not there, or one of "
        + ", ".join(ours)
    )


def _parse(argv):
    # A choice is text; `validate` names what it may be.
    config_flags.register_flag_parser_for_type(Literal, flags.ArgumentParser())
    try:
        for word in argv:
            readable(word)
        # Not at the top: a wrong override is found while the flag is defined.
        config_flags.DEFINE_config_dataclass(
            "config",
            read_config(config_file(_DEFAULT)),
            "The run.",
            sys_argv=argv,
            parse_fn=lambda name: read_config(config_file(name)),
        )
        # absl's help is that of the program, which is another file than this.
        for flag in flags.FLAGS.get_key_flags_for_module(__name__):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
        rest = flags.FLAGS(argv)
        if flags.FLAGS["verbosity"].using_default_value:
            only_our_errors()
    except (
        argparse.ArgumentTypeError,
        flags.Error,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
    ) as error:
        of_a_field = isinstance(error, (AttributeError, KeyError, TypeError))
        hint = "; bitsnn_jax/config.py lists the fields" if of_a_field else ""
        fail(str(error).strip('"') + hint)
    if rest[1:]:
        fail(f"expected flags only, got {' '.join(rest[1:])}")
    return rest


@one_line()
def run() -> None:
    """Run the command in a process of its own."""
    own_process()
    sys.modules["__main__"].__doc__ = __doc__  # what absl's help begins with
    app.run(main, flags_parser=_parse)
