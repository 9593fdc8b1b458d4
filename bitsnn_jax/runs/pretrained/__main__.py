"""Turn a run into a trained network of the package.

python -m bitsnn_jax.runs.pretrained runs/digits_resnet resnet20_digits
"""

from bitsnn_jax.runs import pretrained
from bitsnn_jax.runtime.cli import Parser, filled, one_line, only_our_errors, readable


@one_line()
def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__, prog="python -m bitsnn_jax.runs.pretrained")
    add = parser.add_argument
    add("run", type=filled, help="folder of a training run, converted if it has QCFS")
    add("name", type=filled, help="that the network will have")
    add("--command", type=readable, default="", help="with which it was trained")
    add("--hardware", type=readable, default="", help="on which it was trained")
    options = parser.parse_args(argv)
    only_our_errors()
    print(pretrained.pack(**vars(options)))


if __name__ == "__main__":
    main()
