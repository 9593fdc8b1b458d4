"""What a spiking pass costs, in passes of its ANN.

    python benchmarks/simulate.py [--model resnet20] [--batch 64] [--steps 4]

ResNet-20 on 32x32x3 images, or MiniLM on 32 words (--model minilm), float32, random
weights and inputs. Norms and softmax of a transformer are computed on decoded values,
once in any pass. The ANN's forward pass,
the fused and the stepped SNN are jitted; their runs are interleaved, and each ratio is
the median over rounds of the ratio within a round, so that the machine's drift cancels.
The work of a stepped pass is T ANN passes: T is its limit; that of fused is 1. "rolled"
is the stepped SNN with a loop over time at run time (`spiking(..., unroll=False)`). The
size of a program is that of its text, optimised by XLA. With --out the numbers are
stored; those of another T or batch stay in the file.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import timings

from bitsnn_jax import convert, spiking
from bitsnn_jax.config import Model
from bitsnn_jax.models import MODELS, TEXT_MODELS, build_model
from bitsnn_jax.models.bert import BERT_SIZES
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.runtime.timing import in_turns

MODELS_HERE = sorted(MODELS | TEXT_MODELS)
STEPPED = ("stepped", "rolled")  # the passes that have T steps


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--model", choices=MODELS_HERE, default="resnet20")
    parser.add_argument("--batch", type=whole(1, 2**17), default=64)
    parser.add_argument(
        "--size", type=whole(1, 4096), default=32, help="of an image, or words"
    )
    parser.add_argument("--steps", type=whole(1, 24), default=4)
    parser.add_argument("--rounds", type=whole(2, 10**6), default=30)
    parser.add_argument("--out", type=a_path, help="JSON file that keeps the numbers")
    options = parser.parse_args()

    apply_fn, variables, x = network(options.model, options.batch, options.size)
    passes = float_passes(apply_fn, variables, x, steps=options.steps)
    print(
        f"{options.model}, batch {options.batch}, inputs {list(x.shape[1:])}, "
        f"T = {options.steps}, {jax.devices()[0].device_kind}, JAX {jax.__version__}"
    )
    compiled = {name: compile_pass(*p, x) for name, p in passes.items()}
    seconds = interleaved(compiled, options.rounds)
    print_table(compiled, seconds, steps=options.steps)
    if options.out:
        store(options, compiled, seconds)


def float_passes(apply_fn, variables, x, *, steps: int) -> dict[str, tuple[Any, Any]]:
    """The network and its spiking forms, each a function and its variables."""
    read: Any = partial(spiking, apply_fn, steps=steps, nonspiking="decode")
    converted, _ = convert(apply_fn, variables, x[:1], steps=steps, nonspiking="decode")
    return {
        "ann": (apply_fn, variables),
        "fused": (read(mode="fused"), variables),
        "stepped": (read(), converted),
        "rolled": (read(unroll=False), converted),
    }


def store(options, compiled, seconds) -> None:
    """Keep what was measured, and what the file has of other steps and batches."""
    case = {"steps": options.steps, "batch": options.batch}
    rows = []
    if options.out.exists():
        rows = read_json(options.out, advice="remove it to begin anew")["rows"]
    rows = [row for row in rows if any(row[k] != v for k, v in case.items())]
    for row in timings.rows(seconds, reference="ann"):
        _, compiling, megabytes, kilobytes = compiled[row["pass"]]
        sizes = {"compile_seconds": compiling, "megabytes": megabytes}
        rows.append(case | row | sizes | {"program_kilobytes": kilobytes})
    facts = {"rounds": options.rounds, "size": options.size}
    store_numbers(options.out, rows, config=options.model, seed=0, **facts)


def print_table(
    compiled, seconds, *, steps: int | None = None, reference: str = "ann"
) -> None:
    """Print a line for each pass; ratios are to the reference in the same round."""
    wide = max(10, *map(len, compiled))
    print(
        f"{'':{wide}} median ms      x ANN   (quartiles)  ms a step  x ANN a step"
        "   compile s   temporaries MB   program kB"
    )
    for name, program in compiled.items():
        low, middle, high = timings.quartiles(seconds[name], seconds[reference])
        milliseconds = 1e3 * statistics.median(seconds[name])
        each = " " * 25
        if steps and name.split(",")[0] in STEPPED:
            each = f"{milliseconds / steps:11.1f} {middle / steps:13.3f}"
        print(
            f"{name:{wide}} {milliseconds:10.1f} {middle:10.3f}   {low:.3f}-{high:.3f}"
            f"{each} {program.compile_seconds:11.1f} {program.megabytes:16.1f} "
            f"{program.kilobytes:12.0f}"
        )


def network(name: str, batch: int, size: int):
    """Make (apply_fn, variables, inputs), random; activations in their usual range."""
    norm = "layer" if name in TEXT_MODELS or name.startswith("vit") else "batch"
    shape, key = (size, size, 3), jax.random.key(0)
    settings = Model(name=name, theta_init=4.0, norm=norm)
    model = build_model(settings, image_shape=shape)
    if name in TEXT_MODELS:
        words = jax.random.randint(key, (batch, size), 0, BERT_SIZES[name].vocabulary)
        x = jnp.stack([words, jnp.zeros_like(words), jnp.ones_like(words)], 1)
    else:
        x = jax.random.normal(key, (batch, *shape))
    variables = model.init(jax.random.key(1), x[:1], train=False)
    return lambda v, x: model.apply(v, x, train=False), variables, x


class Pass(NamedTuple):
    """A compiled program: a function of no argument, and what it took."""

    run: Callable[[], Any]
    compile_seconds: float
    megabytes: float  # of temporaries
    kilobytes: float  # of text, optimised


def compile_pass(fn, variables, x) -> Pass:
    """Compile `fn(variables, x)`."""
    started = time.perf_counter()
    compiled = jax.jit(fn).lower(variables, x).compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    megabytes = memory.temp_size_in_bytes / 1e6 if memory else float("nan")
    variables, x = jax.device_put((variables, x))
    kilobytes = len(compiled.as_text() or "") / 1e3

    def run():
        return jax.block_until_ready(compiled(variables, x))

    return Pass(run, seconds, megabytes, kilobytes)


def interleaved(compiled, rounds):
    """Measure the seconds of each pass in each round, after a warm-up."""
    return in_turns({name: p.run for name, p in compiled.items()}, rounds=rounds)


if __name__ == "__main__":
    as_script(main)
