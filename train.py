"""Trains the quantised network that `convert.py` makes a spiking one of.

    python train.py --config configs/digits_resnet.py --config.optimizer.epochs=10

Any field of the config (see `bitsnn_jax/config.py`) can be set so. Started again with
the same --workdir, a run goes on from its newest checkpoint. Several hosts: the same
command on each, with --distributed.
"""

import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from bitsnn_jax.training import train_and_evaluate

_DEFAULT = Path(__file__).parent / "configs" / "digits_resnet.py"
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Checkpoints and results go here; default runs/<config.name>."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Several hosts, found by jax.distributed.initialize()."
)


def main(argv):
    del argv
    config = flags.FLAGS.config
    try:
        if _DISTRIBUTED.value:
            jax.distributed.initialize()
        train_and_evaluate(config, _WORKDIR.value or Path("runs", config.name))
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        _fail(error)


def _parse(argv):
    try:
        # Not at the top: a wrong override is found while the flag is defined.
        config_flags.DEFINE_config_file("config", str(_DEFAULT), "The run.")
        rest = flags.FLAGS(argv)
        # Orbax tells of every file at the level that absl would set.
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.WARNING)
        # A file that is not there is no error before a field is asked for.
        name = config_flags.get_config_filename(flags.FLAGS["config"])
        if not Path(name.split(":")[0]).is_file():
            raise FileNotFoundError(f"--config={name}: expected a file, there is none")
    except AttributeError as error:
        _fail(f"{error}; bitsnn_jax/config.py lists the fields")
    except (
        flags.Error,
        KeyError,
        TypeError,
        ValueError,
        OSError,
    ) as error:
        _fail(error)
    if rest[1:]:
        _fail(f"expected flags only, got {' '.join(rest[1:])}")
    return rest


def _fail(error):
    """One line on stderr; the traceback with --verbosity=1."""
    logging.debug("Traceback:", exc_info=True)
    print("error:", " ".join(str(error).strip('"').split()), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
