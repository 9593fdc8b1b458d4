"""A PyTorch checkpoint made a spiking network at once, with thresholds from images."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.conversion.bias_shift import convert
from bitsnn_jax.conversion.calibration import CAPS, calibrate_network
from bitsnn_jax.conversion.spiking import spiking
from bitsnn_jax.jobs.certify import certificates
from bitsnn_jax.jobs.evaluation import without_spikes
from bitsnn_jax.jobs.measure import on_examples
from bitsnn_jax.jobs.sources import BATCH, Network, TorchSource
from bitsnn_jax.numerics.spikes import check_steps
from bitsnn_jax.results.imported import ImportedAtSteps, ImportResult
from bitsnn_jax.runs.checkpoint import FOLDER as CHECKPOINTS
from bitsnn_jax.runs.checkpoint import CheckpointError, Checkpoints
from bitsnn_jax.runs.loading import ann_fn
from bitsnn_jax.runs.provenance import about_machine, commit, run_metadata
from bitsnn_jax.runtime.columns import table
from bitsnn_jax.runtime.files import replace_json, replaced_folder
from bitsnn_jax.runtime.locks import work_folder
from bitsnn_jax.version import __version__


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How to find thresholds, what to measure, and where to write it.

    Attributes:
      out: folder for the networks and `import.json`.
      calibrate: folder of images to find thresholds with.
      steps: the T's.
      method: of `calibrate_network`.
      per_channel: a threshold for each channel.
      precisions: of the certificates.
      command: that was given, for the record.

    Raises:
      ValueError: steps out of range.
    """

    out: Path
    calibrate: str | os.PathLike
    steps: Sequence[int] = (4, 6, 8)
    method: str = "mse"
    per_channel: bool = False
    precisions: Sequence[str] = ("float64",)
    command: str = ""

    def __post_init__(self) -> None:
        for t in self.steps:
            check_steps(t, jnp.float32)


def import_network(source: TorchSource, options: ImportOptions) -> ImportResult:
    """Import a network, calibrate and convert it for each T, and compare.

    The thresholds are those of `calibrate_network`, found anew for each T, since the
    best place to clip depends on the number of levels. Compared are the spiking network
    and the one that was imported: how often both say the same (top-1 agreement, which
    needs no labels), and code by code with the quantised ANN.

    Args:
      source: the checkpoint, and images to compare on.
      options: what to do.

    Returns:
      What is in `import.json`. `out` is the run folder of the network that is quantised
      for the largest T, `out/ann` that of the imported one: either can be fine-tuned
      (`--config.start_from`), and the first converted again (`convert.py --ckpt`).

    Raises:
      ValueError: what does not fit; OSError: what cannot be read or written.
    """
    out = options.out
    with work_folder(out, replaces=(CHECKPOINTS, "import.json")):
        _check_free(out)
        imported = source.load()
        seen = source.images(options.calibrate)
        print(
            f"{source.model}: {len(seen)} images to calibrate with, "
            f"{len(imported.examples)} to compare on",
            flush=True,
        )
        quantised, rows = _rows(imported, seen, options)
        results = _result(source, options, rows, len(seen), len(imported.examples))
        _save(out / "ann", imported)
        _save(out, quantised)
        replace_json(out / "import.json", results)
        print(table([_HEAD, *map(_cells, rows)], names=0))
        print(f"quantised for T = {quantised.config.steps} {out}")
        print(f"imported {out / 'ann'}")
        return results


def _rows(
    imported: Network, seen: data.Examples, options: ImportOptions
) -> tuple[Network, list[ImportedAtSteps]]:
    """Compute a row for each T, and the network quantised for the last of them."""
    plain_fn = without_spikes(imported.apply_fn)
    ann = on_examples(imported, plain_fn, imported.variables, repeats=1)
    quantised, rows = imported, []
    for t in sorted(set(options.steps)):
        quantised = _quantised(imported, seen, options, steps=t)
        rows.append(_row(quantised, ann.predictions, options))
        print(f"T = {t}: top-1 as the ANN {rows[-1].agreement:.1%}", flush=True)
    return quantised, rows


