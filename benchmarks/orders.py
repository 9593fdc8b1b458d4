"""Layer by layer against step by step: memory and time (the paper's A.3).

    python benchmarks/orders.py [--model resnet20] [--batch 64] [--steps 4 8 16]

The rate network of QCFS in both orders. Its neurons only look back, so both send the
same spikes: step by step all layers run in one step, and membranes are carried to the
next; layer by layer a layer has the whole train of the one before. Beside them the
network of this project, which must run layer by layer. Random weights and images of
32x32x3, float32; ratios are to a pass of the ANN in the same round. Temporaries are
what the compiled program asks for beside its inputs and outputs; malloc keeps them from
pass to pass, or the largest would slow down all others. With --out the numbers are
stored.
"""

from functools import partial
from typing import Any

import jax
import timings
from simulate import Pass, compile_pass, interleaved, network

from bitsnn_jax import convert, spiking
from bitsnn_jax.comparators import qcfs, simulate
from bitsnn_jax.comparators.decomposition import whole_train
from bitsnn_jax.models import MODELS
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import (
    Distinct,
    Parser,
    a_path,
    as_script,
    whole,
    with_huge_pages,
)
from bitsnn_jax.runtime.columns import table


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), default="resnet20")
    parser.add_argument("--batch", type=whole(1, 2**17), default=64)
    parser.add_argument(
        "--steps", type=whole(1, 64), action=Distinct, nargs="+", default=[4, 8, 16]
    )
    parser.add_argument("--rounds", type=whole(2, 10**6), default=9)
    parser.add_argument("--out", type=a_path, help="JSON file that keeps the numbers")
    options = parser.parse_args()
    apply_fn, variables, x = network(options.model, options.batch, 32)
    rows = []
    for steps in options.steps:
        passes = {
            name: compile_pass(fn, given, x)
            for name, (fn, given) in orders(apply_fn, variables, x, steps).items()
        }
        rows += measured(passes, steps, options.rounds)
    print(described(rows))
    if options.out:
        facts = {"rounds": options.rounds, "batch": options.batch}
        store_numbers(options.out, rows, config=options.model, seed=0, **facts)


def orders(apply_fn, variables, x, steps: int) -> dict[str, tuple[Any, Any]]:
    """Return functions of (variables, x), and the variables that each takes."""
    rate = partial(simulate, apply_fn, steps=steps)
    converted, _ = convert(apply_fn, variables, x[:1], steps=steps)
    return {
        "ann": (apply_fn, variables),
        "rate, step by step": (rate(qcfs.neuron()), variables),
        "rate, layer by layer": (rate(whole_train(qcfs.neuron())), variables),
        "bit-serial, layer by layer": (spiking(apply_fn, steps=steps), converted),
    }


def measured(passes: dict[str, Pass], steps: int, rounds: int) -> list[dict[str, Any]]:
    seconds = interleaved(passes, rounds)
    return [
        {"steps": steps, **row, "megabytes": passes[row["pass"]].megabytes}
        for row in timings.rows(seconds, reference="ann")
    ]


def described(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            str(row["steps"]),
            row["pass"],
            f"{row['milliseconds']:.1f}",
            f"{row['ratio'][1]:.2f}",
            f"{row['megabytes']:.1f}",
        )
        for row in rows
    ]
    title = f"{jax.devices()[0].device_kind}, JAX {jax.__version__}"
    head = ("T", "pass", "median, ms", "x ANN", "temporaries, MB")
    return f"{title}\n{table([head, *cells], names=2)}"


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
