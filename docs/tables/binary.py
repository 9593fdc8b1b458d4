"""Tables of binary networks beside the converted one: experiments/binary.py."""

import statistics

from claims import grouped
from methods import short
from pages import table
from surveys import spread

from bitsnn_jax.binary import METHODS

_FILE = "binary.json"
OURS = "qcfs"


def by_method(rows):
    """Rows of each method, all seeds together; the converted network first."""
    found = grouped(rows, "method")
    return {m: found[m] for m in (OURS, *METHODS) if m in found}


def mean(rows, *keys: str) -> float:
    """Mean over rows of what lies under these keys."""
    values = []
    for row in rows:
        for key in keys:
            row = row.get(key, 0)
        values.append(row)
    return statistics.fmean(values)


def _points(rows) -> str:
    return spread([100 * row["accuracy"] for row in rows], ".2f")


def _by_bits(rows) -> str:
    """How many logits differ between floats and XNOR and popcount."""
    if any(row.get("popcount") is None for row in rows):
        return "–"
    logits, differing = (
        sum(row["popcount"][key] for row in rows) for key in ("logits", "differing")
    )
    return f"{differing} of {logits:,}"


@table("binary_small", _FILE)
def small(rows):
    yield (
        *("network", "seeds", "accuracy (%)", "products of signs", "real products"),
        *("additions", "nJ, `paper_8`", "x ours", "nJ, `mixed`", "x ours"),
        "logits that differ by popcount",
    )
    methods = by_method(rows)
    for method, found in methods.items():
        priced = []
        for name in ("paper_8", "mixed"):
            own, ours = (
                1e9 * mean(each, "joules", name) for each in (found, methods[OURS])
            )
            priced += [f"{own:.1f}", f"{own / ours:.2f}"]
        yield (
            "**converted, ours**" if method == OURS else f"`{method}`",
            str(len(found)),
            _points(found),
            short(mean(found, "counts", "binary_products")),
            short(mean(found, "counts", "multiply_accumulates")),
            short(
                mean(found, "counts", "synaptic_operations")
                + mean(found, "counts", "bias_additions")
            ),
            *priced,
            _by_bits(found),
        )


@table("binary_additions", _FILE)
def additions(rows):
    methods = by_method(rows)
    binary = [m for m in methods if m != OURS]
    yield "profile", *(f"`{method}`" for method in binary)
    for name in ("paper_8", "mixed"):
        ours = mean(methods[OURS], "joules", name)
        ratios = (mean(methods[m], "by_additions", name) / ours for m in binary)
        yield f"`{name}`", *(f"{ratio:.2f}" for ratio in ratios)
