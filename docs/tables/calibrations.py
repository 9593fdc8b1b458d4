"""Tables of the ways to find thresholds without training."""

from pages import table
from trained import percent

_NAMES = {"mse": "`mse`", "output": "`output`"}


def way(row) -> str:
    name = _NAMES[row["method"]]
    if row.get("sequential"):
        name += ", sequential"
    name += ", corrected" if row.get("correct_biases") else ""
    return f"{name}; {row['variant']}" if "variant" in row else name


def _each(row) -> str:
    return "channel" if row["per_channel"] else "layer"


@table("calibration_resnet20", "calibration_resnet20.json")
def resnet20(stored):
    yield "T", "method", "a threshold for each", "accuracy", "as the ANN", "error"
    trained, *rows = stored["rows"]
    yield "–", "the ANN itself", "–", percent(trained["accuracy"]), "–", "–"
    for row in sorted(rows, key=lambda row: row["steps"]):
        yield (
            str(row["steps"]),
            way(row),
            _each(row),
            percent(row["accuracy"]),
            percent(row["same"] / row["images"]),
            f"{row['error']:.3f}",
        )


@table("calibration_mobilenetv2", "calibration_mobilenetv2.json")
def mobilenetv2(stored):
    yield (
        *("method", "a threshold for each", "as the ANN, pictures", "error"),
        *("as the ANN, other half", "error, other half"),
    )
    rows = stored["rows"]
    for row in (row for row in rows if row["set"] == "pictures"):
        halves = [
            other
            for other in rows
            if other["set"] == "the other half"
            and (way(other), _each(other)) == (way(row), _each(row))
        ]
        same = sum(half["same"] for half in halves)
        images = sum(half["images"] for half in halves)
        mean = sum(half["error"] for half in halves) / max(1, len(halves))
        yield (
            way(row),
            _each(row),
            f"{row['same']} of {row['images']}",
            f"{row['error']:.3f}",
            f"{same} of {images}" if halves else "–",
            f"{mean:.3f}" if halves else "–",
        )
