"""Tables of transformers: MiniLM on review sentences, a small ViT in two forms."""

from collections import defaultdict

from pages import table
from surveys import percents, spread
from trained import percent

_LEVELS = 15
# Parts with spikes, and the L of their networks.
_SPIKING = {"stepped": _LEVELS, "other steps": _LEVELS, "many steps": 2**16 - 1}
_FINE = "spiking, L = 65,535, one threshold a layer, found and not trained"
_RATE = {
    "qcfs": "its rate network",
    "qcfs_layers": "its rate network, layer by layer",
}
_FORMS = {
    "vit_fashion_mnist": "softmax, LayerNorm",
    "vit_fashion_mnist_spiking": "ReLU, batch norm",
}


def _row(rows: list[dict], part: str, network: str) -> dict:
    return next(r for r in rows if (r["part"], r["network"]) == (part, network))


@table("vit", "vit.json")
def vit(rows):
    yield (
        *("attention and norms", "ANN, L = 15", "SNN, T = 4", "spikes/neuron"),
        *("modules that do not spike", "additions driven by spikes"),
        *("codes in float64", "differing"),
    )
    for name, form in _FORMS.items():
        ann, snn, exact = (
            _row(rows, part, name) for part in ("float", "spiking", "certificate")
        )
        yield (
            form,
            percent(ann["accuracy"]),
            percent(snn["accuracy"]),
            f"{snn['spikes_per_neuron']:.3f}",
            str(len(snn["nonspiking"])),
            percent(snn["driven_by_spikes"] / snn["multiplications"], 1),
            f"{exact['codes']:,}",
            f"{exact['differing']:,}",
        )


@table("vit_integers", "vit.json")
def vit_integers(rows):
    """Both in integers: the pass at once, what steps make of it, and the referee."""
    yield (
        *("attention and norms", "accuracy, 8 bits", "codes, step by step"),
        *("differing", "logits", "differing", "spikes, referee", "differing"),
    )
    for name, form in _FORMS.items():
        whole, found = _row(rows, "integers", name), _row(rows, "referee", name)
        yield (
            form,
            percent(whole["accuracy"]),
            f"{whole['codes']:,}",
            f"{whole['differing']:,}",
            f"{whole['logits']:,}",
            f"{whole['logits_differing']:,}",
            f"{found['spikes']:,}",
            "0" if found["difference"] is None else found["difference"],
        )


def _points(values) -> str:
    return spread([100 * v for v in values], "+.2f")


def _by_seed(rows, part: str, levels: int) -> dict[int, dict]:
    return {
        row["seed"]: row
        for row in rows
        if (row["part"], row["levels"]) == (part, levels)
    }


@table("sentences", "sentences.json", "transformer_rivals.json")
def sentences(rows, rivals):
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
            percents(accuracies.values()),
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
    for part, levels in _SPIKING.items():
        for seed, one in _by_seed(rows, part, levels).items():
            for at in one["steps"]:
                by_steps[at["steps"]][seed] = at.get("stepped") or at["fused"]
    for steps, modes in sorted(by_steps.items()):
        found = {seed: mode["accuracy"] for seed, mode in modes.items()}
        name = "its spiking network" if steps < 16 else _FINE
        yield row(name, steps, found, list(modes.values()))
    for method, name in _RATE.items():
        for steps in (16, 32):
            modes = {
                one["about"]["seed"]: one | {"predictions_differing": _others(one)}
                for one in rivals
                if (one["method"], one["steps"]) == (method, steps)
                and one["network"].startswith("qcfs_15")
            }
            if modes:
                yield row(name, steps, accuracies(modes), list(modes.values()))


def _others(row) -> int:
    """Count the examples on which a network says another class than its ANN."""
    return round((1 - row["agreement"]) * row["examples"])


@table("sentences_certificate", "sentences.json")
def certificate(rows):
    yield (
        *("T", "L", "seed", "sentences", "codes", "differing in float64"),
        "predictions other than the ANN's",
    )
    found = [
        (at["steps"], row["seed"], at)
        for row in rows
        if row["part"].startswith("certificate")
        for at in row["steps"]
    ]
    for steps, seed, at in sorted(found, key=lambda each: each[:2]):
        exact = at["certificate"]["float64"]
        counts = (exact[key] for key in ("examples", "neurons", "differing"))
        yield (
            *(str(steps), f"{at['levels']:,}", str(seed)),
            *(f"{n:,}" for n in counts),
            str(exact.get("predictions_differing", "")),
        )


@table("sentences_integers", "sentences.json")
def integers(rows):
    yield "sentences", "float, L = 15", "in integers", "codes", "differing", "logits"
    [found] = (row for row in rows if row["part"] == "integers")
    [at] = found["steps"]
    yield (
        f"{found['sentences']:,}",
        percent(found["ann_accuracy"]),
        percent(at["accuracy"]),
        f"{at['codes']:,}",
        f"{at['differing']:,}",
        f"{at['outputs_differing']:,} differing",
    )
    [found] = (row for row in rows if row["part"] == "referee")
    differing = found["difference"] or "0"
    yield (
        *(f"{found['sentences']:,}, the referee", "", ""),
        *(f"{found['spikes']:,} spikes", differing, ""),
    )
