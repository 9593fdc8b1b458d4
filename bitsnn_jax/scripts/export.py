"""Write a network in integers for another runtime or tool.

    bitsnn-export --ckpt runs/digits_resnet --to stablehlo

In a clone of the repository, `python export.py` does the same. It takes the network
that `convert.py --ckpt runs/digits_resnet --fixed-point` has written, checks every
number of it, and writes a folder for each format: RUN/snn/stablehlo.
docs/integers.md says which one goes where, and how it is checked there.
"""

from bitsnn_jax.exports.formats import FORMATS
from bitsnn_jax.jobs.export import DESCRIPTION, ExportOptions, export
from bitsnn_jax.runtime.cli import (
    Distinct,
    Parser,
    a_path,
    filled,
    one_line,
    only_our_errors,
    own_process,
)


@one_line()
def main(argv: list[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    only_our_errors()
    what = ExportOptions(source=options.ckpt, formats=options.to, out=options.out)
    for folder in export(what):
        names = sorted(path.name for path in folder.iterdir())
        print(folder, *(name for name in names if name != DESCRIPTION))


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--ckpt",
        type=filled,
        required=True,
        metavar="RUN",
        help="run folder or name of a network whose integers convert.py has written, "
        "or the folder of these integers",
    )
    formats = "; ".join(f"{name}: {row.title}" for name, row in FORMATS.items())
    parser.add_argument(
        "--to",
        action=Distinct,
        nargs="+",
        required=True,
        choices=list(FORMATS),
        metavar="FORMAT",
        help=formats,
    )
    parser.add_argument(
        "--out",
        type=a_path,
        metavar="DIR",
        help="folder for one of each format (default: RUN/snn)",
    )
    return parser


@one_line()
def run() -> None:
    """Run the command in a process of its own."""
    own_process()
    main()
