"""A network of another framework made spiking at once, with thresholds from images."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.conversion.bias_shift import Report, convert
from bitsnn_jax.conversion.spiking import spiking
from bitsnn_jax.jobs.certify import certificates
from bitsnn_jax.jobs.evaluation import Evaluation, without_spikes
from bitsnn_jax.jobs.measure import on_examples
from bitsnn_jax.jobs.sources import BATCH, ImportSource, Network, Thresholds
from bitsnn_jax.numerics.codings import coding_of
from bitsnn_jax.numerics.spikes import check_steps
from bitsnn_jax.results.conversion import NonspikingOperation
from bitsnn_jax.results.imported import ImportedAtSteps, ImportResult
from bitsnn_jax.runs.provenance import about_machine, commit
from bitsnn_jax.runtime.columns import table
from bitsnn_jax.runtime.files import replace_json
from bitsnn_jax.runtime.locks import work_folder
from bitsnn_jax.tracing.reading import Nonspiking
from bitsnn_jax.version import __version__


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How to find thresholds, what to measure, and where to write it.

    Attributes:
      out: folder for the networks and `import.json`.
      calibrate: folder of images to find thresholds with.
      steps: the T's.
      method: of `quantise`.
      per_channel: a threshold for each channel.
      sequential, correct_biases: of `quantise`.
      precisions: of the certificates.
      coding: of the spikes, as in `spiking`.
      command: that was given, for the record.

    Raises:
      ValueError: steps out of range, or an unknown coding.
    """

    out: Path
    calibrate: str | os.PathLike
    steps: Sequence[int] = (4, 6, 8)
    method: str = "mse"
    per_channel: bool = False
    sequential: bool = False
    correct_biases: bool = False
    precisions: Sequence[str] = ("float64",)
    coding: str = "bits"
    command: str = ""

    def __post_init__(self) -> None:
        before = coding_of(self.coding).before
        for t in self.steps:
            check_steps(t, jnp.float32, before=before)


