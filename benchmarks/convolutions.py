"""How long each form of each convolution of a network takes on a CPU.

    python benchmarks/convolutions.py --model mobilenetv2 --size 224 --batch 1 [--whole]

Float32, random numbers. Every distinct convolution of the network, of its forward pass
and of both gradients, is timed alone: as `lax.conv_general_dilated`, and in each form
of `bitsnn_jax.numerics.convolution_forms` that can compute it. Runs are interleaved,
and each ratio is the median over rounds of the ratio within a round, so that the
machine's drift cancels. The rule of that file should name the fastest form, or "lax"
where none is clearly faster. --whole times a pass and a training step instead: with
lax's convolutions, and with those of the rule; with --parts, a step that takes its
batch in parts, one after the other in a loop. With --out the numbers are stored; those
of another network, size or batch stay in the file.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import timings
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from bitsnn_jax.config import Model
from bitsnn_jax.models import MODELS, build_model
from bitsnn_jax.numerics.convolution_forms import (
    FORMS,
    Convolution,
    able_forms,
    described,
    form_of,
)
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.tracing.equations import parts, shape_of
from bitsnn_jax.tracing.fast_convolutions import with_fast_convolutions
from bitsnn_jax.training.accumulate import in_parts

SHORTEST = 2e-3  # seconds of what is timed: shorter ones are repeated
RULE = "rule"  # each convolution in the form that it takes
LARGEST = 2**28  # columns in memory, numbers; larger ones are not tried


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), default="resnet20")
    parser.add_argument("--size", type=whole(1, 4096), default=32)
    parser.add_argument("--batch", type=whole(1, 2**17), default=16)
    parser.add_argument("--stem", choices=("cifar", "imagenet"), default="cifar")
    parser.add_argument("--forward", action="store_true", help="without gradients")
    parser.add_argument("--whole", action="store_true", help="a pass and a step")
    parser.add_argument(
        "--parts", type=whole(1, 1024), default=1, help="of the step of --whole"
    )
    parser.add_argument("--rounds", type=whole(2, 10**6), default=5)
    parser.add_argument("--out", type=a_path, help="JSON file that keeps the numbers")
    options = parser.parse_args()
    if options.parts > 1 and not options.whole:
        parser.error("--parts is of the step of --whole, which is missing")
    if options.batch % options.parts:
        parser.error(
            f"--parts must divide --batch, {options.batch}, got {options.parts}"
        )

    case = {
        "network": options.model,
        "size": options.size,
        "batch": options.batch,
        "stem": options.stem,
    }
    print(f"{case}, {jax.devices()[0].device_kind}, JAX {jax.__version__}")
    if options.whole:
        rows = [case | row for row in wholes(options)]
        for row in rows:
            _, gain, _ = row["ratios"][RULE]
            print(f"{row['part']}: {row['lax_milliseconds']:.1f} ms, {1 / gain:.2f}")
        if options.out:
            store(options, case, rows)
        return
    print("   ms, lax  lax / form  rule        part, x, kernel, strides")
    rows = []
    for eqn, count in convolutions(options).items():
        found = described(*(v.aval for v in eqn.invars), **eqn.params)
        row = case | measured(eqn, found, options.rounds)
        rows.append(row | {"count": count})
        gains = ", ".join(f"{f} {1 / r[1]:.2f}" for f, r in row["ratios"].items())
        print(
            f"{row['lax_milliseconds']:10.3f}  {gains:30}  {row['form']:10}  "
            f"{row['part']} {row['x']} {row['kernel']} {row['strides']}",
            flush=True,
        )
    if options.out:
        store(options, case, rows)


def network(options):
    """The model, and the shapes of its variables and of a batch."""
    shape = (options.size, options.size, 3)
    asked = Model(name=options.model, theta_init=4.0, stem=options.stem)
    model = build_model(asked, image_shape=shape)
    x = jax.ShapeDtypeStruct((options.batch, *shape), jnp.float32)
    variables = jax.eval_shape(
        lambda key, x: model.init(key, x, train=False), jax.random.key(0), x
    )
    return model, variables, x


def wholes(options) -> Iterator[dict[str, Any]]:
    """A pass and a step of training, with lax's convolutions and with the rule's."""
    model, _, shape = network(options)
    x = jax.random.normal(jax.random.key(0), shape.shape)
    variables = jax.jit(lambda key: model.init(key, x, train=False))(jax.random.key(1))

    def logits(variables, x):
        return model.apply(variables, x, train=False)

    def step(variables, x):
        def loss(params, x):
            logits, updates = model.apply(
                {**variables, "params": params},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(2)},
            )
            return jnp.mean(logits**2), updates

        def of_part(x, key):
            return jax.grad(loss, has_aux=True)(variables["params"], x), 0.0

        key = jax.random.key(3)
        (gradient, updates), _ = in_parts(of_part, x, key, parts=options.parts)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient)
        return {"params": params, **updates}

    named = "a step" if options.parts == 1 else f"a step in {options.parts} parts"
    passes = {"a pass": logits} if options.parts == 1 else {}
    for part, fn in (passes | {named: step}).items():
        passes = {"lax": fn, RULE: with_fast_convolutions(fn)}
        seconds = interleaved(
            {n: jax.jit(f).lower(variables, x).compile() for n, f in passes.items()},
            [variables, x],
            options.rounds,
        )
        yield {
            "part": part,
            "form": RULE,
            "lax_milliseconds": 1e3 * statistics.median(seconds["lax"]),
            "ratios": {RULE: timings.quartiles(seconds[RULE], seconds["lax"])},
            "count": 1,
        }


def convolutions(options) -> dict[JaxprEqn, int]:
    """The distinct convolutions of a network, and how often each stands in it."""
    model, variables, x = network(options)

    def total(params, others, x):
        logits = model.apply({"params": params, **others}, x, train=False)
        return jnp.sum(jnp.asarray(logits))

    params = variables["params"]
    others = {name: v for name, v in variables.items() if name != "params"}
    fn = total if options.forward else jax.grad(total)
    found, counts = {}, Counter()
    for eqn in _equations(jax.make_jaxpr(fn)(params, others, x)):
        if eqn.primitive is lax.conv_general_dilated_p:
            key = described(*(v.aval for v in eqn.invars), **eqn.params)
            found.setdefault(key, eqn)
            counts[key] += 1
    return {eqn: counts[key] for key, eqn in found.items()}


def _equations(program: ClosedJaxpr) -> Iterator[JaxprEqn]:
    for eqn in program.jaxpr.eqns:
        yield eqn
        for part in parts(eqn):
            yield from _equations(part)


def part_of(case: Convolution) -> str:
    """Which part of training a convolution is; all layers are channels last."""
    if case.dimensions.lhs_spec[1] == 0:
        return "kernel's gradient"
    swapped = case.dimensions.rhs_spec[1] == len(case.space) + 1
    return "input's gradient" if swapped else "forward"


def measured(eqn: JaxprEqn, case: Convolution, rounds: int) -> dict[str, Any]:
    """The time of a convolution by lax, and of each form in that time."""
    shapes = [shape_of(v) for v in eqn.invars]
    arrays = [
        jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)
    ]
    passes = {"lax": lambda x, k: lax.conv_general_dilated_p.bind(x, k, **eqn.params)}
    for name in filter(lambda name: _is_sensible(name, case), able_forms(case)):
        passes[name] = lambda x, k, name=name: FORMS[name](x, k, case)
    seconds = interleaved(
        {name: jax.jit(fn).lower(*arrays).compile() for name, fn in passes.items()},
        arrays,
        rounds,
    )
    return {
        "part": part_of(case),
        "x": list(shapes[0]),
        "kernel": list(shapes[1]),
        "strides": list(case.strides),
        "groups": max(case.groups, case.batch_groups),
        "form": form_of(case),
        "lax_milliseconds": 1e3 * statistics.median(seconds["lax"]),
        "ratios": {
            name: timings.quartiles(times, seconds["lax"])
            for name, times in seconds.items()
            if name != "lax"
        },
    }


def _is_sensible(form: str, case: Convolution) -> bool:
    """Whether a form is worth a try: not one product for each of a thousand places."""
    places, window = jnp.prod(jnp.array([case.places, case.window]), axis=1).tolist()
    if form == "placed":
        return places <= 9
    return form != "columns" or case.batch * places * window * case.inputs < LARGEST


def interleaved(
    compiled: dict[str, Callable], arrays: list[Any], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each pass in each round, after a warm-up."""

    def timed(run, times):
        started = time.perf_counter()
        jax.block_until_ready([run(*arrays) for _ in range(times)])
        return (time.perf_counter() - started) / times

    repeats, seconds = {}, {name: [] for name in compiled}
    for name, run in compiled.items():
        timed(run, 1)
        repeats[name] = 1 + int(SHORTEST / timed(run, 1))
    for _ in range(rounds):
        for name, run in compiled.items():
            seconds[name].append(timed(run, repeats[name]))
    return seconds


def store(options, case: dict[str, Any], new: list[dict[str, Any]]) -> None:
    """Keep what was measured, and what the file has of other networks."""
    rows = []
    if options.out.exists():
        rows = read_json(options.out, advice="remove it to begin anew")["rows"]
    is_whole = new[0]["form"] == RULE
    rows = [
        row
        for row in rows
        if any(row[k] != v for k, v in case.items())
        or (row["form"] == RULE) != is_whole
        or (is_whole and row["part"] not in [r["part"] for r in new])
    ]
    store_numbers(options.out, rows + new, config="all", seed=0, rounds=options.rounds)


if __name__ == "__main__":
    as_script(main)
