"""RetinaNet over ResNet-34 at 512x512: is it exact, in floats and in integers?

    python experiments/retinanet_at_512.py [--size 512] [--width 1] [--parts integers]

The network of configs/retinanet_resnet34_coco.py, 80 classes, with random weights, on
one picture of noise at T = 4. Parts, each in a process of its own, so that its peak of
memory is known:

* conversion: the biases are shifted, Proposition I;
* certificate: ANN and stepped SNN side by side in float64, code by code;
* integers: lowered, rounded to int8 weights, and run three ways that must agree in
  every code and every output: with bytes and in float32 in one pass, and spike by
  spike.

Seconds are those of the whole part, compilation included. Writes
docs/results/retinanet_at_512.json, anew after each part.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import convert, verify
from bitsnn_jax.config import Model
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.models import build_model
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import (
    Distinct,
    Parser,
    a_path,
    as_script,
    between,
    whole,
)

NUMBERS = Path("docs/results/retinanet_at_512.json")
NAME, STEPS, SEED = "retinanet_resnet34", 4, 0
PARTS = ("conversion", "certificate", "integers")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--size", type=whole(1, 2048), default=512)
    parser.add_argument("--width", type=between(0, 64), default=1.0)
    parser.add_argument(
        "--parts", nargs="+", action=Distinct, choices=PARTS, default=PARTS
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        max_tasks_per_child=1,  # the peak of memory is that of one part
    ) as pool:
        for part in options.parts:
            rows.append(pool.submit(row, part, options.size, options.width).result())
            print(rows[-1], flush=True)
            store_numbers(
                options.out,
                rows,
                config=NAME,
                seed=SEED,
                size=options.size,
                width=options.width,
                steps=STEPS,
            )


def row(part: str, size: int, width: float) -> dict[str, Any]:
    started = time.perf_counter()
    found = {"conversion": converted, "certificate": certified, "integers": counted}
    facts = found[part](size, width)
    return {
        "part": part,
        **facts,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def converted(size: int, width: float) -> dict[str, Any]:
    apply_fn, variables, pixels = network(size, width)
    report = convert(apply_fn, variables, pixels, steps=STEPS).report
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(variables["params"])),
        "biases_shifted": len(report.changed),
        "layers_of_neurons": len(report.neurons),
        "layers_that_multiply": [layer.path for layer in report.analog],
    }


def certified(size: int, width: float) -> dict[str, Any]:
    with jax.enable_x64(True):
        apply_fn, variables, pixels = network(size, width, jnp.float64)
        proof = verify(apply_fn, variables, pixels, steps=STEPS)
    membranes = [x.largest_membrane_difference for x in proof.layers.values()]
    return {
        "neurons": proof.neurons,
        "codes_differing": proof.differing,
        "largest_membrane_difference": max(membranes),
        "largest_output_difference": proof.largest_output_difference,
        "exact": proof.exact,
    }


def counted(size: int, width: float) -> dict[str, Any]:
    apply_fn, variables, pixels = network(size, width)
    made = fixed_point(lower(apply_fn, variables, pixels), steps=STEPS)
    found, seconds = {}, {}
    for name, run in (
        ("one pass, int8", one_shot(made, carrier="int8")),
        ("one pass, float32", one_shot(made, carrier="float32")),
        ("spike by spike, int8", stepped(made, carrier="int8")),
    ):
        found[name], seconds[name] = timed(run, pixels)
    wanted = found["one pass, int8"]
    differing = {
        name: sum(
            int(np.sum(a != b))
            for a, b in zip(*map(jax.tree.leaves, (result, wanted)), strict=True)
        )
        for name, result in found.items()
    }
    codes, outputs = (
        sum(x.size for x in jax.tree.leaves(part))
        for part in (wanted.codes, wanted.outputs)
    )
    return {
        "codes": codes,
        "outputs": outputs,
        "differing_from_int8": differing,
        "seconds_of_a_pass": seconds,
    }


def timed(run: Callable[[Any], Any], x: Any) -> tuple[Any, float]:
    """Return the result on the host, and the seconds of a pass that is compiled."""
    run = jax.jit(run).lower(x).compile()
    started = time.perf_counter()
    result = jax.block_until_ready(run(x))
    return jax.device_get(result), round(time.perf_counter() - started, 2)


def network(
    size: int, width: float, dtype: Any = jnp.float32
) -> tuple[Callable[[Any, Any], Any], Any, np.ndarray]:
    """Return (variables, pixels) -> outputs; random variables; one picture of noise."""
    config = Model(name=NAME, num_classes=80, stem="imagenet", width=width)
    model = build_model(config, image_shape=(size, size, 3))
    rng = np.random.default_rng(SEED)
    pixels = rng.integers(0, 256, (1, size, size, 3), np.uint8)
    init = partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros(pixels.shape))

    def value(path, leaf):
        fan_in = np.prod(leaf.shape[:-1])
        drawn = {
            "kernel": lambda: rng.normal(0, np.sqrt(2 / fan_in), leaf.shape),
            "bias": lambda: rng.normal(0, 0.1, leaf.shape),
            "mean": lambda: rng.normal(0, 0.1, leaf.shape),
            "scale": lambda: rng.uniform(0.5, 1, leaf.shape),
            "var": lambda: rng.uniform(1, 2, leaf.shape),
            "theta": lambda: np.full(leaf.shape, 2.0),
        }
        return jnp.asarray(drawn[path[-1].key](), dtype)

    def apply_fn(variables, pixels):
        return model.apply(variables, pixels.astype(dtype) / 127.5 - 1, train=False)

    return apply_fn, jax.tree_util.tree_map_with_path(value, shapes), pixels


if __name__ == "__main__":
    as_script(main)
