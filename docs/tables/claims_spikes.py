"""The paper's claims of spikes: Figures 5 to 7."""

import statistics
from collections import defaultdict

from claims import RESNET, VGG, at, claims_of, of_all
from methods import means
from trained import percent

claim = claims_of("Spikes")


@claim(
    "Figure 5(b, c)",
    "Rate networks (QCFS, BOS) have 3.7 to 10.7 times the spikes.",
    "compare.csv",
    "cards",
    page="comparison.md",
)
def fewer_spikes(rows, cards):
    spikes = _of_the_accurate(rows)
    found = {
        method: min(each for (name, _), each in spikes.items() if name == method)
        for method in ("qcfs", "bos", "bit_serial")
    }
    sparse = _spikes(cards[f"{RESNET}_sparse_tuned"], 4)
    ratios = [found[m] / sparse for m in ("qcfs", "bos")]
    said = (
        f"above 93 % accuracy QCFS and COS have {ratios[0]:.1f} and {ratios[1]:.1f} "
        f"times those of our tuned network, {found['qcfs'] / found['bit_serial']:.1f} "
        "times those of the one without the loss"
    )
    return said, of_all([ratio > 3.7 for ratio in ratios])


@claim(
    "Abstract, Section 6.3",
    "It sends the fewest spikes of all at equal accuracy.",
    "compare.csv",
    "front.json",
    page="results.md#fewer-operations-at-equal-accuracy",
)
def fewest(rows, same_codes):
    found = _of_the_accurate(rows)
    ours = found["bit_serial", 4]
    least = min(found, key=lambda key: found[key])
    networks = {row["network"] for row in same_codes}
    saved = [
        1
        - at(same_codes, network=name, method="ttfs", steps=15)["synaptic_operations"]
        / at(same_codes, network=name, method="bit_serial", steps=4)[
            "synaptic_operations"
        ]
        for name in networks
    ]
    said = (
        f"{ours:.3f} a neuron; `{least[0]}` at T = {least[1]} {found[least]:.3f}. With "
        f"the codes of T = 4 on {len(networks)} networks, one spike a code takes "
        f"{100 * min(saved):.0f} to {100 * max(saved):.0f} % fewer operations than bits"
    )
    return said, of_all([least[0] == "bit_serial", max(saved) <= 0])


@claim(
    "Figure 5(b, c)",
    "The loss on bits sends 1.64 to 2.41 times fewer spikes at about equal accuracy.",
    "cards",
    page="results.md",
)
def regularised(cards):
    plain, tuned = cards[RESNET], cards[f"{RESNET}_sparse_tuned"]
    ratio = _spikes(plain, 4) / _spikes(tuned, 4)
    lost = 100 * (plain["test"]["accuracy"] - tuned["test"]["accuracy"])
    return f"{ratio:.2f} times, {-lost:+.2f} points", of_all([ratio > 1.64, lost < 0.2])


@claim(
    "Figure 6",
    "A larger λ costs accuracy; one can be had that hardly costs any.",
    "regulariser.json",
    page="results.md#the-loss-against-its-surrogates",
)
def lambdas(rows):
    means = _by_lambda(rows, "accuracy", "4")
    said = ", ".join(f"{percent(a)} at λ = {w:.3g}" for w, a in sorted(means.items()))
    weights = sorted(means)
    free = means[weights[1]] > means[0] - 0.003
    return said, of_all([free, means[weights[-1]] < means[0]])


@claim(
    "Figure 7",
    "Spikes a neuron hardly fall from T = 8 to 4, from 36.2 to 33.0 %.",
    "cards",
    page="results.md#spikes-against-t",
)
def hardly_fall(cards):
    ratios = {n: _spikes(cards[n], 8) / _spikes(cards[n], 4) for n in (RESNET, VGG)}
    said = ", ".join(f"{ratio:.2f}-fold (`{n}`)" for n, ratio in ratios.items())
    return f"they fall {said}", of_all([ratio < 1.2 for ratio in ratios.values()])


@claim(
    "Figure 7, A.5",
    "With the loss, spikes grow less with T than without it.",
    "regulariser.json",
    page="results.md#the-loss-against-its-surrogates",
)
def growth(rows):
    four, eight = (_by_lambda(rows, "spikes_per_neuron", t) for t in "48")
    grown = {weight: eight[weight] / four[weight] for weight in sorted(four)}
    said = ", ".join(f"{g:.2f}-fold at λ = {w:.3g}" for w, g in grown.items())
    return f"from T = 4 to 8 {said}", of_all([grown[w] < grown[0] for w in grown if w])


def _of_the_accurate(rows):
    """(method, T) -> spikes a neuron, of those above 93 %."""
    return {
        key: cell["spikes_per_neuron"]
        for key, cell in means(rows).items()
        if cell["accuracy"] > 0.93
    }


def _spikes(card, steps):
    return at(card["test"]["steps"], steps=steps)["spikes_per_neuron"]


def _by_lambda(rows, column, steps):
    """λ -> the mean of all seeds, for the paper's surrogate."""
    found = defaultdict(list)
    for row in rows:
        if row["surrogate"] == "paper" or not row["spike_lambda"]:
            found[row["spike_lambda"]].append(row["steps"][steps][column])
    return {weight: statistics.fmean(values) for weight, values in found.items()}