def _quantised(
    imported: Network, seen: data.Examples, options: ImportOptions, *, steps: int
) -> Network:
    """Build the network with QCFS for T steps, its thresholds from the images."""
    model = dataclasses.replace(
        imported.config.model,
        activation="qcfs",
        levels=2**steps - 1,
        per_channel=options.per_channel,
    )
    config = dataclasses.replace(imported.config, model=model, steps=steps)
    apply_fn = ann_fn(config, seen.image_shape)
    batches = data.eval_batches(config.data, seen, batch_size=min(BATCH, len(seen)))
    variables = calibrate_network(
        apply_fn,
        imported.variables,
        [b["image"][b["mask"]] for b in batches],
        method=options.method,
        cap=CAPS.get(imported.config.model.activation),
    )
    return dataclasses.replace(
        imported, apply_fn=apply_fn, variables=variables, config=config
    )


def _row(
    quantised: Network, expected: np.ndarray, options: ImportOptions
) -> ImportedAtSteps:
    """Compare what the spiking network says with what the imported one said."""
    steps = quantised.config.steps
    converted = convert(
        quantised.apply_fn, quantised.variables, quantised.placeholder, steps=steps
    ).variables
    snn_fn = spiking(quantised.apply_fn, steps=steps)
    snn = on_examples(quantised, snn_fn, converted, repeats=1)
    return ImportedAtSteps(
        steps=steps,
        agreement=float(np.mean(snn.predictions == expected)),
        spikes_per_neuron=float(snn.stats.spikes_per_neuron),
        milliseconds_per_example=snn.milliseconds_per_example,
        certificate=certificates(
            quantised, converted, steps=steps, precisions=options.precisions
        ),
    )


def _result(
    source: TorchSource,
    options: ImportOptions,
    rows: Sequence[ImportedAtSteps],
    seen: int,
    shown: int,
) -> ImportResult:
    return ImportResult(
        checkpoint=Path(source.path).name,
        model=source.model,
        method=options.method,
        per_channel=options.per_channel,
        calibrated_on=seen,
        compared_on=shown,
        same_images=Path(source.pictures) == Path(options.calibrate),
        steps=tuple(rows),
        version=__version__,
        commit=commit(),
        command=options.command,
        machine=about_machine(),
    )


def _save(folder: Path, network: Network) -> None:
    """Write a run that is over before its first step."""
    optimizer = {"count": np.zeros((), np.int32)}  # Orbax takes no empty tree
    metadata = run_metadata(network.config, network.examples.image_shape)
    with replaced_folder(folder / CHECKPOINTS) as new:
        with Checkpoints(folder, folder=new.name) as checkpoints:
            checkpoints.save(
                0,
                variables=network.variables,
                optimizer=optimizer,
                progress={},
                metadata=metadata,
            )


def _check_free(folder: Path) -> None:
    """Raise CheckpointError if a run is there that has been trained."""
    for path in (folder / CHECKPOINTS, folder / "ann" / CHECKPOINTS):
        steps = {step.name for step in path.glob("*") if step.name.isdigit()}
        if steps - {"0"}:
            raise CheckpointError(
                f"{path} holds the steps of a run that was trained: give another --out"
            )


def _cells(row: ImportedAtSteps) -> list[str]:
    found = [
        f"{proof.differing} of {proof.neurons} ({precision})"
        for precision, proof in row.certificate.items()
    ]
    return [
        f"{row.steps}",
        f"{row.agreement:.1%}",
        f"{row.spikes_per_neuron:.3f}",
        f"{row.milliseconds_per_example:.0f}",
        ", ".join(found) or "-",
    ]


_HEAD = ["T", "as the ANN", "spikes/neuron", "ms", "differing codes"]
