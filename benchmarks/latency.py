"""Time of a pass: this project's network at T = 4, and others at equal accuracy.

    python benchmarks/latency.py [--ckpt NAME] [--at qcfs=32 srp=8 ...] [--batch 1 64]

The paper's Table 7, on this machine. The trained network, its spiking network in both
modes, and the methods of `bitsnn_jax.comparators` at the T given for each (for instance
that at which `compare.py` finds the same accuracy) are jitted; their runs are
interleaved, and ratios are medians over rounds to the ANN of the same round. All are
fed images of noise: the time does not depend on what is in them. With --out the numbers
are stored.
"""

import jax
import timings
from simulate import compile_pass, interleaved, print_table

from bitsnn_jax import convert, spiking
from bitsnn_jax.comparators import METHODS, simulate
from bitsnn_jax.comparators.method import as_it_is
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import STEPS as MOST_STEPS
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, filled, whole


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--ckpt", type=filled, default="resnet20_fashion_mnist")
    parser.add_argument(
        "--at", nargs="+", action=Distinct, default=["qcfs=4", "qcfs=32"]
    )
    parser.add_argument(
        "--steps", type=whole(1, 24), default=4, help="T of our network"
    )
    parser.add_argument(
        "--batch", type=whole(1, 2**17), action=Distinct, nargs="+", default=[1, 64]
    )
    parser.add_argument("--rounds", type=whole(2, 10**6), default=15)
    parser.add_argument("--out", type=a_path, help="JSON file that keeps the numbers")
    options = parser.parse_args()
    rivals = [parsed(text, parser) for text in options.at]
    apply_fn, run = load_ann(options.ckpt)
    rows = []
    for batch in options.batch:
        shape = (batch, *run.metadata["image_shape"])
        x = jax.random.normal(jax.random.key(0), shape)
        converted, _ = convert(apply_fn, run.variables, x[:1], steps=options.steps)
        fused = spiking(apply_fn, steps=options.steps, mode="fused")
        passes = {
            "ann": (apply_fn, run.variables),
            "fused": (fused, run.variables),
            "stepped": (spiking(apply_fn, steps=options.steps), converted),
        }
        for method, steps in rivals:
            snn = simulate(apply_fn, METHODS[method].neuron(steps), steps=steps)
            passes[f"{method}={steps}"] = (snn, run.variables)
        print(
            f"{options.ckpt}, batch {batch}, T = {options.steps}, "
            f"{jax.devices()[0].device_kind}, JAX {jax.__version__}"
        )
        compiled = {name: compile_pass(*p, x) for name, p in passes.items()}
        seconds = interleaved(compiled, options.rounds)
        print_table(compiled, seconds)
        found = timings.rows(seconds, reference="ann")
        rows += [{"batch": batch} | row for row in found]
    if options.out:
        facts = {"rounds": options.rounds, "steps": options.steps}
        store_numbers(options.out, rows, config=options.ckpt, seed=0, **facts)


def parsed(text: str, parser: Parser) -> tuple[str, int]:
    """qcfs=32 as a method and its T; methods that calibrate have no place here."""
    name, _, steps = text.partition("=")
    known = [m.name for m in METHODS.values() if m.prepare is as_it_is]
    number = int(steps) if steps.isdecimal() and len(steps) < 5 else 0
    if name not in known or not 1 <= number <= MOST_STEPS:
        parser.error(
            f"--at must be METHOD=T with a method of {', '.join(known)} and a T in "
            f"1..{MOST_STEPS}, got {text:.40}"
        )
    return name, number


if __name__ == "__main__":
    as_script(main)
