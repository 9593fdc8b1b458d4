"""Makes a spiking network of a trained one, proves them equal, and reports.

    python convert.py --ckpt runs/digits_resnet [--steps 1 2 3 4 6 8] [--mode both]

Writes into RUN/snn: `variables` (the spiking network, loadable by itself, see
`bitsnn_jax.runs.load_snn`), `conversion.json` (every number) and `report/index.html`;
with --fixed-point also `fixed_point`, the network in integers (docs/format.md).
"""

import sys
from pathlib import Path

from bitsnn_jax import hosts, qat
from bitsnn_jax.cli import Parser, fail, only_our_errors, with_huge_pages
from bitsnn_jax.integers import CARRIERS
from bitsnn_jax.job import convert_run
from bitsnn_jax.runs import snn_folder

MODES = {"stepped": ("stepped",), "fused": ("fused",), "both": ("fused", "stepped")}
PRECISIONS = {
    "none": (),
    "float32": ("float32",),
    "float64": ("float64",),
    "both": ("float64", "float32"),
}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--ckpt",
        required=True,
        metavar="RUN",
        help="folder of a training run, or the name of a network of the package",
    )
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=[1, 2, 3, 4, 6, 8],
        metavar="T",
        help="time steps to simulate (default: %(default)s)",
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="both",
        help="stepped simulates every spike, fused computes their codes at once",
    )
    parser.add_argument(
        "--certificate",
        choices=PRECISIONS,
        default="both",
        help="precision in which ANN and SNN are compared code by code",
    )
    parser.add_argument(
        "--fixed-point",
        type=int,
        nargs="?",
        const=8,
        metavar="BITS",
        help="the network in integers too, with weights of 2 to 8 bits (default: 8)",
    )
    parser.add_argument(
        "--carriers",
        nargs="+",
        choices=CARRIERS,
        default=["float32"],
        help="what the integers are computed in (default: float32)",
    )
    parser.add_argument(
        "--qat_epochs",
        type=int,
        default=0,
        metavar="N",
        help="fine-tune the weights for that rounding, on the training split; with "
        "--fixed-point (default: %(default)s)",
    )
    parser.add_argument(
        "--qat_learning_rate",
        type=float,
        default=qat.LEARNING_RATE,
        metavar="RATE",
        help="of fine-tuning, as a part of the largest weight (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="first N test images only"
    )
    parser.add_argument(
        "--data", metavar="DIR", help="folder of the data, if not where the run had it"
    )
    parser.add_argument("--out", metavar="DIR", help="default: RUN/snn, runs/NAME/snn")
    several = parser.add_argument_group("several hosts, the same command on each")
    several.add_argument(
        "--distributed", action="store_true", help="found by SLURM or as TPUs do"
    )
    several.add_argument(
        "--coordinator", metavar="ADDRESS:PORT", help="of host 0, open to the others"
    )
    several.add_argument("--num_hosts", type=int, metavar="N", help="how many")
    several.add_argument("--host", type=int, metavar="I", help="this one, from 0")
    several.add_argument(
        "--host_timeout",
        type=int,
        default=hosts.TIMEOUT,
        metavar="SECONDS",
        help="to wait for all of them to come (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    only_our_errors()
    try:
        with hosts.together(
            distributed=options.distributed,
            coordinator=options.coordinator,
            num_hosts=options.num_hosts,
            host=options.host,
            timeout=options.host_timeout,
        ):
            convert_run(
                options.ckpt,
                steps=options.steps,
                modes=MODES[options.mode],
                precisions=PRECISIONS[options.certificate],
                bits=options.fixed_point,
                carriers=options.carriers,
                qat_epochs=options.qat_epochs,
                qat_learning_rate=options.qat_learning_rate,
                limit=options.limit,
                directory=options.data,
                out=Path(options.out or snn_folder(options.ckpt)),
                command=" ".join(["python convert.py", *(argv or sys.argv[1:])]),
            )
    except (ValueError, OSError, ImportError) as error:
        fail(error)


if __name__ == "__main__":
    with_huge_pages()
    main()
