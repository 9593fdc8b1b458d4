"""Trains the quantised network that `convert.py` makes a spiking one of.

    python train.py --config configs/digits_resnet.py --config.optimizer.epochs=10

Any field of the config (see `bitsnn_jax/config.py`) can be set so. Started again with
the same --workdir, a run goes on from its newest checkpoint. Several hosts: the same
command on each, with --distributed.
"""

from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from bitsnn_jax.cli import fail, only_our_errors
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
        fail(error)


def _parse(argv):
    try:
        # Not at the top: a wrong override is found while the flag is defined.
        config_flags.DEFINE_config_file("config", str(_DEFAULT), "The run.")
        rest = flags.FLAGS(argv)
        if flags.FLAGS["verbosity"].using_default_value:
            only_our_errors()
        # A file that is not there is no error before a field is asked for.
        name = config_flags.get_config_filename(flags.FLAGS["config"])
        if not Path(name.split(":")[0]).is_file():
            raise FileNotFoundError(f"--config={name}: expected a file, there is none")
    except (
        flags.Error,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
    ) as error:
        unknown = "not found on dataclass" in str(error)
        hint = "; bitsnn_jax/config.py lists the fields" if unknown else ""
        fail(str(error).strip('"') + hint)
    if rest[1:]:
        fail(f"expected flags only, got {' '.join(rest[1:])}")
    return rest


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
