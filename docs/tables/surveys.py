"""Tables of many trainings or settings: losses, bits, energy."""

import statistics
from collections import defaultdict

from claims import at, grouped
from pages import table
from trained import NATIVE, ORDER, percent


def spread(values, form: str) -> str:
    """Mean and standard deviation."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:{form}}"
    return f"{mean:{form}} ± {statistics.stdev(values):{form.lstrip('+')}}"


def percents(values) -> str:
    """Mean and standard deviation of shares, in per cent."""
    return spread([100 * v for v in values], ".2f") + " %"


@table("surrogates", "regulariser.json")
def surrogates(rows):
    yield "surrogate", "λ", "seeds", "accuracy", "spikes per neuron"
    groups = defaultdict(list)
    for row in rows:
        name = row["surrogate"] if row["spike_lambda"] else "none"
        groups[name, row["spike_lambda"]].append(row["steps"][str(NATIVE)])
    order = ("none", "paper", "authors", "envelope", "difference")
    for (name, weight), found in sorted(
        groups.items(), key=lambda group: (order.index(group[0][0]), group[0][1])
    ):
        yield (
            name,
            f"{weight:.3g}",
            str(len(found)),
            percents([f["accuracy"] for f in found]),
            spread([f["spikes_per_neuron"] for f in found], ".3f"),
        )


@table("growth", "regulariser.json")
def growth(rows):
    """Spikes at T = 8 against those at T = 4."""
    yield "surrogate", "λ", "spikes/neuron, T = 4", "T = 8", "T = 8 / T = 4"
    groups = defaultdict(list)
    for row in rows:
        if row["surrogate"] in ("paper", "difference"):
            name = row["surrogate"] if row["spike_lambda"] else "none"
            spikes = [row["steps"][t]["spikes_per_neuron"] for t in "48"]
            groups[name, row["spike_lambda"]].append(spikes)
    order = ("none", "paper", "difference")
    for (name, weight), found in sorted(
        groups.items(), key=lambda group: (order.index(group[0][0]), group[0][1])
    ):
        yield (
            name,
            f"{weight:.3g}",
            *(spread([f[i] for f in found], ".3f") for i in (0, 1)),
            spread([f[1] / f[0] for f in found], ".2f"),
        )


@table("spike_weights", "spike_weights.json")
def spike_weights(rows):
    yield (
        *("λ", "`loss.spike_weights`", "seeds", "accuracy", "spikes/neuron"),
        "synaptic operations an image",
    )
    groups = grouped(rows, "spike_lambda", "spike_weights")
    for (weight, name), found in sorted(
        groups.items(), key=lambda group: (group[0][0], group[0][1] == "fan_out")
    ):
        yield (
            f"{weight:.3g}",
            f"`{name}`" if weight else "",
            str(len(found)),
            percents([f["accuracy"] for f in found]),
            spread([f["spikes_per_neuron"] for f in found], ".3f"),
            spread([f["synaptic_operations"] for f in found], ",.0f"),
        )


@table("front", "front.json")
def front(rows):
    yield (
        *("network", "accuracy", "spikes/neuron, bits"),
        *("synaptic operations: bits, T = 4", "signed digits, T = 5"),
        "one spike a code, T = 15",
    )
    ways = {"bit_serial": 4, "signed_digits": 5, "ttfs": 15}
    for name in dict.fromkeys(row["network"] for row in rows):
        found = [at(rows, network=name, method=m, steps=t) for m, t in ways.items()]
        operations = [row["synaptic_operations"] for row in found]
        bits = found[0]
        yield (
            _named(name),
            percent(bits["accuracy"]),
            f"{bits['spikes_per_neuron']:.3f}",
            f"{operations[0]:,.0f}",
            *(
                f"{n:,.0f} ({100 * (n / operations[0] - 1):+.0f} %)"
                for n in operations[1:]
            ),
        )


def _named(network: str) -> str:
    """Name a network of the package, or the loss of one that was fine-tuned."""
    folder, _, name = network.rpartition("/")
    if not folder:
        return f"`{name}`"
    model, weight, *target = name.split("_")
    return f"{model}, λ = {weight}" + "".join(f", target {t}" for t in target)


@table("by_lambda", "front.json", method="bit_serial")
def by_lambda(rows):
    steps = sorted({row["steps"] for row in rows})
    yield (
        *("network", *(f"T = {t}" for t in steps)),
        *(f"spikes, T = {t}" for t in steps),
    )
    found = {(row["network"], row["steps"]): row for row in rows}
    for name in dict.fromkeys(row["network"] for row in rows):
        cells = [found[name, t] for t in steps]
        yield (
            _named(name),
            *(percent(cell["accuracy"]) for cell in cells),
            *(f"{cell['spikes_per_neuron']:.3f}" for cell in cells),
        )


@table("signed_digits", "signed_digits.json")
def signed_digits(rows):
    yield (
        *("network", "images", "codes", "differing in float64, in integers"),
        *("logits differing in integers", "spikes/neuron: bits, digits"),
        *("synaptic operations: bits, digits", "nJ: bits, digits"),
    )
    for row in rows:
        whole, proof = row["integers"], row["certificate"]
        both = [row["bits"], row["signed_digits"]]
        yield (
            f"`{row['network']}`",
            f"{row['images']:,}",
            f"{proof['codes']:,}",
            f"{proof['differing']:,}, {whole['differing']:,}",
            f"{whole['logits_differing']:,}",
            ", ".join(f"{each['spikes_per_neuron']:.3f}" for each in both),
            ", ".join(f"{each['synaptic_operations'] / 1e6:.2f} M" for each in both),
            ", ".join(f"{each['nanojoules']:,.0f}" for each in both),
        )


@table("levels", "levels.json")
def levels(rows):
    yield (
        *("T", "L", "λ", "seeds", "ANN", "SNN", "predictions that differ"),
        "spikes per neuron",
    )
    groups = grouped(rows, "steps", "spike_lambda")
    for (steps, weight), found in sorted(groups.items()):
        yield (
            *(str(steps), str(2**steps - 1), f"{weight:.3g}", str(len(found))),
            percents([f["ann"] for f in found]),
            percents([f["accuracy"] for f in found]),
            str(sum(f["differing"] for f in found)),
            spread([f["spikes_per_neuron"] for f in found], ".3f"),
        )


@table("relu_first", "relu_first.json")
def relu_first(rows):
    yield "network", "run", "epochs", "seeds", "test accuracy"
    for network, found in grouped(rows, "network").items():
        for name, epochs in found[0]["epochs"].items():
            accuracy = percents([row["accuracy"][name] for row in found])
            yield f"`{network}`", name, str(epochs), str(len(found)), accuracy


# The ways to round, each with one thing more than the one before it.
ROUNDINGS = {
    "nearest": "nearest",
    "units": "+ units by error",
    "feedback": "+ feedback",
    "biases": "+ biases: `gptq`",
}


@table("bits", "bits.json", network="resnet20_fashion_mnist")
def bits(rows):
    yield "bits of a weight", *ROUNDINGS.values(), "fine-tuned"
    found = defaultdict(dict)
    for row in rows:
        how = "fine-tuned" if row["epochs"] else row["rounding"]
        found[row["bits"]][how] = percent(row["accuracy"])
    for number in sorted(filter(None, found), reverse=True):
        ways = (*ROUNDINGS, "fine-tuned")
        yield str(number), *(found[number].get(way, "") for way in ways)


@table("bits_networks", "bits.json")
def bits_networks(rows):
    ways = [(bits, how) for bits in (8, 4) for how in ("nearest", "biases")]
    names = {"nearest": "nearest", "biases": "`gptq`"}
    yield "network", "float", *(f"{bits} bits, {names[how]}" for bits, how in ways)
    found = defaultdict(dict)
    for row in rows:
        if not row["epochs"]:
            found[row["network"]][row["bits"], row["rounding"]] = row["accuracy"]
    lost = defaultdict(list)
    for name, of in found.items():
        cells = []
        for way in ways:
            if way not in of:  # not measured yet
                cells.append("")
                continue
            lost[way].append(100 * (of[way] - of[None, None]))
            cells.append(f"{percent(of[way])} ({lost[way][-1]:+.2f})")
        yield f"`{name}`", percent(of[None, None]), *cells
    means = [
        f"{sum(lost[way]) / len(lost[way]):+.2f}" if lost[way] else "" for way in ways
    ]
    yield "mean of the differences", "", *means


# What is tied by what, and how weights are rounded then.
TIED = {
    ("none", "float"): "float",
    ("images", "float"): "float, tied",
    ("none", "nearest"): "nearest",
    ("ratios", "nearest"): "nearest, tied by ratios",
    ("images", "nearest"): "nearest, tied",
    ("none", "gptq"): "`gptq`",
    ("images", "gptq"): "`gptq`, tied",
}


@table("ties", "ties.json")
def ties(rows):
    yield "network", "T", *TIED.values()
    found, lost = defaultdict(dict), defaultdict(list)
    for row in rows:
        if not row["epochs"]:
            way = row["ties"], row["rounding"]
            found[row["network"], row["steps"]][way] = row["accuracy"]
    for (name, steps), of in sorted(found.items(), key=lambda each: each[0]):
        cells = []
        for how, rounding in TIED:
            accuracy, untied = of.get((how, rounding)), of.get(("none", rounding))
            if accuracy is None:  # not measured yet
                cells.append("")
            elif how == "none" or untied is None:
                cells.append(percent(accuracy))
            else:
                lost[how, rounding].append(100 * (accuracy - untied))
                cells.append(f"{percent(accuracy)} ({lost[how, rounding][-1]:+.2f})")
        yield f"`{name}`", str(steps), *cells
    means = [
        f"{sum(lost[way]) / len(lost[way]):+.2f}" if lost[way] else "" for way in TIED
    ]
    yield "mean of the differences", "", *means


def _energy(name: str) -> None:
    @table(f"energy_{name}", "energy.json")
    def energy(stored):
        [found] = (row for row in stored["rows"] if row["network"] == name)
        rivals = [k for k in found["profiles"]["mixed"]["joules"] if k != "SNN"]
        yield "profile", "SNN, nJ", *rivals, "break-even"
        for profile, priced in found["profiles"].items():
            totals = {k: sum(v.values()) for k, v in priced["joules"].items()}
            yield (
                f"`{profile}`",
                f"{1e9 * totals['SNN']:,.0f}",
                *(f"{totals[rival] / totals['SNN']:.2f} x" for rival in rivals),
                f"{priced['break_even']:.3f}",
            )


for _name in ORDER:
    _energy(_name)


@table("energy_counts", "energy.json")
def energy_counts(stored):
    yield (
        *("network", "spikes/neuron", "codes that are not 0"),
        *("synaptic operations an image", "rate SNN, T = 32", "its spikes/neuron"),
    )
    for row in stored["rows"]:
        yield (
            f"`{row['network']}`",
            f"{row['spikes_per_neuron']:.3f}",
            percent(row["nonzero"], 1),
            f"{row['synaptic_operations']:,.0f}",
            percent(row["rate"]["accuracy"]),
            f"{row['rate']['spikes_per_neuron']:.3f}",
        )


@table("energy_kinds", "energy.json")
def energy_kinds(stored):
    """Shares of compute energy; memory left out."""
    kinds = list(stored["rows"][0]["profiles"]["mixed"]["by_kind"])
    yield "network", "profile", *kinds
    for row in stored["rows"]:
        for profile in ("paper_8", "mixed"):
            joules = row["profiles"][profile]["by_kind"]
            whole = sum(joules.values())
            yield (
                f"`{row['network']}`",
                f"`{profile}`",
                *(percent(joules[kind] / whole, 1) for kind in kinds),
            )
