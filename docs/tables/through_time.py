"""Tables of directly trained networks beside converted ones: experiments/direct.py."""

import statistics
from collections.abc import Callable

from claims import grouped
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
    return sorted(
        grouped(rows, "method").items(),
        key=lambda pair: -statistics.fmean(_values(pair[1], "accuracy")),
    )


def _values(rows, key):
    return [row[key] for row in rows]


def _typical(
    rows, key, form=short, *, of: Callable[[list[float]], float] = statistics.fmean
) -> str:
    """What the seeds have that measured it."""
    values = [value for value in _values(rows, key) if value is not None]
    return form(of(values)) if values else "–"


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
            _typical(found, "spikes_per_neuron", "{:.3f}".format),
            _typical(found, "synaptic_operations"),
            _typical(found, "nanojoules"),
            # Times, of which one may have been taken on a busy machine.
            _typical(found, "qcfs_steps", "{:.2f}".format, of=statistics.median),
            _typical(found, "step_megabytes", of=statistics.median),
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
