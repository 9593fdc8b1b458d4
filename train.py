"""Trains the quantised network that `convert.py` makes a spiking one of.

    python train.py --config configs/digits_resnet.py --config.optimizer.epochs=10

Any field of the config (see `bitsnn_jax/config.py`) can be set so. Started again with
the same --workdir, a run goes on from its newest checkpoint. Several hosts: the same
command on each, with --distributed under SLURM or on TPUs, else with --coordinator,
--num_hosts and --host. SIGTERM saves and ends with status 143.
"""

from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from bitsnn_jax import hosts
from bitsnn_jax.cli import fail, only_our_errors, with_huge_pages
from bitsnn_jax.config import validate
from bitsnn_jax.training import train_and_evaluate

_DEFAULT = Path(__file__).parent / "configs" / "digits_resnet.py"
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


def main(argv):
    del argv
    config = flags.FLAGS.config
    try:
        validate(config)  # before hosts wait for each other
        with hosts.together(
            distributed=_DISTRIBUTED.value,
            coordinator=_COORDINATOR.value,
            num_hosts=_NUM_HOSTS.value,
            host=_HOST.value,
            timeout=_HOST_TIMEOUT.value,
        ):
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
    with_huge_pages()
    app.run(main, flags_parser=_parse)
