"""The card of a trained network: its numbers, and the same as a page to read."""

from typing import Any

from flax.traverse_util import flatten_dict

from bitsnn_jax.config import Config, differences, from_dict, to_dict
from bitsnn_jax.results.conversion import ConversionResult, StepsResult
from bitsnn_jax.results.training import TrainingResult
from bitsnn_jax.runs.checkpoint import CheckpointError, Run

# Of the accuracies of one network on two machines, which add in different orders.
_ROUNDING = 0.002


def make_card(
    name: str,
    run: Run,
    result: TrainingResult,
    conversion: ConversionResult | None,
    *,
    command: str,
    hardware: str,
) -> dict[str, Any]:
    """Collect what is known of a run, for JSON.

    Args:
      name: of the network.
      run: its best checkpoint.
      result: what is in `result.json`.
      conversion: what is in `conversion.json`; None of a network without QCFS, which
        methods of conversion start from.
      command: with which it was trained.
      hardware: on which; "" for what JAX calls it.

    Raises:
      CheckpointError: a result or a conversion that is not of this checkpoint, or is of
        other test images than the result; a conversion that sends no bits.
    """
    found = {"result.json": (result.step, result.config)}
    examples, rows = None, []
    if conversion:
        if conversion.coding != "bits":
            raise CheckpointError(
                f"conversion.json is of a network that sends {conversion.coding}: run "
                "convert.py again, without --coding"
            )
        of = conversion.run
        found["conversion.json"] = (of.checkpoint_step, of.config)
        examples, rows = conversion.examples, [_row(r) for r in conversion.steps]
    ours = to_dict(run.config)
    for file, (step, config) in found.items():
        if step != run.step or differences(to_dict(from_dict(config)), ours):
            raise CheckpointError(
                f"{file} is not of the best checkpoint, that of step {run.step}, but "
                f"of step {step} or another config: run convert.py again"
            )
    there = result.test.accuracy
    here = conversion.ann.accuracy if conversion else there
    if abs(here - there) > _ROUNDING:
        raise CheckpointError(
            f"conversion.json has accuracy {here} on {examples} test images, "
            f"result.json {there}: run convert.py again, without --limit"
        )
    return {
        "name": name,
        "step": run.step,
        "metadata": {**run.metadata, "config": to_dict(run.config)},
        "training": {
            "command": command,
            "hardware": hardware or f"{result.num_devices} x {result.device}",
            "seconds": result.seconds,
            "validation_accuracy": result.validation_accuracy,
        },
        "test": {
            "examples": examples,
            "accuracy": there,
            "steps": rows,
        },
    }


def _row(row: StepsResult) -> dict[str, Any]:
    if row.snn is None:
        raise CheckpointError(
            f"conversion.json has neither mode at T = {row.steps}: run convert.py again"
        )
    return {
        "steps": row.steps,
        "levels": row.levels,
        "mode": "stepped" if row.stepped else "fused",
        "ann_accuracy": row.ann_accuracy,
        "snn_accuracy": row.snn.accuracy,
        "spikes_per_neuron": row.snn.spikes_per_neuron,
        "differing": {
            precision: [found.differing, found.neurons]
            for precision, found in (row.certificate or {}).items()
        },
    }


def to_markdown(card: dict[str, Any]) -> str:
    """Write the page of a card."""
    metadata, training, test = card["metadata"], card["training"], card["test"]
    config = from_dict(metadata["config"])
    shape = "x".join(map(str, metadata["image_shape"]))
    lines = [
        f"# {card['name']}",
        "",
        f"`{config.model.name}` on `{config.data.name}` ({shape}, "
        f"{config.model.num_classes} classes), activation `{config.model.activation}`"
        f"{f' with L = {config.model.levels}' if test['steps'] else ''}.",
        "",
        *(_as_snn(card) if test["steps"] else _as_source(card)),
        *_measured(card),
        "",
        "## Training",
        "",
        "| | |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in _facts(card, config)),
        "",
    ]
    if training["command"]:
        lines += [f"    {training['command']}", ""]
    changed = _changed(config)
    if changed:
        lines += ["What its config sets otherwise than the defaults:", ""]
        lines += ["| field | value |", "|---|---|", *changed, ""]
    return "\n".join(lines)


def _as_snn(card):
    test = card["test"]
    return [
        f"    python convert.py --ckpt {card['name']}",
        "",
        f"## Accuracy on {test['examples']:,} test images",
        "",
        f"The trained network: **{test['accuracy']:.2%}**. Re-quantised to L = 2^T - 1 "
        "(ANN), and as a spiking network of T steps (SNN):",
        "",
        "| T | L | ANN | SNN | spikes/neuron | differing codes |",
        "|---|---|---|---|---|---|",
        *map(_line, test["steps"]),
        *_at_once(test["steps"]),
    ]


def _at_once(rows):
    """Which rows did not simulate every spike, if others did."""
    fused = [str(row["steps"]) for row in rows if row["mode"] == "fused"]
    if fused:
        yield ""
        yield f"At T = {', '.join(fused)} codes were computed at once (mode `fused`)."


def _as_source(card):
    return [
        f"Accuracy on the test images: **{card['test']['accuracy']:.2%}**. It has no "
        "QCFS, so it is nothing to convert: other methods start from it, in "
        "`python compare.py`.",
    ]


def _measured(card):
    """Say where accuracies come from, if not from training and conversion at once."""
    if "measured" not in card:
        return
    of = card["measured"]
    yield ""
    yield (
        f"The trained network, measured again on {of['machine']} with JAX {of['jax']}: "
        f"**{of['accuracy']:.2%}** (commit {of['commit']}, {of['time'][:10]})."
    )


def _line(row):
    differing = "; ".join(
        f"{found:,} of {neurons:,} ({precision})"
        for precision, (found, neurons) in row["differing"].items()
    )
    return (
        f"| {row['steps']} | {row['levels']} | {row['ann_accuracy']:.2%} | "
        f"{row['snn_accuracy']:.2%} | {row['spikes_per_neuron']:.3f} | "
        f"{differing or '-'} |"
    )


def _facts(card, config):
    metadata, training = card["metadata"], card["training"]
    accuracy = training["validation_accuracy"]
    yield "epochs", config.optimizer.epochs
    yield "seed", config.seed
    yield "best step", card["step"]
    if accuracy is not None:
        yield "validation accuracy", f"{accuracy:.2%}"
    yield "time", _duration(training["seconds"])
    yield "hardware", training["hardware"]
    yield "version, commit", f"{metadata['version']}, {metadata['commit']}"
    if "origin" in card:
        yield "origin", card["origin"]
    if "start" in metadata:
        start = metadata["start"]
        yield "started from", f"{start['run']}, step {start['step']}"


def _duration(seconds):
    """
    >>> _duration(5025)
    '1 h 24 min'
    >>> _duration(59.8)
    '60 s'
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _changed(config):
    ours, default = (flatten_dict(to_dict(c), sep=".") for c in (config, Config()))
    return [f"| `{k}` | `{v!r}` |" for k, v in ours.items() if v != default[k]]
