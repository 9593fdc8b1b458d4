"""Tables of the small ViT: the usual one, and one in which everything spikes."""

from pages import table
from trained import percent

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
