"""What a pass in integers costs, in passes of the float ANN; and that it is exact.

    python benchmarks/fixed_point.py [--model resnet20] [--size 32] [--batch 64]
    python benchmarks/fixed_point.py --model resnet34 --size 224 --batch 1 --rounds 3
    python benchmarks/fixed_point.py --model mobilenetv2 --size 224 --batch 1 --rounds 3

Random weights and pixels. One-shot, stepped and rolled passes of integers are compared
code by code, then timed as `simulate.py` times its passes. Limits: one-shot 1, stepped
T passes of one-shot. With --out the numbers are stored.
"""

import resource
import statistics
import time
from functools import partial

import jax
import numpy as np
import timings
from simulate import compile_pass, interleaved, network, print_table

from bitsnn_jax.integers.execution import CARRIERS, one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.models import MODELS
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), default="resnet20")
    parser.add_argument("--batch", type=whole(1, 2**17), default=64)
    parser.add_argument("--size", type=whole(1, 4096), default=32)
    parser.add_argument("--steps", type=whole(1, 24), default=4)
    parser.add_argument("--bits", type=whole(2, 8), default=8)
    parser.add_argument("--carrier", choices=CARRIERS, default="float32")
    parser.add_argument("--rounds", type=whole(2, 10**6), default=30)
    parser.add_argument("--out", type=a_path, help="JSON file that keeps the numbers")
    options = parser.parse_args()

    apply_fn, variables, images = network(options.model, options.batch, options.size)
    pixels = np.random.default_rng(0).integers(0, 256, images.shape).astype(np.uint8)

    def of_pixels(variables, pixels):
        return apply_fn(variables, (pixels - 128.0) / 64)

    started = time.perf_counter()
    example = jax.ShapeDtypeStruct((1, *images.shape[1:]), np.float32)
    graph = lower(of_pixels, variables, example)
    lowered = time.perf_counter() - started
    integers = fixed_point(graph, steps=options.steps, bits=options.bits)
    rounded = time.perf_counter() - started - lowered
    print(
        f"{options.model}, batch {options.batch}, {options.size}x{options.size}x3, "
        f"T = {options.steps}, {options.bits} bits, {options.carrier}, "
        f"{jax.devices()[0].device_kind}, JAX {jax.__version__}\n"
        f"lowered in {lowered:.1f} s, rounded in {rounded:.1f} s; "
        f"{len(integers.of_kind('neurons'))} layers of neurons, sums below "
        f"{max(node.bound for node in integers.nodes):,}"
    )
    passes = {
        "one-shot": one_shot(integers, carrier=options.carrier),
        "stepped": stepped(integers, carrier=options.carrier),
        "rolled": stepped(integers, carrier=options.carrier, unroll=False),
    }
    results = [jax.jit(run)(pixels) for run in passes.values()]
    differing = jax.tree.map(
        lambda one, *others: sum(int((other != one).sum()) for other in others),
        *results,
    )
    codes = sum(code.size for code in results[0].codes.values())
    print(
        f"{sum(differing.codes.values())} of {codes:,} codes and "
        f"{sum(differing.outputs.values())} logits differ"
    )
    compiled = {"ann": compile_pass(of_pixels, variables, pixels)}
    for name, run in passes.items():  # of which the logits are wanted, as of the ANN
        outputs = partial(lambda run, _, x: run(x).outputs, run)
        compiled[name] = compile_pass(outputs, (), pixels)
    seconds = interleaved(compiled, options.rounds)
    print_table(compiled, seconds, steps=options.steps)
    ratio = statistics.median(
        s / o for s, o in zip(seconds["stepped"], seconds["one-shot"], strict=True)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"stepped is {ratio:.2f} x one-shot; {peak:.0f} MB at most in memory")
    if options.out:
        rows = timings.rows(seconds, reference="ann")
        for row in rows:
            row["megabytes"] = compiled[row["pass"]][2]
        facts = {
            "rounds": options.rounds,
            "batch": list(images.shape),
            "steps": options.steps,
            "codes": codes,
            "differing": sum(differing.codes.values()),
            "logits_differing": sum(differing.outputs.values()),
            "seconds_lowering": lowered,
            "seconds_rounding": rounded,
            "stepped_by_one_shot": ratio,
            "peak_megabytes": peak,
        }
        store_numbers(options.out, rows, config=options.model, seed=0, **facts)


if __name__ == "__main__":
    as_script(main)
