"""Makes a spiking network of a trained one, proves them equal, and reports.

    python convert.py --ckpt runs/digits_resnet [--steps 1 2 3 4 6 8] [--mode both]

Writes into RUN/snn: `variables` (the spiking network, loadable by itself, see
`bitsnn_jax.runs.load_snn`), `conversion.json` (every number) and `report/index.html`.
"""

import argparse
import sys
from pathlib import Path

from bitsnn_jax.cli import fail, only_our_errors
from bitsnn_jax.job import convert_run

MODES = {"stepped": ("stepped",), "fused": ("fused",), "both": ("fused", "stepped")}
PRECISIONS = {
    "none": (),
    "float32": ("float32",),
    "float64": ("float64",),
    "both": ("float64", "float32"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        fail(message)


def main(argv: list[str] | None = None) -> None:
    about, _, details = (__doc__ or "").partition("\n")
    parser = _Parser(
        description=about,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--ckpt", required=True, metavar="RUN", help="folder of a training run"
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
        "--limit", type=int, metavar="N", help="first N test images only"
    )
    parser.add_argument("--out", metavar="DIR", help="default: RUN/snn")
    options = parser.parse_args(argv)
    only_our_errors()
    try:
        convert_run(
            options.ckpt,
            steps=options.steps,
            modes=MODES[options.mode],
            precisions=PRECISIONS[options.certificate],
            limit=options.limit,
            out=Path(options.out or Path(options.ckpt) / "snn"),
            command=" ".join(["python convert.py", *(argv or sys.argv[1:])]),
        )
    except (ValueError, OSError, ImportError) as error:
        fail(error)


if __name__ == "__main__":
    main()
