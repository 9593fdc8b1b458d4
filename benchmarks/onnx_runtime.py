"""What onnxruntime takes for our integers, and for its own networks; and who is exact.

    python benchmarks/onnx_runtime.py [--cases resnet20=64 resnet18=16 vgg16=16]

Random weights and pixels, 32x32x3. The network in integers as ONNX, in one pass and
stepped, is compared with JAX code by code. Then the passes run in turns, in one
process, from pixels to logits: both models, and onnxruntime's own network of floats
with ReLU (batch norm folded) and its own INT8 of that (both take normalised images),
and the same integers in JAX, carried as int8. Ratios are to the network of floats.
Needs onnx, onnxruntime and torch. With --out the numbers are stored.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import peers
import timings
from fixed_point import (
    logits_of,
    network_of_pixels,
    normalised,
    rounded,
    size_without_thresholds,
)
from simulate import Pass, compile_pass, interleaved, network, print_table

from bitsnn_jax.exports.onnx_writer import export_onnx
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.network import IntegerNetwork
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

FLOAT = "onnxruntime"  # its network of floats: what ratios are to
PEERS = (FLOAT, "onnxruntime-int8")
MODES = {"one-shot": "one_shot", "stepped": "stepped"}
JAX = "JAX, one-shot, int8"
SIZE = 32


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--cases",
        nargs="+",
        action=Distinct,
        default=["resnet20=64", "resnet18=16", "vgg16=16"],
        metavar="MODEL=BATCH",
        help=f"of {', '.join(sorted(MODELS))} (default: %(default)s)",
    )
    parser.add_argument("--steps", type=whole(1, 8), default=4)
    parser.add_argument("--rounds", type=whole(2, 10**6), default=30)
    parser.add_argument("--out", type=a_path, help="JSON file that keeps the numbers")
    options = parser.parse_args()
    rows = []
    for case in [parsed(text, parser) for text in options.cases]:
        rows += measured(*case, steps=options.steps, rounds=options.rounds)
    if options.out:
        models = ", ".join(options.cases)
        facts = {"rounds": options.rounds, "size": SIZE, "peers": peers.versions()}
        store_numbers(options.out, rows, config=models, seed=0, **facts)


def parsed(text: str, parser: Parser) -> tuple[str, int]:
    """resnet20=64 as a model and a batch."""
    model, _, batch = text.partition("=")
    if model not in MODELS or not batch.isdecimal() or not 0 < int(batch) <= 2**17:
        parser.error(
            f"--cases must be MODEL=BATCH with a model of {', '.join(sorted(MODELS))}, "
            f"got {text:.40}"
        )
    return model, int(batch)


def measured(
    model: str, batch: int, *, steps: int, rounds: int
) -> list[dict[str, Any]]:
    """Compare and time one network; return a row for each pass."""
    apply_fn, variables, images = network(model, batch, SIZE)
    pixels = np.random.default_rng(0).integers(0, 256, images.shape).astype(np.uint8)
    integers, _ = rounded(
        network_of_pixels(apply_fn), variables, images.shape, steps=steps
    )
    print(f"{model}, batch {batch}, {SIZE}x{SIZE}x3, T = {steps}")
    counts = {name: differing(integers, mode, pixels) for name, mode in MODES.items()}
    counts[JAX] = {"differing": 0}
    passes: dict[str, Callable[[], Any]] = {
        f"ours, {name}": ours(integers, mode, pixels) for name, mode in MODES.items()
    }
    case = peers.Case(
        model,
        normalised(pixels.astype(np.float32)),
        parameters=size_without_thresholds(variables),
        rate_steps=1,
    )
    passes |= peers.peers(list(PEERS), case)
    compiled = {name: Pass(run, *[float("nan")] * 3) for name, run in passes.items()}
    in_jax = one_shot(integers, carrier="int8")
    compiled[JAX] = compile_pass(logits_of(in_jax), (), pixels)
    times = interleaved(compiled, rounds)
    print_table(compiled, times, reference=FLOAT)
    shown = {"model": model, "batch": batch, "steps": steps}
    return [
        shown | row | counts.get(row["pass"].removeprefix("ours, "), {})
        for row in timings.rows(times, reference=FLOAT)
    ]


def differing(
    integers: IntegerNetwork, mode: Any, pixels: np.ndarray
) -> dict[str, int]:
    """Count the codes and logits that differ from those of JAX."""
    model = peers.onnx_session(export_onnx(integers, mode=mode).SerializeToString())
    names = [output.name for output in model.get_outputs()]
    result = jax.jit(one_shot(integers))(pixels)
    expected = {f"code_{name}": code for name, code in result.codes.items()}
    expected |= result.outputs
    found = dict(zip(names, model.run(names, {"input": pixels}), strict=True))
    if found.keys() != expected.keys():
        raise AssertionError(f"{mode} returns {names}, not {list(expected)}")
    unequal = sum(int((found[k] != np.asarray(v)).sum()) for k, v in expected.items())
    compared = sum(array.size for array in found.values())
    print(f"{mode}: {unequal} of {compared:,} codes and logits differ")
    return {"compared": compared, "differing": unequal}


def ours(integers: IntegerNetwork, mode: Any, pixels: np.ndarray) -> Callable[[], Any]:
    """Make the pass of a model that returns logits only."""
    model = export_onnx(integers, mode=mode, codes=False)
    session = peers.onnx_session(model.SerializeToString())
    return lambda: session.run(None, {"input": pixels})


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
