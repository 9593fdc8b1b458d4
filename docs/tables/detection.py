"""Tables of detectors: experiments/detection.py, retinanet_at_512.py; boxes.py."""

from methods import short
from pages import table
from speed import ratio, time

_SCENES = {
    "float": "ANN, `{network}`",
    "spiking": "SNN, `qcfs` converted",
    "fine": "SNN, `{network}` converted",
    "calibrated": "SNN, `relu` with calibrated thresholds",
    "rate": "rate-coded SNN of `qcfs`",
}
_MEASURES = ("AP", "AP50", "AP75")


def _points(value) -> str:
    return "" if value is None else f"{100 * value:.1f}"


@table("scenes", "detection.json")
def scenes(rows):
    yield (
        *("network", "T", *_MEASURES, "spikes/neuron"),
        *("other detections, float32", "codes that differ, float64"),
        "boxes apart, float64",
    )
    order = list(_SCENES)
    for row in sorted(rows, key=lambda row: (order.index(row["part"]), row["steps"])):
        spiking = "spikes_per_neuron" in row
        yield (
            _SCENES[row["part"]].format(**row),
            str(row["steps"]) if spiking else "",
            *(_points(row["measures"].get(name)) for name in _MEASURES),
            f"{row['spikes_per_neuron']:.3f}" if spiking else "",
            f"{row['differing']} of {row['pictures']} pictures" if spiking else "",
            *(_certified_boxes(row) if "codes" in row else ("", "")),
        )


def _certified_boxes(row) -> tuple[str, str]:
    pixels = row["certified_apart"]["boxes"]
    return f"{row['codes_differing']} of {row['codes']:,}", f"{pixels:.0e} pixels"


@table("deepforest", "deepforest.json")
def deepforest(stored):
    yield "tiles", "epochs", *_MEASURES, "spikes/neuron"
    for row in stored["rows"]:
        yield (
            *(str(row["pictures"]), str(row["epochs"])),
            *(_points(row["measures"][name]) for name in _MEASURES),
            f"{row['measures']['spikes_per_neuron']:.3f}",
        )


@table("retinanet_at_512", "retinanet_at_512.json")
def retinanet_at_512(stored):
    yield "part", "seconds", "peak of memory", "what was found"
    for row in stored["rows"]:
        yield (
            row["part"],
            f"{row['seconds']:.0f}",
            f"{row['peak_gigabytes']:.1f} GB",
            _FOUND[row["part"]](row),
        )


def _converted(row) -> str:
    return (
        f"{short(row['parameters'])} parameters, {row['layers_of_neurons']} layers of "
        f"neurons, {row['biases_shifted']} biases shifted"
    )


def _certified(row) -> str:
    return (
        f"{row['codes_differing']:,} of {row['neurons']:,} codes differ in float64; "
        f"outputs by {row['largest_output_difference']:.0e}"
    )


def _counted(row) -> str:
    differing = sum(row["differing_from_int8"].values())
    passes = row["seconds_of_a_pass"]
    seconds = ", ".join(f"{name} {passed:.1f} s" for name, passed in passes.items())
    return (
        f"{differing:,} of {row['codes']:,} codes and {row['outputs']:,} outputs "
        f"differ between three ways to run it; a pass: {seconds}"
    )


_FOUND = {"conversion": _converted, "certificate": _certified, "integers": _counted}


@table("boxes", "boxes.json")
def boxes(stored):
    batches = list(dict.fromkeys(row["batch"] for row in stored["rows"]))
    heads = ((f"batch {n}, ms", "in `detect`s (quartiles)") for n in batches)
    yield "pass", *(cell for pair in heads for cell in pair)
    found = {(row["pass"], row["batch"]): row for row in stored["rows"]}
    for name in dict.fromkeys(name for name, _ in found):
        each = [found[name, batch] for batch in batches]
        yield (
            name,
            *(
                cell
                for row in each
                for cell in (time(row["milliseconds"]), ratio(row["ratio"]))
            ),
        )
