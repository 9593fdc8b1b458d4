"""Tables of MiniLM on the review sentences."""

from collections import defaultdict

from pages import table
from surveys import spread

_LEVELS = 15


def _percents(values) -> str:
    return spread([100 * v for v in values], ".2f") + " %"


def _points(values) -> str:
    return spread([100 * v for v in values], "+.2f")


def _by_seed(rows, part: str, levels: int) -> dict[int, dict]:
    return {
        row["seed"]: row
        for row in rows
        if (row["part"], row["levels"]) == (part, levels)
    }


@table("sentences", "sentences.json")
def sentences(rows):
    """The columns of the paper's Table 8, and the difference to the float network."""
    yield (
        *("network", "T", "seeds", "accuracy", "less the float network"),
        *("spikes/neuron", "predictions other than the ANN's"),
    )
    plain = _by_seed(rows, "network", 0)

    def row(name, steps, accuracies, modes=()):
        less = [value - plain[seed]["accuracy"] for seed, value in accuracies.items()]
        return (
            name,
            str(steps),
            str(len(accuracies)),
            _percents(accuracies.values()),
            _points(less) if name != "float, GELU" else "",
            spread([mode["spikes_per_neuron"] for mode in modes], ".3f")
            if modes
            else "",
            ", ".join(str(mode["predictions_differing"]) for mode in modes),
        )

    def accuracies(found):
        return {seed: one["accuracy"] for seed, one in found.items()}

    yield row("float, GELU", "", accuracies(plain))
    for levels in (255, _LEVELS):
        if found := _by_seed(rows, "calibrated", levels):
            name = f"QCFS, L = {levels}, thresholds found, not trained"
            yield row(name, "", accuracies(found))
    trained = _by_seed(rows, "network", _LEVELS)
    yield row(f"QCFS, L = {_LEVELS}, one epoch", "", accuracies(trained))
    by_steps = defaultdict(dict)
    for seed, one in trained.items():
        for at in one["steps"]:
            by_steps[at["steps"]][seed] = at["stepped"] or at["fused"]
    for steps, modes in sorted(by_steps.items()):
        found = {seed: mode["accuracy"] for seed, mode in modes.items()}
        yield row("its spiking network", steps, found, list(modes.values()))


@table("sentences_certificate", "sentences.json")
def certificate(rows):
    yield "T", "L", "sentences", "codes", "differing in float64"
    [found] = (row for row in rows if row["part"] == "certificate")
    for at in found["steps"]:
        exact = at["certificate"]["float64"]
        counts = (exact[key] for key in ("examples", "neurons", "differing"))
        yield str(at["steps"]), str(at["levels"]), *(f"{n:,}" for n in counts)
