"""The comparison: every method on one checkpoint, row by row, stopped and gone on with.

What is fair is decided here. Each method starts from the network its authors train,
with the same architecture and data; the steps it needs before its output may be read
are counted; accuracy is that on the same test images.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.comparators import METHODS
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.simulation import simulate
from bitsnn_jax.comparators.structure import Structure, structure
from bitsnn_jax.integers.energy import Profile, energy, profile
from bitsnn_jax.integers.operations import NodeOperations, Operations
from bitsnn_jax.jobs.compare_images import (
    BATCH,
    batches,
    calibration_images,
    each_batch,
)
from bitsnn_jax.jobs.compare_networks import Ann, load_source, other_runs
from bitsnn_jax.reports.comparison_page import checked
from bitsnn_jax.runs.loading import find_run
from bitsnn_jax.runs.provenance import about_machine, about_run
from bitsnn_jax.runtime.devices import split_over_devices
from bitsnn_jax.runtime.files import replace_json
from bitsnn_jax.runtime.locks import alone_in
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.tracing.fan_out import fan_out


@alone_in("out", "compare.json")
def compare(
    ckpt: str | os.PathLike,
    *,
    methods: Sequence[str] = (),
    steps: Sequence[int] = (1, 2, 4, 8, 16, 32),
    relu: str | None = None,
    clipped_relu: str | None = None,
    seeds: Sequence[int] = (0,),
    limit: int | None = None,
    batch: int = BATCH,
    directory: str | None = None,
    profile_name: str = "mixed",
    out: Path,
    command: str = "",
) -> dict[str, Any]:
    """Runs methods on one checkpoint, at each T, and writes down what they reach.

    What is in `out` already is not computed again, if it is of the same networks and
    images. A method that fails is written down with its error; the others go on.

    Args:
      ckpt: run folder or name of a network trained with QCFS.
      methods: names in `METHODS`; all of them by default.
      steps: the T's, warm-up not counted.
      relu, clipped_relu: runs or names of the same network trained with these; by
        default `ckpt` + "_relu", "_clipped", where there is such a run or name.
      seeds: of the calibration images, for methods that depend on them.
      limit: look at the first test images only.
      batch: how many images at a time, over all devices: milliseconds depend on it.
      directory: of the data; None for where the run had them.
      profile_name: of `energy.profile`: what operations cost.
      out: folder, for `compare.json`.
      command: that was given, for the report.

    Returns:
      What is in `compare.json`; `compare_report.SCHEMA` says what.

    Raises:
      ValueError: an unknown method, steps or limit out of range, networks that do not
        belong together; CheckpointError: a network that a method needs is missing.
      OSError: data that cannot be read, or a folder that cannot be written, or that
        another process works in.
    """
    chosen = _methods(methods)
    if not steps or min(steps) < 1:
        raise ValueError(f"steps must be at least 1, got {list(steps)}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    prices = profile(profile_name)
    main = find_run(ckpt)
    if main.config.model.activation != "qcfs":
        raise ValueError(
            f"{ckpt} was trained with {main.config.model.activation}: expected a "
            "network trained with qcfs; give this one as --relu or --clipped_relu"
        )
    if directory is not None:
        main.config.data.directory = directory
    named = {"relu": relu, "clipped_relu": clipped_relu}
    others, missing = other_runs(main, str(ckpt), named, chosen, required=bool(methods))
    test = data.load(main.config.data, "test").first(limit)
    train = data.load(main.config.data, "train")
    images_of = cache(lambda seed: calibration_images(main, train, seed=seed))
    anns = {
        activation: load_source(run, source, main, test, images_of(0), batch=batch)
        for activation, (run, source) in {"qcfs": (main, str(ckpt)), **others}.items()
    }
    network = anns["qcfs"].network
    example = jax.ShapeDtypeStruct((1, *test.image_shape), jnp.float32)
    shape = structure(network.apply_fn, network.variables, example)
    synapses = fan_out(network.apply_fn, network.variables, example)
    results: dict[str, Any] = {
        "run": about_run(main, command),
        "machine": about_machine(),
        "examples": len(test),
        "batch": min(batch, len(test)),
        **shape._asdict(),
        "profile": prices.name,
        "networks": {name: ann.summary for name, ann in anns.items()},
        "methods": {},
        "rows": [],
        "failed": [],
    }
    file = out / "compare.json"
    _go_on(results, file)
    print(_HEAD, flush=True)
    for method in chosen:
        results["failed"] = [
            f for f in results["failed"] if f["method"] != method.name
        ] + [f for f in missing if f["method"] == method.name]
        if method.trained_with not in anns:
            print(f"{method.name:14} {results['failed'][-1]['error']}", flush=True)
            continue
        case = _Case(method, anns[method.trained_with], shape, synapses, prices)
        run_of = cache(partial(_run, case))  # compiled once for all seeds
        for seed in seeds if method.seeds else seeds[:1]:
            try:
                images = images_of(seed)
                shown = partial(batches, main.config.data, test, size=batch)
                rows = _rows(case, run_of, seed, steps, results, images, shown)
                for row in rows:
                    results["rows"].append(row)
                    replace_json(file, results)
                    print(_line(row), flush=True)
            except (ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
                # One method must not stop the rest.
                text = " ".join(str(error).split())
                failed = {"method": method.name, "steps": None, "error": text}
                results["failed"].append(failed)
                print(f"{method.name:14} failed: {text}", flush=True)
    _order(results)
    replace_json(file, results)
    return results


def _order(results: dict[str, Any]) -> None:
    """As one call would have it, whatever the calls; unknown methods come last."""
    known = [name for name in METHODS if name in results["methods"]]
    results["methods"] = dict.fromkeys(known) | results["methods"]
    order = list(results["methods"])
    results["rows"].sort(
        key=lambda r: (order.index(r["method"]), r["steps"], r["seed"])
    )


def _methods(names: Sequence[str]) -> list[Method]:
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(
            f"methods must be of {', '.join(METHODS)}; got {', '.join(unknown)}"
        )
    return [METHODS[name] for name in names or METHODS]


class _Case(NamedTuple):
    """A method on its network."""

    method: Method
    ann: Ann
    structure: Structure
    synapses: Mapping[str, Any]
    prices: Profile


def _rows(case: _Case, run_of, seed, steps, results, images, shown) -> Iterator[dict]:
    """The rows that are not there yet."""
    method = case.method
    there = {(r["method"], r["steps"], r["seed"]) for r in results["rows"]}
    todo = []
    for t in sorted(set(steps)):
        reason = method.can(t)
        if reason:
            failed = {"method": method.name, "steps": t, "error": reason}
            if failed not in results["failed"]:
                results["failed"].append(failed)
        elif (method.name, t, seed) not in there:
            todo.append(t)
    if not todo:
        return
    # Each T is a run of its own, but for methods that pass by every T.
    at_once = method.neuron(todo[-1]).on_the_way and not method.for_one
    for last, readouts in [(todo[-1], todo)] if at_once else [(t, [t]) for t in todo]:
        started = time.perf_counter()
        found = {}
        if method.prepare is not None:
            found = method.prepare(case.ann.network, images, last)
        prepared = time.perf_counter() - started
        reached = _reached(run_of(last), found, case.ann, shown())
        results["methods"][method.name] = {
            "title": method.title,
            "source": method.source,
            "trained_with": method.trained_with,
            "seconds": prepared,
        }
        for t in readouts:
            yield _row(case, seed, t, last, reached)


def _run(case: _Case, steps: int):
    """((variables, found), x) -> guesses, spikes, synaptic operations, on all devices.

    What was found is an argument, and no constant: each seed has its own.
    """
    neuron = case.method.neuron(steps)

    @split_over_devices
    def run(given, x):
        variables, found = given
        simulate_fn = simulate(
            case.ann.network.apply_fn,
            neuron,
            steps=steps,
            found=found,
            fan_out=case.synapses,
        )
        made = simulate_fn(variables, x)
        spikes = sum(made.spikes.values())
        return jnp.argmax(made.outputs, -1), spikes, made.synaptic_operations

    return run


class _Reached(NamedTuple):
    """For one image: at each read-out [T], or the last [1]; spikes up to each step."""

    accuracy: np.ndarray
    agreement: np.ndarray
    spikes: np.ndarray
    operations: np.ndarray
    seconds: float


def _reached(run, found, ann: Ann, shown) -> _Reached:
    sums: Any = 0.0
    right: Any = 0
    equal: Any = 0
    seen = 0
    results, median = each_batch(run, (ann.network.variables, found), shown)
    for (guesses, *counts), label in results:
        guesses = np.concatenate(guesses, -1)
        expected = ann.predictions[seen : seen + len(label)]
        right = right + np.sum(guesses == label, 1)
        equal = equal + np.sum(guesses == expected, 1)
        sums = sums + np.cumsum(np.sum(np.asarray(counts, float), 1), 1)
        seen += len(label)
    spikes, operations = sums / seen
    return _Reached(right / seen, equal / seen, spikes, operations, median)


def _row(case: _Case, seed: int, t: int, last: int, reached: _Reached) -> dict:
    shape, neuron = case.structure, case.method.neuron(last)
    window = neuron.window(t)
    read = -1 if t == last else t - 1
    sent = min(neuron.length(t), last) - 1
    spikes, operations = reached.spikes[sent], reached.operations[sent]
    return {
        "method": case.method.name,
        "steps": t,
        "window": window,
        "until_output": neuron.until_output(t, shape.depth),
        "seed": seed,
        "accuracy": float(reached.accuracy[read]),
        "agreement": float(reached.agreement[read]),
        "spikes_per_neuron": float(spikes / shape.neurons),
        "synaptic_operations": float(operations),
        "nanojoules": _nanojoules(shape, window, spikes, operations, case.prices),
        "milliseconds": 1e3 * reached.seconds * window / neuron.window(last),
    }


def _nanojoules(shape: Structure, window, spikes, operations, prices) -> float:
    """Of one example: what the neurons of any method have in common.

    The image is multiplied once, whatever the number of steps. Each neuron takes a bias
    and a comparison at each step. Shifts of a spike's weight are not counted.
    """
    node = NodeOperations(
        "network",
        "neurons",
        shape.neurons,
        synaptic_operations=round(operations),
        multiply_accumulates=shape.multiply_accumulates,
        bias_additions=window * shape.neurons,
        compares=window * shape.neurons,
        resets=round(spikes),
    )
    return 1e9 * energy(Operations((node,), 1, window), prices).total


_SAME = ("run", "examples", "batch", "neurons", "depth", "profile")


def _go_on(results: dict[str, Any], file: Path) -> None:
    """Takes over the rows of an earlier call, if it was of the same."""
    if not file.exists():
        return
    advice = "expected what compare.py wrote; remove it to begin anew"
    before = read_json(file, advice=advice)
    try:
        checked(before, "it")
    except ValueError as error:
        raise ValueError(f"{file} is not whole ({error}): {advice}") from error
    same = all(_identity(before.get(k)) == _identity(results[k]) for k in _SAME)
    there, now = before["networks"], results["networks"]  # those that methods need
    same &= all(_identity(there[k]) == _identity(now[k]) for k in there if k in now)
    if not same:
        raise ValueError(
            f"{file} is of other networks or images: remove it, or give another --out"
        )
    results["networks"] = before["networks"] | results["networks"]
    for field in ("methods", "rows", "failed"):
        results[field] = before[field]
    print(f"{len(results['rows'])} rows are in {file} already")


def _identity(value: Any) -> Any:
    """What must not differ: not times, nor the command."""
    if isinstance(value, dict):
        return {
            k: _identity(v)
            for k, v in value.items()
            if k not in ("command", "milliseconds", "version")
        }
    return value


_HEAD = (
    "method          T  window  seed  accuracy  as the ANN  spikes/neuron  "
    "synaptic operations  ms"
)


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['method']:14} {row['steps']:2} {row['window']:7} {row['seed']:5} "
        f"{row['accuracy']:9.2%} {row['agreement']:11.2%} "
        f"{row['spikes_per_neuron']:14.3f} {row['synaptic_operations']:20,.0f} "
        f"{row['milliseconds']:6.2f}"
    )
