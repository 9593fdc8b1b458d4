"""Tables of single networks: what conversion, integers and the referee found."""

from pages import table
from stored import CARDS

ORDER = (
    "resnet20_fashion_mnist",
    "resnet20_fashion_mnist_sparse",
    "resnet20_fashion_mnist_sparse_tuned",
    "vgg_fashion_mnist",
)
_LOSS = {
    "resnet20_fashion_mnist": "none",
    "resnet20_fashion_mnist_sparse": "the paper's",
    "resnet20_fashion_mnist_sparse_tuned": "`difference`, fine-tuned",
    "vgg_fashion_mnist": "none",
}
NATIVE = 4


def percent(share: float, digits: int = 2) -> str:
    return f"{share:.{digits}%}".replace("%", " %")


def at(card: dict, steps: int) -> dict:
    """The row of a card at T steps."""
    return next(r for r in card["test"]["steps"] if r["steps"] == steps)


@table("trained", "cards")
def trained(cards):
    yield "NAME", "bit-sparsity loss", "SNN, T = 4", "spikes/neuron"
    for name in ORDER:
        row = at(cards[name], NATIVE)
        yield (
            f"[{name}]({CARDS}/{name}/card.md)",
            _LOSS[name],
            percent(row["snn_accuracy"]),
            f"{row['spikes_per_neuron']:.3f}",
        )


@table("sparsity", "cards")
def sparsity(cards):
    yield (
        "network",
        "λ",
        "surrogate",
        "epochs",
        "ANN, L = 15",
        "SNN, T = 4",
        "spikes/neuron",
    )
    for name in ORDER[:3]:
        config, row = cards[name]["metadata"]["config"], at(cards[name], NATIVE)
        weight, start = (
            config["loss"]["spike_lambda"],
            cards[name]["metadata"].get("start"),
        )
        epochs = str(config["optimizer"]["epochs"])
        yield (
            f"`{name}`",
            f"{weight:g}" if weight else "0",
            f"`{config['loss']['spike_surrogate']}`" if weight else "",
            "20 + 12 + 8" if start else epochs,
            percent(cards[name]["test"]["accuracy"]),
            percent(row["snn_accuracy"]),
            f"{row['spikes_per_neuron']:.3f}",
        )


@table("by_steps", "cards")
def by_steps(cards):
    """Spikes per neuron of the trained networks against T."""
    yield "network", *(f"T = {t}" for t in (2, 3, 4, 6, 8)), "T = 8 / T = 4"
    for name in ORDER:
        spikes = {t: at(cards[name], t)["spikes_per_neuron"] for t in (2, 3, 4, 6, 8)}
        yield (
            f"`{name}`",
            *(f"{s:.3f}" for s in spikes.values()),
            f"{spikes[8] / spikes[4]:.2f}",
        )


@table("digits", "conversions.json", part="digits")
def digits(conversions):
    yield from _digits(conversions, (1, 2, 3, 4, 6, 8))


@table("digits_short", "conversions.json", part="digits")
def digits_short(conversions):
    yield from _digits(conversions, (2, 4, 8))


def _digits(conversions, shown):
    [run] = conversions
    yield (
        *("T", "L", "ANN", "fused", "stepped", "spikes/neuron"),
        *("differing codes, float64", "float32"),
    )
    for row in run["steps"]:
        if row["steps"] not in shown:
            continue
        certificate = row["certificate"]
        yield (
            str(row["steps"]),
            str(row["levels"]),
            percent(row["ann_accuracy"]),
            percent(row["fused"]["accuracy"]),
            percent(row["stepped"]["accuracy"]),
            f"{row['stepped']['spikes_per_neuron']:.3f}",
            *(
                f"{certificate[p]['differing']:,} of {certificate[p]['neurons']:,}"
                for p in ("float64", "float32")
            ),
        )


@table("certificates", "conversions.json", part="certificates")
def certificates(conversions):
    yield (
        *("network", "codes", "differing, float64", "differing, float32"),
        "predictions that differ",
    )
    for run in conversions:
        [row] = run["steps"]
        narrow, wide = row["certificate"]["float32"], row["certificate"]["float64"]
        yield (
            f"`{run['network']}`",
            f"{wide['neurons']:,}",
            f"{wide['differing']:,}",
            f"{narrow['differing']:,}",
            str(row["stepped"]["predictions_differing"]),
        )


