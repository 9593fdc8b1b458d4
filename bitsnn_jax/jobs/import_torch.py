"""A PyTorch checkpoint made a spiking network at once, with thresholds from images."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.config import Config, Data
from bitsnn_jax.conversion.bias_shift import convert
from bitsnn_jax.conversion.calibration import CAPS, calibrate_network
from bitsnn_jax.conversion.spiking import spiking
from bitsnn_jax.interop.torch_files import read_state_dict
from bitsnn_jax.interop.torch_networks import TORCHVISION, from_torch, num_classes
from bitsnn_jax.jobs.convert import certify
from bitsnn_jax.jobs.evaluation import evaluate, without_spikes
from bitsnn_jax.numerics.spikes import check_steps
from bitsnn_jax.runs.checkpoint import FOLDER as CHECKPOINTS
from bitsnn_jax.runs.checkpoint import CheckpointError, Checkpoints
from bitsnn_jax.runs.loading import ann_fn
from bitsnn_jax.runs.provenance import about_machine, commit, run_metadata
from bitsnn_jax.runtime.columns import table
from bitsnn_jax.runtime.files import replace_json, replaced_folder
from bitsnn_jax.runtime.locks import alone_in
from bitsnn_jax.version import __version__

BATCH = 20  # pictures of an evaluation, over all devices


@alone_in("out", CHECKPOINTS, "import.json")
def import_network(
    checkpoint: str | os.PathLike,
    *,
    model: str,
    calibrate: str | os.PathLike,
    pictures: str | os.PathLike | None = None,
    steps: Sequence[int] = (4, 6, 8),
    size: int = 224,
    method: str = "mse",
    per_channel: bool = False,
    precisions: Sequence[str] = ("float64",),
    limit: int | None = None,
    out: Path,
    command: str = "",
) -> dict[str, Any]:
    """Imports a network, calibrates and converts it for each T, and compares.

    The thresholds are those of `calibrate_network`, found anew for each T, since the
    best place to clip depends on the number of levels. Compared are the spiking network
    and the one that was imported: how often both say the same (top-1 agreement, which
    needs no labels), and code by code with the quantised ANN.

    Args:
      checkpoint: what `read_state_dict` reads.
      model: a name in `TORCHVISION`.
      calibrate: folder of images to find thresholds with.
      pictures: folder of other images to compare on; by default the same.
      steps: the T's.
      size: side of the images.
      method: of `calibrate_network`.
      per_channel: a threshold for each channel.
      precisions: of the certificates.
      limit: first images only, of both folders.
      out: folder for the networks and `import.json`.
      command: that was given, for the record.

    Returns:
      What is in `import.json`. `out` is the run folder of the network that is quantised
      for the largest T, `out/ann` that of the imported one: either can be fine-tuned
      (`--config.start_from`), and the first converted again (`convert.py --ckpt`).

    Raises:
      ValueError: what does not fit; OSError: what cannot be read or written.
    """
    for t in steps:
        check_steps(t, jnp.float32)
    if model not in TORCHVISION:
        raise ValueError(
            f"model must be one of {', '.join(TORCHVISION)}; got {model!r}"
        )
    _check_free(Path(out))
    if size < 32:  # what these networks halve five times
        raise ValueError(f"size must be at least 32 pixels, got {size}")
    seen, shown = (
        data.load_pictures(folder, size=size).first(limit)
        for folder in (calibrate, pictures or calibrate)
    )
    tensors = read_state_dict(checkpoint)
    settings = Data(name="image_folder", image_size=size, eval_batch_size=BATCH)
    classes = num_classes(tensors, TORCHVISION[model])
    source = Config(
        name=f"{model}_torch",
        data=settings,
        model=dataclasses.replace(TORCHVISION[model], num_classes=classes),
    )
    imported = from_torch(tensors, source.model, image_shape=seen.image_shape)
    source_fn = ann_fn(source, seen.image_shape)
    ann = evaluate(without_spikes(source_fn), imported, settings, shown, repeats=1)
    print(
        f"{model}: {len(seen)} images to calibrate with, {len(shown)} to compare on",
        flush=True,
    )
    rows, config, variables = [], source, imported
    for t in sorted(set(steps)):
        config = _quantised(source, steps=t, per_channel=per_channel)
        apply_fn = ann_fn(config, seen.image_shape)
        batches = data.eval_batches(settings, seen, batch_size=min(BATCH, len(seen)))
        variables = calibrate_network(
            apply_fn,
            imported,
            [b["image"][b["mask"]] for b in batches],
            method=method,
            cap=CAPS.get(source.model.activation),
        )
        image = jax.ShapeDtypeStruct((1, *seen.image_shape), jnp.float32)
        converted = convert(apply_fn, variables, image, steps=t).variables
        row = _compared(apply_fn, converted, settings, shown, ann.predictions, t)
        row["certificate"] = {
            p: certify(apply_fn, variables, converted, settings, shown, t, p)
            for p in precisions
        }
        rows.append(row)
        print(f"T = {t}: top-1 as the ANN {row['agreement']:.1%}", flush=True)
    results = {
        "checkpoint": Path(checkpoint).name,
        "model": model,
        "method": method,
        "per_channel": per_channel,
        "calibrated_on": len(seen),
        "compared_on": len(shown),
        "same_images": pictures is None,
        "steps": rows,
        "version": __version__,
        "commit": commit(),
        "command": command,
        "machine": about_machine(),
    }
    _save(out / "ann", source, imported, seen.image_shape)
    _save(out, config, variables, seen.image_shape)
    replace_json(out / "import.json", results)
    print(table([_HEAD, *map(_cells, rows)], names=0))
    print(f"quantised for T = {config.steps} {out}\nimported {out / 'ann'}")
    return results


def _quantised(source, *, steps, per_channel):
    model = dataclasses.replace(
        source.model, activation="qcfs", levels=2**steps - 1, per_channel=per_channel
    )
    return dataclasses.replace(source, model=model, steps=steps)


def _compared(apply_fn, variables, settings, examples, expected, steps):
    """What the spiking network says, beside what the imported one said."""
    snn_fn = spiking(apply_fn, steps=steps)
    snn = evaluate(snn_fn, variables, settings, examples, repeats=1)
    return {
        "steps": steps,
        "agreement": float(np.mean(snn.predictions == expected)),
        "spikes_per_neuron": float(snn.stats.spikes_per_neuron),
        "milliseconds_per_example": snn.milliseconds_per_example,
    }


def _save(folder, config, variables, image_shape):
    """A run that is over before its first step."""
    optimizer = {"count": np.zeros((), np.int32)}  # Orbax takes no empty tree
    metadata = run_metadata(config, image_shape)
    with replaced_folder(folder / CHECKPOINTS) as new:
        with Checkpoints(folder, folder=new.name) as checkpoints:
            checkpoints.save(
                0,
                variables=variables,
                optimizer=optimizer,
                progress={},
                metadata=metadata,
            )


def _check_free(folder):
    """CheckpointError if a run is there that has been trained."""
    for path in (folder / CHECKPOINTS, folder / "ann" / CHECKPOINTS):
        steps = {step.name for step in path.glob("*") if step.name.isdigit()}
        if steps - {"0"}:
            raise CheckpointError(
                f"{path} holds the steps of a run that was trained: give another --out"
            )


def _cells(row):
    found = [
        f"{c['differing']} of {c['neurons']} ({p})"
        for p, c in row["certificate"].items()
    ]
    return [
        f"{row['steps']}",
        f"{row['agreement']:.1%}",
        f"{row['spikes_per_neuron']:.3f}",
        f"{row['milliseconds_per_example']:.0f}",
        ", ".join(found) or "-",
    ]


_HEAD = ["T", "as the ANN", "spikes/neuron", "ms", "differing codes"]
