"""The main job: a trained run converted, simulated, proved, and written down."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.config import to_dict
from bitsnn_jax.conversion.bias_shift import Report, convert
from bitsnn_jax.conversion.certificate import Certificate, certifier
from bitsnn_jax.conversion.spiking import OneShot, Stepped, run, spiking
from bitsnn_jax.integers import qat
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.jobs.evaluation import Evaluation, evaluate, without_spikes
from bitsnn_jax.jobs.integers import fine_tuned, lower_pixels, run_integers
from bitsnn_jax.numerics.spikes import check_steps
from bitsnn_jax.reports.conversion_page import write_report
from bitsnn_jax.runs.checkpoint import load_variables, save_variables
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import about_machine, about_run
from bitsnn_jax.runtime.files import replace_json
from bitsnn_jax.runtime.locks import alone_in
from bitsnn_jax.tracing.precision import in_float64, narrow_layers, widened
from bitsnn_jax.tracing.program import ApplyFn

SAMPLED_NEURONS = 12  # of each layer, in the raster
LARGE_COST = 0.002  # of accuracy, above which rounding asks for fine-tuning
CERTIFICATE_BATCH = 128  # at most: all codes of a batch are in memory


@alone_in("out", "conversion.json", "variables", "fixed_point")
def convert_run(
    ckpt: str | os.PathLike,
    *,
    steps: Sequence[int],
    modes: Sequence[str] = ("fused", "stepped"),
    precisions: Sequence[str] = ("float64", "float32"),
    bits: int | None = None,
    carriers: Sequence[str] = ("float32",),
    qat_epochs: int = 0,
    qat_learning_rate: float = qat.LEARNING_RATE,
    limit: int | None = None,
    directory: str | None = None,
    out: Path,
    command: str = "",
) -> dict[str, Any]:
    """Converts the network of a run for each T, evaluates, proves and reports it.

    Args:
      ckpt: run folder, of which the best checkpoint is taken; or the name of a
        trained network.
      steps: the T's to simulate.
      modes: "fused", "stepped", or both.
      precisions: of the certificates: "float64", "float32", both or none.
      bits: of a weight, for the network in integers as well; None for without.
      carriers: what those integers are computed in, see `integers.one_shot`.
      qat_epochs: to fine-tune weights for before they are rounded, see `qat.tune`: for
        the T that is saved. 0 for rounding alone.
      qat_learning_rate: the first one, positive.
      limit: look at the first test images only.
      directory: of the data; None for where the run had them.
      out: folder for the spiking network, `conversion.json` and the report.
      command: that was given, for the report.

    Returns:
      What is in `conversion.json`, see `bitsnn_jax.reports.conversion_page.SCHEMA`.

    Raises:
      ValueError: steps, limit or what begins with qat out of range, a network without
        QCFS, and what `load_run`, `convert`, `lower` and `fixed_point` raise.
      OSError: data that cannot be read, or a folder that cannot be written, or that
        another process works in.
    """
    for t in steps:
        check_steps(t, jnp.float32)
    if qat_epochs < 0:
        raise ValueError(f"qat_epochs must be at least 0, got {qat_epochs}")
    if qat_epochs and bits is None:
        raise ValueError("qat_epochs needs fixed-point: it fine-tunes those weights")
    if not 0 < qat_learning_rate < 1:  # of a weight between -1 and 1
        raise ValueError(
            f"qat_learning_rate must be above 0 and below 1, got {qat_learning_rate}"
        )
    apply_fn, trained = load_ann(ckpt)
    config, variables = trained.config, trained.variables
    if config.model.activation != "qcfs":
        raise ValueError(
            f"{ckpt} was trained with {config.model.activation}: expected a network "
            f"trained with qcfs; train.py makes one with --config.start_from={ckpt}"
        )
    if directory is not None:
        config.data.directory = directory
    examples = data.load(config.data, "test").first(limit)
    native = config.steps if config.steps in steps else steps[0]
    networks, untuned, tuning = [], [], None
    if bits is not None:  # before anything is written, since there may be none
        graph = lower_pixels(apply_fn, variables, examples)
        networks = _rounded(graph, steps, bits)
        if qat_epochs:
            untuned = networks
            graph, tuning = fine_tuned(
                graph,
                config.data,
                steps=native,
                bits=bits,
                epochs=qat_epochs,
                learning_rate=qat_learning_rate,
                seed=config.seed,
            )
            networks = _rounded(graph, steps, bits)
    image = jax.ShapeDtypeStruct((1, *examples.image_shape), jnp.float32)
    conversion = convert(apply_fn, variables, image, steps=native)
    # Stopped from here on, the folder has no figures rather than those of another SNN.
    (out / "conversion.json").unlink(missing_ok=True)
    folder = out / "variables"
    save_variables(
        folder,
        jax.tree.map(np.asarray, conversion.variables),
        {**trained.metadata, "steps": native, "checkpoint_step": trained.step},
    )
    saved, _ = load_variables(folder)

    ann = evaluate(without_spikes(apply_fn), variables, config.data, examples)
    print(f"{config.name}: {len(examples)} test images, ANN {ann.accuracy:.2%}")
    print(_HEAD, flush=True)
    rows = []
    for t in sorted(set(steps)):
        converted = (
            saved
            if t == native
            else convert(apply_fn, variables, image, steps=t).variables
        )
        row = _row(apply_fn, variables, converted, config, examples, t, modes)
        row["certificate"] = {
            precision: certify(
                apply_fn, variables, converted, config.data, examples, t, precision
            )
            for precision in precisions
        }
        rows.append(row)
        print(_line(row), flush=True)

    integers = None
    if networks:
        integers = run_integers(
            networks,
            config.data,
            examples,
            carriers=carriers,
            native=native,
            out=out / "fixed_point",
            before=untuned,
        )
        integers["qat"] = tuning
        snn, rounded = (
            next(row for row in table if row["steps"] == native)
            for table in (rows, integers["steps"])
        )
        _warn_of_cost(snn, rounded, integers["bits"])

    results = {
        "run": {
            **about_run(trained, command),
            "steps": config.steps,
            "levels": config.model.levels,
            "config": to_dict(config),
        },
        "machine": about_machine(),
        "examples": len(examples),
        "ann": {
            "accuracy": ann.accuracy,
            "milliseconds_per_example": ann.milliseconds_per_example,
        },
        "steps": rows,
        "conversion": _conversion(conversion.report),
        "fixed_point": integers,
        "raster": _raster(apply_fn, saved, config.data, examples, native),
    }
    if jax.process_index() > 0:
        return results
    replace_json(out / "conversion.json", results)
    page = write_report(results, out / "report")
    print(f"spiking network {folder}\nreport {page}")
    return results


def _rounded(graph, steps, bits):
    return [fixed_point(graph, steps=t, bits=bits) for t in sorted(set(steps))]


def _warn_of_cost(row, integers, bits):
    """Says so where the integers are right less often than the float SNN."""
    snn = next(row[mode]["accuracy"] for mode in ("stepped", "fused") if mode in row)
    cost = snn - integers["accuracy"]
    if cost > LARGE_COST:
        print(
            f"weights of {bits} bits cost {100 * cost:.2f} points at T = "
            f"{row['steps']}: fine-tune them (longer) with --qat_epochs"
        )


def _row(apply_fn, variables, converted, config, examples, steps, modes):
    """What the re-quantised ANN and the spiking network do at T steps."""

    def requantised(variables, x):
        reading = OneShot(steps=steps, saturate=False)
        output = run(reading, apply_fn, variables, x)
        return output, reading.stats()

    ann = evaluate(requantised, variables, config.data, examples)
    row = {
        "steps": steps,
        "levels": 2**steps - 1,
        "requantised": config.model.levels != 2**steps - 1,
        "ann_accuracy": ann.accuracy,
    }
    for mode in modes:
        snn_fn = spiking(apply_fn, steps=steps, mode=mode)
        weights = converted if mode == "stepped" else variables
        snn = evaluate(snn_fn, weights, config.data, examples)
        row[mode] = _summary(snn, ann)
        row["layers"] = [
            {
                "path": path,
                "neurons": int(snn.stats.neurons[path]) // len(examples),
                "spikes": (spikes / snn.stats.neurons[path]).tolist(),
            }
            for path, spikes in snn.stats.spikes.items()
        ]
    return row


def _summary(snn: Evaluation, ann: Evaluation) -> dict[str, Any]:
    return {
        "accuracy": snn.accuracy,
        "spikes_per_neuron": float(snn.stats.spikes_per_neuron),
        "milliseconds_per_example": snn.milliseconds_per_example,
        "compile_seconds": snn.compile_seconds,
        "predictions_differing": int(np.sum(snn.predictions != ann.predictions)),
    }


def certify(apply_fn, variables, converted, settings, examples, steps, precision):
    """The certificate of the saved network, or in float64 of its exact counterpart."""
    size = _even_batch(len(examples))
    batches = data.eval_batches(settings, examples, batch_size=size)
    # The rows that only fill up the last batch are no examples.
    images = (batch["image"][batch["mask"]].astype(precision) for batch in batches)
    with jax.enable_x64(precision == "float64"):
        if precision == "float64":  # biases shifted in float32 would not be exact
            variables = in_float64(variables)
            image = jax.ShapeDtypeStruct((1, *examples.image_shape), np.float64)
            if narrow_layers(apply_fn, variables, image):  # as with model.dtype
                apply_fn = widened(apply_fn)
            converted = convert(apply_fn, variables, image, steps=steps).variables
        compare = certifier(apply_fn, variables, converted, steps=steps)
        first = compare(next(images))
        return _certificate(sum(map(compare, images), first))


def _even_batch(count):
    """The largest batch without a smaller last one, which would compile anew."""
    even = [n for n in range(1, CERTIFICATE_BATCH + 1) if count % n == 0]
    return max(even) if max(even) > CERTIFICATE_BATCH // 8 else CERTIFICATE_BATCH


def _certificate(certificate: Certificate) -> dict[str, Any]:
    return {
        "exact": certificate.exact,
        "examples": certificate.examples,
        "examples_differing": certificate.examples_differing,
        "neurons": certificate.neurons,
        "differing": certificate.differing,
        "largest_output_difference": certificate.largest_output_difference,
        "outputs_agree": certificate.outputs_agree,
        "layers": [
            {"path": path, **layer._asdict()}
            for path, layer in certificate.layers.items()
        ],
    }


def _conversion(report: Report) -> dict[str, Any]:
    return {
        "changed": [shift._asdict() for shift in report.changed],
        "neurons": [
            {
                "path": layer.path,
                "shape": list(layer.shape[1:]),
                "theta": _theta(np.asarray(layer.theta)),
                "levels": layer.levels,
            }
            for layer in report.neurons
        ],
        "nonspiking": [operation._asdict() for operation in report.nonspiking],
        "analog": [
            {**layer._asdict(), "shape": layer.shape[1:]} for layer in report.analog
        ],
        "bias_shift": "parameters",
    }


def _theta(theta):
    if theta.ndim == 0:
        return float(theta)
    low, high = float(theta.min()), float(theta.max())
    return {"min": low, "max": high, "channels": theta.size}


class _Rastered(Stepped):
    """Keeps the spikes of some neurons of each layer, evenly spread."""

    def __init__(self, **options):
        super().__init__(**options)
        self.rasters = []

    def observe(self, site, membrane, spikes, code, delta):
        super().observe(site, membrane, spikes, code, delta)
        trains = spikes.reshape(self.steps, -1).T
        count = min(SAMPLED_NEURONS, len(trains))
        self.rasters.append(trains[np.linspace(0, len(trains) - 1, count).astype(int)])


def _raster(apply_fn: ApplyFn, variables: Any, settings, examples, steps: int):
    """The spikes of the first image."""
    layers: list[tuple[str, int]] = []

    @jax.jit
    def simulate(variables, x):
        reading = _Rastered(steps=steps)
        logits = run(reading, apply_fn, variables, x)
        layers[:] = [(site.path, int(np.prod(site.shape))) for site in reading.sites]
        return logits[0], reading.rasters

    example = data.as_evaluated(settings, examples, 0)
    image = example["image"]
    logits, rasters = simulate(variables, data.normalise(image[None], examples))
    return {
        "example": 0,
        "label": int(example["label"]),
        "prediction": int(np.argmax(logits)),
        "image": np.squeeze(image).tolist(),
        "steps": steps,
        "layers": [
            {
                "path": path,
                "neurons_total": total,
                "spikes": trains.astype(int).tolist(),
            }
            for (path, total), trains in zip(layers, rasters, strict=True)
        ],
        "logits": np.asarray(logits, float).tolist(),
    }


_HEAD = (
    " T     L      ANN    fused  stepped  spikes/neuron  "
    "differing codes float64, float32"
)


def _line(row: dict[str, Any]) -> str:
    accuracies = [row["ann_accuracy"]]
    accuracies += [
        row[m]["accuracy"] if m in row else None for m in ("fused", "stepped")
    ]
    shown = "".join("        -" if a is None else f"{a:9.2%}" for a in accuracies)
    spikes = next(row[m]["spikes_per_neuron"] for m in ("stepped", "fused") if m in row)
    found = [
        f"{row['certificate'][p]['differing']} of {row['certificate'][p]['neurons']}"
        if p in row["certificate"]
        else "-"
        for p in ("float64", "float32")
    ]
    return (
        f"{row['steps']:2} {row['levels']:5}{shown} {spikes:14.3f}  {', '.join(found)}"
    )