@table("integers", "conversions.json", part="integers")
def integers(conversions):
    yield (
        *("network", "T", "accuracy, float", "in integers", "codes compared"),
        *("codes differing", "logits differing", "largest sum"),
    )
    for run in sorted(conversions, key=lambda run: ORDER.index(run["network"])):
        for real, whole in zip(run["steps"], run["fixed_point"], strict=True):
            yield (
                f"`{run['network']}`",
                str(whole["steps"]),
                percent(real["fused"]["accuracy"]),
                percent(whole["accuracy"]),
                f"{whole['codes']:,}",
                f"{whole['differing']:,}",
                f"{whole['outputs_differing']:,}",
                f"{whole['bound']:,}",
            )


@table("referee", "referee.json")
def referee(stored):
    yield "network", "sent as", "spikes", "agree", "synaptic operations", "counts"
    for row in stored["rows"]:
        random = " x 1/4, random weights" if row["network"] == "mobilenetv2" else ""
        yield (
            f"`{row['network']}`{random}",
            row["coding"].replace("_", " "),
            f"{row['spikes']:,}",
            row["difference"] or "all, and all logits",
            f"{row['synaptic_operations']:,.0f}",
            "equal" if row["counts_equal"] else "differ",
        )


@table("nir_readers", "nir_readers.json")
def nir_readers(stored):
    yield "network", "nodes", "reader", "file", "codes and outputs", "differing"
    for row in stored["rows"]:
        yield (
            f"`{row['network']}`",
            f"{row['nodes']:,}",
            f"{row['reader']} {row['version']}",
            f"`{row['file']}`",
            f"{row['compared']:,}",
            f"{row['differing']:,}",
        )


@table("onnx_runtime", "onnx_runtime.json")
def onnx_runtime(stored):
    yield "network", "T", "model", "codes", "differing", "logits", "differing"
    for row in stored:
        yield (
            f"`{row['network']}`",
            str(row["steps"]),
            row["mode"].replace("_", "-"),
            f"{row['codes']:,}",
            f"{row['differing']:,}",
            f"{row['logits']:,}",
            f"{row['logits_differing']:,}",
        )


@table("onnx_int8", "onnx_int8.json")
def onnx_int8(stored):
    yield "network", "model", "accuracy"
    for row in stored["rows"]:
        steps = f", T = {row['steps']}" if row["steps"] else ""
        yield f"`{row['network']}`", f"{row['model']}{steps}", percent(row["accuracy"])


@table("anytime", "anytime.json")
def anytime(stored):
    yield "network", "t = 1", "2", "3", "4", "mean steps", "accuracy there"
    for row in stored["rows"]:
        yield (
            f"`{row['network']}`",
            *map(percent, row["accuracy_after"]),
            f"{row['mean_steps']:.2f}",
            percent(row["accuracy"]),
        )


@table("torch", "mobilenetv2_torch.json")
def torch(stored):
    yield "T", "top-1 as the ANN", "spikes/neuron", "differing codes, float64"
    for row in stored["steps"]:
        found = row["certificate"]["float64"]
        yield (
            str(row["steps"]),
            percent(row["agreement"], 0),
            f"{row['spikes_per_neuron']:.3f}",
            f"{found['differing']:,} of {found['neurons']:,}",
        )


@table("imagenet_path", "imagenet_path.json")
def imagenet_path(stored):
    yield (
        *("status when stopped", "step saved", "test pictures", "codes"),
        "differing, float64",
    )
    for row in stored["rows"]:
        yield (
            str(row["status_when_stopped"]),
            str(row["step_saved"]),
            str(row["test_pictures"]),
            f"{row['codes']:,}",
            f"{row['differing']:,}",
        )


@table("torch_logits", "torch_logits.json")
def torch_logits(stored):
    yield (
        *("pictures", "largest difference", "largest logit", "top-1 correct"),
        "top-5 correct",
    )
    for row in stored["rows"]:
        yield (
            str(row["pictures"]),
            f"{row['largest_difference']:.1e}",
            f"{row['largest_logit']:.1f}",
            str(row["correct"]),
            str(row["among_first_five"]),
        )


@table("minilm", "minilm.json")
def minilm(stored):
    yield (
        *("tokens", "number", "largest difference", "ours from float64"),
        "transformers' from float64",
    )
    for row in stored["rows"]:
        yield (
            row["tokens"],
            str(row["count"]),
            f"{row['largest_difference']:.1e}",
            f"{row['ours_from_float64']:.1e}",
            f"{row['theirs_from_float64']:.1e}",
        )