def import_network(source: ImportSource, options: ImportOptions) -> ImportResult:
    """Import a network, calibrate and convert it for each T, and compare.

    The thresholds are found anew for each T, since the best place to clip depends on
    the number of levels. Compared are the spiking network and the one that was
    imported: how often both say the same (top-1 agreement, which needs no labels), how
    often they are right if the folders of the images are the classes, and code by code
    with the quantised ANN.

    Args:
      source: the network, and images to compare on.
      options: what to do.

    Returns:
      What is in `import.json`. The source also saves the network that is quantised for
      the largest T, see there.

    Raises:
      ValueError: what does not fit; OSError: what cannot be read or written.
    """
    out = options.out
    with work_folder(out, replaces=(*source.saves, "import.json")):
        source.check_free(out)
        imported = source.load()
        seen = source.images(options.calibrate)
        print(
            f"{source.model}: {len(seen)} images to calibrate with, "
            f"{len(imported.examples)} to compare on",
            flush=True,
        )
        quantised, found = _measured(source, imported, seen, options)
        results = _result(source, options, found, len(seen), len(imported.examples))
        said = source.save(out, imported, quantised)
        replace_json(out / "import.json", results)
        print(table([_head(results), *_cells(results)], names=0))
        if results.left:
            print(f"without spikes: {', '.join(_counted(results.left))}")
        print(said)
        return results


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A row for each T, and what is the same for all of them."""

    rows: Sequence[ImportedAtSteps]
    accuracy: float | None
    neurons: int
    left: Sequence[Nonspiking]


def _measured(
    source: ImportSource, imported: Network, seen: data.Examples, options: ImportOptions
) -> tuple[Network, _Measured]:
    """Compute a row for each T, and the network quantised for the last of them."""
    plain_fn = without_spikes(imported.apply_fn)
    ann = on_examples(imported, plain_fn, imported.variables, repeats=1)
    settings = imported.config.data
    batches = data.eval_batches(settings, seen, batch_size=min(BATCH, len(seen)))
    images = [data.normalise(b["image"][b["mask"]], seen) for b in batches]
    quantised, rows, report = imported, [], None
    for t in sorted(set(options.steps)):
        how = Thresholds(
            steps=t,
            method=options.method,
            per_channel=options.per_channel,
            sequential=options.sequential,
            correct_biases=options.correct_biases,
        )
        quantised = source.quantised(imported, images, how)
        row, report = _row(quantised, ann, options)
        rows.append(row)
        print(f"T = {t}: top-1 as the ANN {row.agreement:.1%}", flush=True)
    assert report is not None  # there are steps
    return quantised, _Measured(
        rows=rows,
        accuracy=ann.accuracy if _labelled(imported) else None,
        neurons=len(report.neurons),
        left=report.nonspiking,
    )


def _labelled(network: Network) -> bool:
    """Tell whether the folders of the images can be the classes of the network."""
    classes = network.examples.num_classes
    return classes > 1 and classes == network.config.model.num_classes


def _row(
    quantised: Network, ann: Evaluation, options: ImportOptions
) -> tuple[ImportedAtSteps, Report]:
    """Compare what the spiking network says with what the imported one said."""
    steps, nonspiking = quantised.config.steps, quantised.nonspiking
    converted, report = convert(
        quantised.apply_fn,
        quantised.variables,
        quantised.placeholder,
        steps=steps,
        nonspiking=nonspiking,
    )
    snn_fn = spiking(
        quantised.apply_fn, steps=steps, nonspiking=nonspiking, coding=options.coding
    )
    snn = on_examples(quantised, snn_fn, converted, repeats=1)
    row = ImportedAtSteps(
        steps=steps,
        agreement=float(np.mean(snn.predictions == ann.predictions)),
        accuracy=snn.accuracy if _labelled(quantised) else None,
        spikes_per_neuron=float(snn.stats.spikes_per_neuron),
        milliseconds_per_example=snn.milliseconds_per_example,
        certificate=certificates(
            quantised,
            converted,
            steps=steps,
            precisions=options.precisions,
            coding=options.coding,
        ),
    )
    return row, report


def _result(
    source: ImportSource,
    options: ImportOptions,
    found: _Measured,
    seen: int,
    shown: int,
) -> ImportResult:
    return ImportResult(
        checkpoint=source.checkpoint,
        model=source.model,
        method=options.method,
        per_channel=options.per_channel,
        sequential=options.sequential or options.method == "output",
        correct_biases=options.correct_biases,
        coding=options.coding,
        calibrated_on=seen,
        compared_on=shown,
        same_images=Path(source.pictures) == Path(options.calibrate),
        ann_accuracy=found.accuracy,
        neuron_layers=found.neurons,
        left=tuple(NonspikingOperation(**op._asdict()) for op in found.left),
        steps=tuple(found.rows),
        version=__version__,
        commit=commit(),
        command=options.command,
        machine=about_machine(),
    )


def _head(results: ImportResult) -> list[str]:
    right = [] if results.ann_accuracy is None else ["top-1"]
    return ["T", "as the ANN", *right, "spikes/neuron", "ms", "differing codes"]


def _cells(results: ImportResult) -> Iterator[list[str]]:
    if results.ann_accuracy is not None:
        yield ["ANN", "", f"{results.ann_accuracy:.1%}", "", "", ""]
    for row in results.steps:
        found = [
            f"{proof.differing} of {proof.neurons} ({precision})"
            for precision, proof in row.certificate.items()
        ]
        yield [
            f"{row.steps}",
            f"{row.agreement:.1%}",
            *([] if row.accuracy is None else [f"{row.accuracy:.1%}"]),
            f"{row.spikes_per_neuron:.3f}",
            f"{row.milliseconds_per_example:.0f}",
            ", ".join(found) or "-",
        ]


def _counted(left: Sequence[NonspikingOperation]) -> list[str]:
    """Name operations, with the first of the modules that they stand in."""
    places: dict[str, list[str]] = {}
    for each in left:
        places.setdefault(each.operation, []).append(each.path)
    return [
        f"{operation} in {found[0] or 'the program'}"
        + (f" and {len(found) - 1} more" if len(found) > 1 else "")
        for operation, found in places.items()
    ]
