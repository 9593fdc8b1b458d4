"""The main job: a trained network converted, simulated, proved, and written down.

source -> load -> build -> save -> measure -> report
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import structs

from bitsnn_jax.config import to_dict
from bitsnn_jax.conversion.bias_shift import Conversion, convert
from bitsnn_jax.jobs.changes import changes_of
from bitsnn_jax.jobs.evaluation import without_spikes
from bitsnn_jax.jobs.gallery import Gallery
from bitsnn_jax.jobs.hardware import measure_hardware
from bitsnn_jax.jobs.integers import (
    IntegerOptions,
    Rounded,
    measure_integers,
    round_weights,
)
from bitsnn_jax.jobs.measure import measure_at, on_examples, spikes_of_first
from bitsnn_jax.jobs.numbers import of_images
from bitsnn_jax.jobs.places import attention_spikes
from bitsnn_jax.jobs.sources import Network, Source
from bitsnn_jax.numerics.codings import coding_of
from bitsnn_jax.numerics.spikes import check_steps
from bitsnn_jax.reports.conversion_page import write_report
from bitsnn_jax.reports.scores import named, with_unit
from bitsnn_jax.reports.verdict import apart_in_words, outside_in_words
from bitsnn_jax.results.conversion import (
    AnnResult,
    ConversionResult,
    ConvertedRun,
    IntegersAtSteps,
    IntegersResult,
    StepsResult,
)
from bitsnn_jax.runs.checkpoint import load_variables, save_variables
from bitsnn_jax.runs.provenance import about_machine, about_run
from bitsnn_jax.runtime.files import replace_json
from bitsnn_jax.runtime.locks import work_folder
from bitsnn_jax.tracing.attention import attention

LARGE_COST = 0.002  # of the score, above which rounding asks for fine-tuning


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What to measure, and where to write it.

    Attributes:
      out: folder for the spiking network, `conversion.json` and the report.
      steps: the T's to simulate.
      modes: "fused", "stepped", or both.
      precisions: of the certificates: "float64", "float32", both or none.
      integers: the network in integers as well; None for without.
      coding: of the spikes, as in `spiking`.
      command: that was given, for the report.

    Raises:
      ValueError: steps out of range, an unknown coding, or one that chips were not
        compared in.
    """

    out: Path
    steps: Sequence[int]
    modes: Sequence[str] = ("fused", "stepped")
    precisions: Sequence[str] = ("float64", "float32")
    integers: IntegerOptions | None = None
    coding: str = "bits"
    command: str = ""

    def __post_init__(self) -> None:
        before = coding_of(self.coding).before
        for t in self.steps:
            check_steps(t, jnp.float32, before=before)
        if before and self.integers and self.integers.targets:
            raise ValueError(
                f"target {', '.join(self.integers.targets)} is compared with neurons "
                f"that send bits, got coding {self.coding!r}: leave one of both out"
            )

    @property
    def each_step(self) -> list[int]:
        """The T's, in order."""
        return sorted(set(self.steps))


def convert_source(source: Source, options: ConvertOptions) -> ConversionResult:
    """Convert a trained network for each T; evaluate, prove and report it.

    Args:
      source: of a network with QCFS.
      options: what to do.

    Returns:
      What is in `conversion.json`.

    Raises:
      ValueError: a network without QCFS, and what the source, `convert`, `lower` and
        `fixed_point` raise.
      OSError: data that cannot be read, or a folder that cannot be written, or that
        another process works in.
    """
    replaces = ("conversion.json", "variables", "fixed_point")
    with work_folder(options.out, replaces=replaces):
        built = _build(source.load(), options)
        saved = _save(built, options)
        results = _measure(built, saved, options)
        if jax.process_index() == 0:
            replace_json(options.out / "conversion.json", results)
            page = write_report(results, options.out / "report")
            print(f"spiking network {options.out / 'variables'}\nreport {page}")
        return results


@dataclass(frozen=True, kw_only=True)
class _Built:
    """A network, its conversion at the T that is saved, its integers."""

    network: Network
    native: int
    conversion: Conversion
    integers: Rounded | None


def _build(network: Network, options: ConvertOptions) -> _Built:
    """Do all that may turn out to be impossible, before anything is written."""
    trained = network.config.steps
    native = trained if trained in options.steps else options.steps[0]
    integers = None
    if options.integers:
        integers = round_weights(
            network, options.integers, steps=options.each_step, native=native
        )
    conversion = _converted(network, steps=native)
    return _Built(
        network=network, native=native, conversion=conversion, integers=integers
    )


def _converted(network: Network, *, steps: int) -> Conversion:
    return convert(
        network.apply_fn,
        network.variables,
        network.placeholder,
        steps=steps,
        nonspiking=network.nonspiking,
    )


