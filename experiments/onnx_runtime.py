"""Every code and logit of the test images, computed by onnxruntime.

    python experiments/onnx_runtime.py [--networks NAME ...] [--steps T ...] [--limit N]

Rounds trained networks to integers of 8 bits, writes them as ONNX, in one pass and
stepped, and runs both on the test split, with as many threads as there are cores. Codes
of all layers and all logits are compared with those of `execution.one_shot` in JAX.
Needs onnx and onnxruntime. Every row is written to docs/results/onnx_runtime.json at
once, and none is computed twice.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.exports.onnx_writer import Mode, export_onnx
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.jobs.integers import lower_pixels
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import (
    Distinct,
    Parser,
    a_path,
    as_script,
    filled,
    one_line,
    whole,
)
from bitsnn_jax.runtime.rows import Rows

with one_line():  # what the package does not bring
    import onnxruntime

NETWORKS = ("resnet20_fashion_mnist", "vgg_fashion_mnist")
MODES: tuple[Mode, ...] = ("one_shot", "stepped")
STEPS = (2, 4, 7, 8)
BATCH = 250
NUMBERS = Path("docs/results/onnx_runtime.json")
KEYS = ("network", "steps", "mode", "images")


def main() -> None:
    parser = Parser(__doc__)
    several: dict[str, Any] = {"nargs": "+", "action": Distinct}
    parser.add_argument(
        "--networks", type=filled, default=NETWORKS, metavar="NAME", **several
    )
    parser.add_argument(
        "--steps", type=whole(1, 8), default=STEPS, metavar="T", **several
    )
    parser.add_argument(
        "--limit", type=whole(1), metavar="N", help="first N test images"
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, KEYS)
    for name in options.networks:
        for row in missing(name, options, rows.known):
            rows.add(row)
            print(row, flush=True)


def missing(name: str, options: argparse.Namespace, known) -> Iterator[dict[str, Any]]:
    """The rows of a network that are not there yet, those of one T together."""
    apply_fn, run = load_ann(name)
    settings = run.config.data
    test = data.load(settings, "test").first(options.limit)
    graph = lower_pixels(apply_fn, run.variables, test)
    for steps in options.steps:
        rows = {
            mode: dict(zip(KEYS, (name, steps, mode, len(test)), strict=True))
            for mode in MODES
        }
        modes = [mode for mode in MODES if not known(rows[mode])]
        if not modes:
            continue
        network = fixed_point(graph, steps=steps)
        models = {
            mode: export_onnx(network, mode=mode).SerializeToString() for mode in modes
        }
        found = compared(network, models, settings, test)
        for mode in modes:
            about = about_numbers(config=name, seed=run.config.seed)
            about["onnxruntime"] = onnxruntime.__version__
            size = {"bytes": len(models[mode])}
            yield rows[mode] | found[mode] | size | {"about": about}


def compared(network, models, settings, test) -> dict[str, dict[str, Any]]:
    """Run all images, batch by batch; count what is compared, and what differs."""
    ours = jax.jit(one_shot(network))
    sessions = {
        mode: onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        for mode, model in models.items()
    }
    fields = ("codes", "differing", "logits", "logits_differing", "seconds")
    found: dict[str, dict[str, Any]] = {
        mode: dict.fromkeys(fields, 0) for mode in models
    }
    size = min(BATCH, len(test))
    for batch in data.eval_batches(settings, test, batch_size=size):
        images, mask = np.asarray(batch["image"], np.uint8), batch["mask"]
        result = ours(images)
        expected = {f"code_{name}": code for name, code in result.codes.items()}
        expected = {k: np.asarray(v) for k, v in {**expected, **result.outputs}.items()}
        for mode, session in sessions.items():
            names, counts = [out.name for out in session.get_outputs()], found[mode]
            started = time.perf_counter()
            arrays = session.run(names, {"input": images[mask]})
            counts["seconds"] += time.perf_counter() - started
            if set(names) != expected.keys():
                raise AssertionError(f"{mode} returns {names}, not {list(expected)}")
            for name, array in zip(names, arrays, strict=True):
                kinds = ("logits", "logits_differing")
                if name not in result.outputs:
                    kinds = ("codes", "differing")
                unequal = array != expected[name][mask]  # an error for other shapes
                counts[kinds[0]] += unequal.size
                counts[kinds[1]] += int(np.sum(unequal))
    for counts in found.values():
        counts["seconds"] = round(counts["seconds"], 1)
    return found


if __name__ == "__main__":
    as_script(main)
