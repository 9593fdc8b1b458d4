"""Tables of directly trained networks beside converted ones: experiments/direct.py."""

import statistics
from collections import defaultdict

from methods import short
from pages import table
from surveys import spread

_FILE = "direct.json"
_TITLES = {
    "bit_serial": "**converted, ours**",
    "qcfs_longer": "**converted, ours**, more epochs",
    "qcfs": "converted, QCFS rate",
    "srp": "converted, SRP",
    "bos": "converted, COS",
}


def _by_accuracy(rows):
    """Rows of each method, the most accurate first; those of all seeds together."""
    found = defaultdict(list)
    for row in rows:
        found[row["method"]].append(row)
    return sorted(
        found.items(), key=lambda pair: -statistics.fmean(_values(pair[1], "accuracy"))
    )


def _values(rows, key):
    return [row[key] for row in rows]


def _mean(rows, key, form=short) -> str:
    values = _values(rows, key)
    return "–" if None in values else form(statistics.fmean(values))


def _median(rows, key, form=short) -> str:
    """What a step costs, of the seeds that measured it."""
    values = [value for value in _values(rows, key) if value is not None]
    return form(statistics.median(values)) if values else "–"


def _rows(rows):
    yield (
        *("method", "seeds", "T", "until output", "accuracy (%)", "spikes/neuron"),
        *("synaptic operations", "nJ", "a training step, in QCFS steps", "its MB"),
    )
    for method, found in _by_accuracy(rows):
        yield (
            _TITLES.get(method, f"`{method}`"),
            str(len(found)),
            str(found[0]["steps"]),
            str(found[0]["until_output"]),
            spread([100 * value for value in _values(found, "accuracy")], ".2f"),
            _mean(found, "spikes_per_neuron", "{:.3f}".format),
            _mean(found, "synaptic_operations"),
            _mean(found, "nanojoules"),
            _median(found, "qcfs_steps", "{:.2f}".format),
            _median(found, "step_megabytes"),
        )


for _name, _network in {
    "small": "small",
    "resnet20": "resnet20",
    "plif_net": "plif_net",
    "spikformer": "spikformer_small",
    "sdt_v2": "sdt_v2_small",
}.items():
    table(f"direct_{_name}", _FILE, network=_network)(_rows)


@table("direct_first_losses", "direct_gradients.json")
def first_losses(content):
    shown = (1, 2, 5, 10, 20)
    yield "method", *(f"step {step}" for step in shown)
    for row in content["rows"]:
        yield (
            f"`{row['method']}`",
            *(f"{row['losses'][step - 1]:.2f}" for step in shown),
        )


@table("direct_gradients", "direct_gradients.json")
def gradients(content):
    """Norms of the gradients, in those of the first method, from the image on."""
    rows = content["rows"]
    yield "layer", *(f"`{row['method']}`" for row in rows)
    first = rows[0]["norms"]
    for name in sorted(first, key=lambda name: (not name.startswith("stem"), name)):
        ratios = (row["norms"][name] / first[name] for row in rows[1:])
        yield (
            f"`{name.removesuffix('/conv/kernel')}`",
            f"{first[name]:.3f}",
            *(f"{ratio:,.{0 if ratio >= 100 else 1}f} x" for ratio in ratios),
        )