def _save(built: _Built, options: ConvertOptions) -> Any:
    """Write the spiking network; return its variables as they are read again."""
    # Stopped from here on, the folder has no figures rather than those of another SNN.
    (options.out / "conversion.json").unlink(missing_ok=True)
    network, folder = built.network, options.out / "variables"
    about: dict[str, Any] = {"steps": built.native, "checkpoint_step": network.step}
    if built.conversion.report.nonspiking:  # `load_snn` needs to know
        about["nonspiking"] = network.nonspiking
    if coding_of(options.coding).before:
        about["coding"] = options.coding
    save_variables(
        folder,
        jax.tree.map(np.asarray, built.conversion.variables),
        {**network.metadata, **about},
    )
    return load_variables(folder)[0]


def _measure(built: _Built, saved: Any, options: ConvertOptions) -> ConversionResult:
    network, config = built.network, built.network.config
    ann_fn, gallery = without_spikes(network.apply_fn), Gallery(network)
    ann = on_examples(network, ann_fn, network.variables)
    gallery.add("ANN", ann_fn, network.variables)
    count, noun = len(network.examples), network.task.noun
    print(f"{config.name}: {count} test {noun}, ANN {named(ann.score, ann.measure)}")
    changes = changes_of(network, built.conversion.report)
    if changes.nonspiking:
        print(f"{outside_in_words(changes)}, see the report")
    rows = _rows(built, saved, options, gallery)
    found = attention(network.apply_fn, network.variables, network.placeholder)
    integers = _measured_integers(built, options)
    sent: Any = {"steps": built.native, "coding": options.coding}
    if integers:
        at_native = _at(built.native, rows), _at(built.native, integers.steps)
        _warn_of_cost(*at_native, integers.bits, tunable=of_images(network.task))
    return ConversionResult(
        run=ConvertedRun(
            **structs.asdict(about_run(network, options.command)),
            steps=config.steps,
            levels=config.model.levels,
            config=to_dict(config),
        ),
        machine=about_machine(),
        examples=count,
        ann=AnnResult(
            accuracy=ann.score,
            milliseconds_per_example=ann.milliseconds_per_example,
            measures=ann.others,
        ),
        steps=tuple(rows),
        conversion=changes,
        fixed_point=integers,
        raster=spikes_of_first(network, saved, found=found, **sent),
        attention=attention_spikes(network, found, **sent) if found else None,
        coding=options.coding,
        noun=noun,
        measure=ann.measure,
        answers=network.task.answers,
        gallery=gallery.pictures(),
    )


def _measured_integers(built: _Built, options: ConvertOptions) -> IntegersResult | None:
    network = built.network
    if not (built.integers and options.integers):
        return None
    integers = measure_integers(
        built.integers,
        network,
        carriers=options.integers.carriers,
        native=built.native,
        out=options.out / "fixed_point",
        coding=options.coding,
    )
    if not options.integers.targets:
        return integers
    hardware = measure_hardware(
        built.integers.networks,
        network.config.data,
        network.examples,
        names=options.integers.targets,
    )
    return structs.replace(integers, hardware=hardware)


def _rows(
    built: _Built, saved: Any, options: ConvertOptions, gallery: Gallery
) -> list[StepsResult]:
    """Compute a row for each T, printed as soon as it is there."""
    network, rows = built.network, []
    task = network.task
    print(_HEAD, flush=True)
    for t in options.each_step:
        converted = saved
        if t != built.native:
            converted = _converted(network, steps=t).variables
        row = measure_at(
            network,
            converted,
            steps=t,
            modes=options.modes,
            precisions=options.precisions,
            gallery=gallery,
            coding=options.coding,
        )
        rows.append(row)
        print(_line(row, task.score), flush=True)
        if row.snn and row.snn.apart:
            count = len(network.examples)
            print(f"    {apart_in_words(row.snn, count, task.noun, task.answers)}")
    return rows


def _at(steps, rows):
    return next(row for row in rows if row.steps == steps)


def _warn_of_cost(
    row: StepsResult, integers: IntegersAtSteps, bits: int, *, tunable: bool
) -> None:
    """Say so where the integers are right less often than the float SNN."""
    assert row.snn is not None  # some mode was run
    cost = row.snn.accuracy - integers.accuracy
    if cost > LARGE_COST:
        advice = ": fine-tune them (longer) with --qat_epochs"
        print(
            f"weights of {bits} bits cost {100 * cost:.2f} points at T = {row.steps}"
            f"{advice if tunable else ''}"
        )


_HEAD = (
    " T     L      ANN    fused  stepped  spikes/neuron  "
    "differing codes float64, float32"
)


def _line(row: StepsResult, measure: str) -> str:
    accuracies = [row.ann_accuracy]
    accuracies += [mode.accuracy if mode else None for mode in (row.fused, row.stepped)]
    shown = "".join(
        f"{'-' if a is None else with_unit(a, measure):>9}" for a in accuracies
    )
    assert row.snn is not None  # some mode was run
    proofs = [(row.certificate or {}).get(p) for p in ("float64", "float32")]
    found = [f"{p.differing} of {p.neurons}" if p else "-" for p in proofs]
    return (
        f"{row.steps:2} {row.levels:5}{shown} {row.snn.spikes_per_neuron:14.3f}  "
        f"{', '.join(found)}"
    )
