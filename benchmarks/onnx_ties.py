"""What tied thresholds bring in onnxruntime: trained networks, tied and as they are.

    python benchmarks/onnx_ties.py [--networks NAME ...] [--steps T ...]
      [--batches N ...] [--threads N] [--rounds N] [--out FILE]

Rounds a trained network to integers of 8 bits with and without ties along its skip
connections, as `convert.py --tie-skips --rounding nearest` does, and writes the pass
with codes as ONNX. Both are compared with our own, code by code, on test images, and
then run in turns, from pixels to logits, with onnxruntime's own network of floats (the
same layers with ReLU, from normalised images) and its INT8 of that. Ratios are to the
floats. Needs onnx, onnxruntime and torch. With --out the numbers are stored.
"""

from typing import Any

import jax
import numpy as np
import peers
import timings
from fixed_point import normalised, size_without_thresholds

from bitsnn_jax import data
from bitsnn_jax.exports.onnx_writer import export_onnx
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.integers.ties import tied
from bitsnn_jax.jobs.integers import calibration_pixels, lower_pixels
from bitsnn_jax.jobs.pass_times import in_turns
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, filled, whole

PLAIN, TIED = "as trained", "tied"
FLOAT, INT8 = "onnxruntime", "onnxruntime-int8"


def main() -> None:
    parser = Parser(__doc__)
    several: dict[str, Any] = {"nargs": "+", "action": Distinct}
    names = ("resnet20_fashion_mnist",)
    parser.add_argument(
        "--networks", type=filled, default=names, metavar="NAME", **several
    )
    parser.add_argument(
        "--steps", type=whole(1, 8), default=(4, 8), metavar="T", **several
    )
    parser.add_argument(
        "--batches", type=whole(1, 10**4), default=(64, 1), metavar="N", **several
    )
    parser.add_argument("--rounds", type=whole(2, 10**6), default=30)
    parser.add_argument("--out", type=a_path, help="JSON file that keeps the numbers")
    options = parser.parse_args()
    rows = []
    for name in options.networks:
        apply_fn, run = load_ann(name)
        test = data.load(run.config.data, "test")
        graph = lower_pixels(apply_fn, run.variables, test)
        inputs = calibration_pixels(graph, run.config.data)
        images = [
            data.as_evaluated(run.config.data, test, i)["image"]
            for i in range(max(options.batches))
        ]
        for steps in options.steps:
            made = tied(graph, steps=steps, inputs=inputs).graph
            networks = {
                PLAIN: fixed_point(graph, steps=steps),
                TIED: fixed_point(made, steps=steps),
            }
            for batch in options.batches:
                pixels = np.stack(images[:batch])
                case = peers.Case(
                    run.config.model.name,
                    normalised(pixels.astype(np.float32)),
                    parameters=size_without_thresholds(run.variables),
                    rate_steps=1,
                )
                found = measured(networks, pixels, case, options.rounds)
                shown = {"network": name, "steps": steps, "batch": batch}
                rows += [shown | row for row in found]
                print(*rows[-len(found) :], sep="\n", flush=True)
    if options.out:
        facts = {"rounds": options.rounds, "peers": peers.versions()}
        names = ", ".join(options.networks)
        store_numbers(options.out, rows, config=names, seed=0, **facts)


def measured(
    networks: dict[str, IntegerNetwork],
    pixels: np.ndarray,
    case: peers.Case,
    rounds: int,
) -> list[dict[str, Any]]:
    """Compare and time the networks; return a row for each."""
    facts: dict[str, dict[str, Any]] = {FLOAT: {}, INT8: {}}
    passes = peers.peers([FLOAT, INT8], case)
    for name, network in networks.items():
        model = session(export_onnx(network))
        names = [output.name for output in model.get_outputs()]
        result = jax.jit(one_shot(network, carrier="int32"))(pixels)
        wanted = {f"code_{n}": code for n, code in result.codes.items()}
        found = dict(zip(names, model.run(names, {"input": pixels}), strict=True))
        wanted |= result.outputs
        differing = sum(
            int((found[n] != np.asarray(a)).sum()) for n, a in wanted.items()
        )
        plain = export_onnx(network, codes=False)
        kinds = [node.op_type for node in plain.graph.node]
        facts[name] = {
            "differing": differing,
            "compared": sum(array.size for array in found.values()),
            "convolutions_of_bytes": kinds.count("QLinearConv"),
            "convolutions_of_floats": kinds.count("Conv"),
        }
        passes[name] = ours(session(plain), pixels)
    times = in_turns(passes, rounds=rounds)
    return [row | facts[row["pass"]] for row in timings.rows(times, reference=FLOAT)]


def session(model: Any) -> Any:
    return peers.onnx_session(model.SerializeToString())


def ours(model: Any, pixels: np.ndarray) -> Any:
    return lambda: model.run(None, {"input": pixels})


if __name__ == "__main__":
    as_script(main)
