"""Time of a pass: this project's network at T = 4, and others at equal accuracy.

    python benchmarks/latency.py [--ckpt NAME] [--at qcfs=32 srp=8 ...] [--batch 1 64]

The paper's Table 7, on this machine. The trained network, its spiking network in both
modes, and the methods of `bitsnn_jax.comparators` at the T given for each (for instance
that at which `compare.py` finds the same accuracy) are jitted; their runs are
interleaved, and ratios are medians over rounds to the ANN of the same round. All are
fed images of noise: the time does not depend on what is in them.
"""

import argparse

import jax
from simulate import compile_pass, interleaved, print_table

from bitsnn_jax import convert, spiking
from bitsnn_jax.comparators import METHODS, simulate
from bitsnn_jax.runs import load_ann


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", default="resnet20_fashion_mnist")
    parser.add_argument("--at", nargs="+", default=["qcfs=4", "qcfs=32"])
    parser.add_argument("--steps", type=int, default=4, help="T of our network")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rivals = [parsed(text, parser) for text in options.at]
    apply_fn, run = load_ann(options.ckpt)
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
        print_table(compiled, interleaved(compiled, options.rounds))


def parsed(text: str, parser: argparse.ArgumentParser) -> tuple[str, int]:
    """qcfs=32 as a method and its T; methods that calibrate have no place here."""
    name, _, steps = text.partition("=")
    known = [m.name for m in METHODS.values() if m.prepare is None]
    if name not in known or not steps.isdigit() or int(steps) < 1:
        parser.error(f"--at: expected METHOD=T with a method of {known}, got {text}")
    return name, int(steps)


if __name__ == "__main__":
    main()
