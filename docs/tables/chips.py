"""Tables of docs/hardware.md: limits of chips, and what trained networks need."""

from pages import table
from trained import percent

_LIMITS = {
    "weight_bits": "weight bits",
    "accumulator_bits": "membrane bits",
    "message_bits": "message bits",
    "fan_in": "fan-in",
    "fan_out": "fan-out",
    "neurons": "neurons",
}
_NEURONS = {
    "programmable": "by a program",
    "code": "a code at once",
    "threshold": "one threshold",
}


@table("chip_limits", "targets")
def chip_limits(stored):
    yield "`--target`", "chip", *_LIMITS.values(), "neurons fire"
    for name, chip in stored["targets"].items():
        values = [chip["limits"][limit] for limit in _LIMITS]
        cells = ["–" if value is None else f"{value:,}" for value in values]
        yield f"`{name}`", chip["title"], *cells, _NEURONS[chip["neuron"]]


def _named(row) -> str:
    return f"`{row['network']}`, T = {row['steps']}"


@table("chips", "saturation.json")
def chips(stored):
    yield "chip", *(f"layers of {_named(row)}" for row in stored["rows"])
    for chips in zip(*(row["targets"] for row in stored["rows"]), strict=True):
        counts = zip(chips, stored["rows"], strict=True)
        yield (
            chips[0]["title"],
            *(f"{chip['fitting']} of {len(row['layers'])}" for chip, row in counts),
        )


@table("chip_reasons", "saturation.json")
def chip_reasons(stored):
    rows = [row for row in stored["rows"] if row["steps"] == 4]
    yield "chip", *(f"what does not fit of {_named(row)}" for row in rows)
    for chips in zip(*(row["targets"] for row in rows), strict=True):
        yield chips[0]["title"], *(chip["words"] or "nothing" for chip in chips)


@table("sums", "saturation.json")
def sums(stored):
    yield (
        *("network", "T", "`bound`", "bits", "least membrane", "largest", "bits"),
        *(f"largest on {stored['rows'][0]['images']:,} images", "bits"),
    )
    for row in stored["rows"]:
        bound = max(layer["bound"] for layer in row["layers"])
        widest = max(row["layers"], key=lambda layer: layer["high"] - layer["low"])
        seen = max(layer["largest"] for layer in row["layers"])
        yield (
            f"`{row['network']}`",
            str(row["steps"]),
            f"{bound:,}",
            str(bound.bit_length() + 1),
            f"{widest['low']:,}",
            f"{widest['high']:,}",
            str(widest["accumulator_bits"]),
            f"{seen:,}",
            str(seen.bit_length() + 1),
        )


def _membranes(overflow: str) -> None:
    @table(f"membranes_{overflow}", "saturation.json")
    def membranes(stored):
        """Accuracy, and the part of all codes that differ."""
        yield "bits", *map(_named, stored["rows"])
        columns = [
            {
                each["bits"]: each
                for each in row["membranes"]
                if each["overflow"] == overflow
            }
            for row in stored["rows"]
        ]
        for bits in columns[0]:
            found = [column[bits] for column in columns]
            yield (
                str(bits),
                *(
                    f"{percent(each['accuracy'])} "
                    f"({percent(each['codes_differing'] / each['codes'], 1)})"
                    for each in found
                ),
            )


for _overflow in ("saturate", "wrap"):
    _membranes(_overflow)
