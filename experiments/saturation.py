"""What chips hold of the trained networks, and what narrow membranes cost.

    python experiments/saturation.py [--images 1000] [--widths 12 13 ...]

The trained ResNet-20 and VGG in integers, rounded to the nearest, at T = 4 and 8: what
each layer needs, what of that each chip of `integers.targets` holds, and accuracy and
differing codes on the first test images with membranes of every width, which saturate
or wrap. Widths that hold every sum of these images are not run, since nothing changes.
Writes docs/results/saturation.json.
"""

from pathlib import Path
from typing import Any

from msgspec import structs, to_builtins

from bitsnn_jax import data
from bitsnn_jax.integers.accumulators import OVERFLOWS, Accumulator
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.targets import targets
from bitsnn_jax.jobs.hardware import HeldRuns, at_steps, in_lines
from bitsnn_jax.jobs.integers import lower_pixels
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, filled, whole

NETWORKS = ("resnet20_fashion_mnist", "vgg_fashion_mnist")
STEPS = (4, 8)
WIDTHS = range(12, 25)
NUMBERS = Path("docs/results/saturation.json")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--networks",
        nargs="+",
        type=filled,
        action=Distinct,
        default=NETWORKS,
        metavar="NAME",
    )
    parser.add_argument("--images", type=whole(1), default=1000)
    parser.add_argument(
        "--widths",
        nargs="+",
        type=whole(2, 32),
        action=Distinct,
        default=WIDTHS,
        metavar="BITS",
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for steps in STEPS:
        for name in options.networks:
            rows.append(row(name, steps, options.images, options.widths))
            config = ", ".join(options.networks)
            store_numbers(options.out, rows, config=config, seed=None)


def row(name: str, steps: int, images: int, widths) -> dict[str, Any]:
    """Compare a network with all chips, and run it in membranes of all widths."""
    apply_fn, trained = load_ann(name)
    settings = trained.config.data
    test = data.load(settings, "test").first(images)
    network = fixed_point(lower_pixels(apply_fn, trained.variables, test), steps=steps)
    run = HeldRuns(network, settings, test)
    found = at_steps(run, [*targets().values()])
    print(f"{name}, {in_lines(found)}", flush=True)
    membranes = []
    for overflow in OVERFLOWS:
        for bits in widths:
            held = run(Accumulator(bits, overflow))
            membranes.append(structs.replace(held, overflowing=()))
            print(f"{bits} bits, {overflow}: {held.accuracy:.2%}", flush=True)
    return {
        "network": name,
        "images": len(test),
        **to_builtins(found),
        "membranes": to_builtins(membranes),
    }


if __name__ == "__main__":
    as_script(main)
