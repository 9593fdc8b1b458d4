"""Run every method of ANN-to-SNN conversion on one checkpoint.

    bitsnn-compare --ckpt resnet20_fashion_mnist [--methods NAME ...] [--steps T ...]

In a clone of the repository, `python compare.py` does the same. It writes to
runs/NAME/compare, or RUN/compare: `compare.json` (every number), `compare.csv`,
`compare.md` and `index.html`. Started again, it reuses existing results.
"""

import sys
from pathlib import Path

from bitsnn_jax.integers.energy import profiles
from bitsnn_jax.jobs.compare import METHODS, CompareOptions, compare
from bitsnn_jax.jobs.compare_examples import BATCH
from bitsnn_jax.jobs.compare_networks import SUFFIXES
from bitsnn_jax.jobs.sources import RunSource
from bitsnn_jax.jobs.training_cost import ROUNDS
from bitsnn_jax.reports.comparison_page import write_comparison
from bitsnn_jax.reports.comparison_plots import NETWORKS
from bitsnn_jax.runtime.cli import (
    SEEDS,
    STEPS,
    Distinct,
    Parser,
    filled,
    one_line,
    only_our_errors,
    own_process,
    whole,
)
from bitsnn_jax.runtime.devices import one_after_the_other, one_device_per_core
from bitsnn_jax.runtime.locks import work_folder


@one_line()
def main(argv: list[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    only_our_errors()
    source = RunSource(options.ckpt, directory=options.data, limit=options.limit)
    out = Path(options.out or source.folder.parent / "compare")
    what = CompareOptions(
        out=out,
        methods=options.methods,
        steps=options.steps,
        sources={
            name: run
            for name in SUFFIXES
            if (run := getattr(options, name)) is not None
        },
        direct=options.direct,
        training_rounds=options.training_rounds,
        seeds=options.seeds,
        batch=options.batch,
        profile=options.profile,
        command=" ".join(["python compare.py", *(argv or sys.argv[1:])]),
    )
    with work_folder(out):
        print(f"report {write_comparison(compare(source, what), out)}")


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--ckpt",
        type=filled,
        required=True,
        metavar="RUN",
        help="run folder or name of a network trained with QCFS",
    )
    parser.add_argument(
        "--methods",
        action=Distinct,
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"of {', '.join(METHODS)} (default: all)",
    )
    parser.add_argument(
        "--steps",
        type=whole(1, STEPS),
        action=Distinct,
        nargs="+",
        default=[1, 2, 4, 8, 16, 32],
        metavar="T",
        help="time steps, without warm-up (default: %(default)s)",
    )
    for activation, suffix in SUFFIXES.items():
        parser.add_argument(
            f"--{activation}",
            type=filled,
            metavar="RUN",
            help=f"the same network trained with {NETWORKS[activation]} (default: "
            f"RUN{suffix})",
        )
    parser.add_argument(
        "--direct",
        type=filled,
        action=Distinct,
        nargs="+",
        default=[],
        metavar="RUN",
        help="runs that were trained directly, on the same data",
    )
    parser.add_argument(
        "--training_rounds",
        type=whole(0),
        default=ROUNDS,
        metavar="N",
        help="steps of their training that are timed; 0: none (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=whole(0, SEEDS),
        action=Distinct,
        nargs="+",
        default=[0],
        metavar="N",
        help="of the examples that methods calibrate with (default: %(default)s)",
    )
    parser.add_argument(
        "--profile",
        choices=profiles(),
        default="mixed",
        help="what an operation costs (default: %(default)s)",
    )
    parser.add_argument(
        "--batch",
        type=whole(1),
        default=BATCH,
        metavar="N",
        help="examples at a time; a GPU takes hundreds (default: %(default)s)",
    )
    parser.add_images()
    parser.add_argument(
        "--out", type=filled, metavar="DIR", help="default: beside the RUN's snn"
    )
    return parser


@one_line()
def run() -> None:
    """Run the command in a process of its own."""
    own_process()
    one_device_per_core()
    one_after_the_other()
    main()
