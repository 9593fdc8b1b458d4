"""Makes a trained network of the package of a run.

python -m bitsnn_jax.pretrained runs/digits_resnet resnet20_digits
"""

from bitsnn_jax import pretrained
from bitsnn_jax.cli import Parser, fail, only_our_errors


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__, prog="python -m bitsnn_jax.pretrained")
    parser.add_argument(
        "run", help="folder of a training run, converted if it has QCFS"
    )
    parser.add_argument("name", help="that the network will have")
    parser.add_argument("--command", default="", help="with which it was trained")
    parser.add_argument("--hardware", default="", help="on which it was trained")
    options = parser.parse_args(argv)
    only_our_errors()
    try:
        print(pretrained.pack(**vars(options)))
    except (ValueError, OSError) as error:
        fail(error)


if __name__ == "__main__":
    main()
