"""What a pass in integers costs, in passes of the float ANN; and that it is exact.

    python benchmarks/fixed_point.py [--model resnet20] [--size 32] [--batch 64]
    python benchmarks/fixed_point.py --model resnet34 --size 224 --batch 1 --rounds 3

Random weights and pixels. One-shot, stepped and rolled passes of integers, in each of
the carriers, are compared code by code, then timed in turns with the float ANN, from
pixels to logits: by convolutions as `lax` has them, and in faster forms. Limits:
one-shot 1, stepped T passes of one-shot. `--peers` adds the same network in other
frameworks (peers.py), which take normalised images. With --out the numbers are stored.
"""

import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import peers
import timings
from simulate import Pass, compile_pass, interleaved, network, print_table

from bitsnn_jax.integers.carriers import CARRIERS
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.models import MODELS
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import (
    STEPS,
    Distinct,
    Parser,
    a_path,
    as_script,
    whole,
    with_huge_pages,
)
from bitsnn_jax.tracing.fast_convolutions import with_fast_convolutions

FLOAT = "lax"  # the float ANN by XLA's own convolutions: what ratios are to
EXECUTIONS = {
    "one-shot": one_shot,
    "stepped": stepped,
    "rolled": partial(stepped, unroll=False),
}


def main() -> None:
    options = _parser().parse_args()
    apply_fn, variables, images = network(options.model, options.batch, options.size)
    pixels = np.random.default_rng(0).integers(0, 256, images.shape).astype(np.uint8)
    of_pixels = network_of_pixels(apply_fn)
    integers, seconds = rounded(
        of_pixels, variables, images.shape, steps=options.steps, bits=options.bits
    )
    print(
        f"{options.model}, batch {options.batch}, {options.size}x{options.size}x3, "
        f"T = {options.steps}, {options.bits} bits, {jax.devices()[0].device_kind}, "
        f"JAX {jax.__version__}\nlowered in {seconds['seconds_lowering']:.1f} s, "
        f"rounded in {seconds['seconds_rounding']:.1f} s; "
        f"{len(integers.of_kind('neurons'))} layers of neurons, sums below "
        f"{max(node.bound for node in integers.nodes):,}"
    )
    runs = {
        f"{execution}, {carrier}": EXECUTIONS[execution](integers, carrier=carrier)
        for carrier in options.carriers
        for execution in options.executions
    }
    counts = compared(runs, pixels)
    print(
        f"{counts['differing']} of {counts['codes']:,} codes and "
        f"{counts['logits_differing']} logits differ"
    )
    compiled = {
        FLOAT: compile_pass(of_pixels, variables, pixels),
        "forms": compile_pass(with_fast_convolutions(of_pixels), variables, pixels),
    }
    for name, run in runs.items():
        compiled[name] = compile_pass(logits_of(run), (), pixels)
    case = peers.Case(
        options.model,
        normalised(pixels.astype(np.float32)),
        parameters=size_without_thresholds(variables),
        rate_steps=options.rate_steps,
    )
    for name, run in peers.peers(options.peers, case).items():
        compiled[name] = Pass(run, *[float("nan")] * 3)
    times = interleaved(compiled, options.rounds)
    print_table(compiled, times, steps=options.steps, reference=FLOAT)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{peak:.0f} MB at most in memory")
    if options.out:
        rows = timings.rows(times, reference=FLOAT)
        for row in rows:
            megabytes = compiled[row["pass"]].megabytes
            row["megabytes"] = None if np.isnan(megabytes) else megabytes
        facts = {
            "rounds": options.rounds,
            "batch": list(images.shape),
            "steps": options.steps,
            "rate_steps": options.rate_steps,
            "peers": peers.versions(),
            "peak_megabytes": peak,
        }
        facts |= counts | seconds
        store_numbers(options.out, rows, config=options.model, seed=0, **facts)


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), default="resnet20")
    parser.add_argument("--batch", type=whole(1, 2**17), default=64)
    parser.add_argument("--size", type=whole(1, 4096), default=32)
    parser.add_argument("--steps", type=whole(1, 24), default=4)
    parser.add_argument("--bits", type=whole(2, 8), default=8)
    several: dict[str, Any] = {"action": Distinct, "nargs": "+"}
    parser.add_argument(
        "--carriers",
        "--carrier",
        **several,
        choices=CARRIERS,
        default=["int8", "float32"],
        help="what integers are computed in (default: int8 float32)",
    )
    parser.add_argument(
        "--executions",
        **several,
        choices=EXECUTIONS,
        default=list(EXECUTIONS),
        help="of the integers (default: all)",
    )
    parser.add_argument(
        "--peers",
        **several,
        choices=peers.PEERS,
        default=[],
        help="passes of other frameworks, those that are installed (default: none)",
    )
    parser.add_argument(
        "--rate_steps",
        type=whole(1, STEPS),
        default=32,
        help="T of SpikingJelly's rate network (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=whole(2, 10**6), default=30)
    parser.add_argument("--out", type=a_path, help="JSON file that keeps the numbers")
    return parser


def normalised(pixels: Any) -> Any:
    """Bring pixels to about -2..2."""
    return (pixels - 128.0) / 64


def network_of_pixels(apply_fn: Callable) -> Callable:
    """Put the normalisation of pixels in front of a network."""
    return lambda variables, pixels: apply_fn(variables, normalised(pixels))


def rounded(
    of_pixels: Callable, variables: Any, shape: tuple[int, ...], *, steps: int, bits=8
) -> tuple[IntegerNetwork, dict[str, float]]:
    """Make the network in integers; return it, and the seconds that this takes."""
    started = time.perf_counter()
    example = jax.ShapeDtypeStruct((1, *shape[1:]), np.float32)
    graph = lower(of_pixels, variables, example)
    lowered = time.perf_counter()
    integers = fixed_point(graph, steps=steps, bits=bits)
    ended = time.perf_counter()
    return integers, {
        "seconds_lowering": lowered - started,
        "seconds_rounding": ended - lowered,
    }


def compared(runs: dict[str, Callable], pixels: np.ndarray) -> dict[str, int]:
    """Count the codes and logits in which executions differ from the first one."""
    first, *others = runs.values()
    expected = jax.jit(first)(pixels)
    unequal = jax.jit(
        lambda one, other: jax.tree.map(lambda a, b: (a != b).sum(), one, other)
    )
    codes = logits = 0
    for run in others:
        found = unequal(expected, jax.jit(run)(pixels))
        codes += sum(map(int, found.codes.values()))
        logits += sum(map(int, found.outputs.values()))
    return {
        "codes": sum(code.size for code in expected.codes.values()),
        "differing": codes,
        "logits_differing": logits,
    }


def logits_of(run: Callable) -> Callable:
    """An execution of which the logits are wanted, as of the ANN."""
    return lambda _, pixels: run(pixels).outputs


def size_without_thresholds(variables: Any) -> int:
    """Count the parameters of a network, without what activations own."""
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    return sum(leaf.size for path, leaf in leaves if path[-1].key != "theta")


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
