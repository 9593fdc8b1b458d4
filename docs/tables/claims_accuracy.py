"""The paper's claims of accuracy: Tables 1 to 5, 9, 10 and 12, Figures 1 and 4."""

import math
import statistics
from collections import defaultdict

from claims import RESNET, VGG, at, claims_of, grouped, of_all
from errors import on_most_images
from methods import means
from trained import percent

claim = claims_of("Accuracy")
IMAGES = 10_000  # of the test split of Fashion-MNIST


def _accuracies(rows):
    return {key: cell["accuracy"] for key, cell in means(rows).items()}


@claim(
    "Figure 4, Proposition II",
    "At T = log2 Q the accuracies of SNN and ANN are identical: no conversion error.",
    "conversions.json",
    page="results.md#the-certificate",
)
def exact(rows):
    proofs = [
        step["certificate"]["float64"]
        for row in rows
        if row["part"] == "certificates"
        for step in row["steps"]
    ]
    codes = sum(proof["neurons"] for proof in proofs)
    differing = sum(proof["differing"] for proof in proofs)
    said = f"{differing} of {codes:,} codes differ in float64, {len(proofs)} networks"
    return said, of_all([differing == 0])


@claim(
    "Tables 1, 9",
    "At T = 4 the network is more accurate than QCFS, OPI, BOS and radix encoding: "
    "ResNet-20 93.60 against 83.75 to 89.88 %, VGG-16 95.82 against 93.84 to 95.36 %.",
    "compare.csv",
    "compare_vgg.csv",
    page="comparison.md",
)
def best_at_four(resnet, vgg):
    parts, checks = [], []
    for name, rows in (("ResNet-20", resnet), ("VGG", vgg)):
        found = _accuracies(rows)
        ours = found.pop(("bit_serial", 4))
        rivals = {method: a for (method, t), a in found.items() if t == 4}
        best = max(rivals, key=lambda method: rivals[method])
        parts.append(
            f"{name} {percent(ours)}, the best of {len(rivals)} rivals "
            f"{percent(rivals[best])} (`{best}`)"
        )
        checks.append(ours > rivals[best])
    return "; ".join(parts), of_all(checks)


@claim(
    "Tables 1, 2, 9",
    "Also at T = 2 it is above all others, and loses little against T = 4: 6.7 points "
    "with ResNet-20, 1.6 with VGG-16; BOS needs 4 steps more.",
    "compare.csv",
    "compare_vgg.csv",
    page="comparison.md",
)
def at_two(resnet, vgg):
    parts, checks = [], []
    for name, rows in (("ResNet-20", resnet), ("VGG", vgg)):
        found = means(rows)
        ours, later = (found["bit_serial", t]["accuracy"] for t in (2, 4))
        rivals = {
            key: cell["accuracy"]
            for key, cell in found.items()
            if cell["window"] <= 2 and key[0] != "bit_serial"
        }
        best = max(rivals, key=lambda key: rivals[key])
        lost = 100 * (later - ours)
        parts.append(
            f"{name} loses {lost:.1f} points; the best of two steps has "
            f"{percent(rivals[best])} (`{best[0]}`)"
        )
        checks += [ours > rivals[best], lost < 7]
    return "; ".join(parts), of_all(checks)


@claim(
    "Tables 1, 2, 9",
    "More steps than T = 4 neither help nor harm: within 0.2 points up to T = 32.",
    "compare.csv",
    page="results.md",
)
def more_steps(rows):
    found = _accuracies(rows)
    changes = [100 * (found["bit_serial", t] - found["bit_serial", 4]) for t in (8, 16)]
    said = ", ".join(f"{change:+.2f}" for change in changes)
    checks = [abs(change) <= 0.2 for change in changes]
    return f"{said} points at T = 8 and 16", of_all(checks)


@claim(
    "Tables 1, 9",
    "QCFS at T = 8 is below the network at T = 4.",
    "compare.csv",
    "compare_vgg.csv",
    page="comparison.md",
)
def rate_at_eight(resnet, vgg):
    both = [_accuracies(rows) for rows in (resnet, vgg)]
    said = "; ".join(
        f"{percent(found['qcfs', 8])} against {percent(found['bit_serial', 4])}"
        for found in both
    )
    return said, of_all([f["qcfs", 8] < f["bit_serial", 4] for f in both])


@claim(
    "Tables 3, 10, Figure 1",
    "Networks that are trained through time are less accurate at equal T, on networks "
    "of the same size: 96.68 against at most 96.27 % on CIFAR-10.",
    "direct.json",
    page="direct_training.md",
)
def trained_through_time(rows):
    parts, checks = [], []
    for network, found in sorted(grouped(rows, "network").items()):
        said, check = _beside_the_best(found)
        parts += [f"`{network}` {said}"] if said else []
        checks += [check] if said else []
    sure = [check for check in checks if check is not None]
    if sure and len(sure) == len(checks):
        return "; ".join(parts), of_all(sure)
    return "; ".join(parts), "in part" if any(sure) else "undecided"


def _beside_the_best(rows) -> tuple[str, bool | None]:
    """Compare ours with the best that was trained through as many steps.

    Returns:
      What is found, "" if nothing was; whether ours is ahead, None within two standard
      errors, or if it is so with some seeds only.
    """
    found: dict[str, dict[int, float]] = {}  # method -> seed -> accuracy
    steps = {row["steps"] for row in rows if row["method"] == "bit_serial"}
    for row in rows:
        if row["steps"] in steps:
            found.setdefault(row["method"], {})[row["seed"]] = row["accuracy"]
    going_on = {"direct_bit_serial", "bit_serial_detached", "qcfs_longer"}
    converted = {"bit_serial", "qcfs", "srp", "bos"}
    rivals = {m: a for m, a in found.items() if m not in going_on | converted}
    if not rivals:
        return "", None
    name, theirs = max(rivals.items(), key=lambda r: statistics.fmean(r[1].values()))
    # A network of the package, which all seeds go on from, is measured once.
    source = found["bit_serial"]
    ours = {seed: source.get(seed, source[0]) for seed in theirs}
    mean = statistics.fmean(ours.values())
    margins = [100 * (ours[seed] - theirs[seed]) for seed in theirs]
    measured = len(source.keys() & theirs.keys())
    error = 100 * math.sqrt(mean * (1 - mean) / IMAGES / measured)
    margin = statistics.fmean(margins)
    best = f"{percent(statistics.fmean(theirs.values()))} (`{name}`)"
    best = f"at most {best} of {len(rivals)} methods" if len(rivals) > 1 else best
    said = (
        f"{percent(mean)} against {best}, {margin / error:.1f} standard errors, "
        f"{len(margins)} seed{'s' * (len(margins) > 1)}"
    )
    sure = abs(margin) > 2 * error and all(m * margin > 0 for m in margins)
    return said, margin > 0 if sure else None


@claim(
    "Table 4",
    "Each of left shift, BN shift and modified IF adds accuracy, all three together "
    "most: ResNet-20 at T = 2 71.4, 76.2, 76.1, 79.9, 86.9 %.",
    "ablation.json",
    page="errors.md",
)
def ablation(rows):
    cells = ("none", "modified_if", "left_shift", "left_shift_bn", "all")
    parts, checks = [], []
    for network, title in ((RESNET, "ResNet-20"), (VGG, "VGG")):
        found = on_most_images([row for row in rows if row["network"] == network])
        for t in sorted({row["steps"] for row in found}):
            shares = [at(found, steps=t, cell=cell)["accuracy"] for cell in cells]
            checks += [shares[-1] == max(shares), shares[0] == min(shares)]
            if t <= 4:
                values = ", ".join(f"{100 * s:.1f}" for s in shares)
                parts.append(f"{title}, T = {t}: {values} %")
    return f"{'; '.join(parts)}, in the order of the paper's table", of_all(checks)


@claim(
    "Table 5",
    "At T = 2, 3, 4 the SNN is 0.1 to 0.5 points below a quantised ANN of as many "
    "bits, for its loss on bits, and once above it.",
    "levels.json",
    page="results.md#as-many-levels-as-steps",
)
def quantised(rows):
    found = defaultdict(list)
    for row in rows:
        found[row["steps"], row["spike_lambda"] > 0].append(100 * row["accuracy"])
    points = {key: statistics.fmean(each) for key, each in found.items()}
    lost = {t: points[t, False] - points[t, True] for t in (2, 3, 4)}
    differing = sum(row["differing"] for row in rows)
    said = ", ".join(f"{each:.2f} at T = {t}" for t, each in lost.items())
    seeds = len({row["seed"] for row in rows})
    said = (
        f"{said} points below, {seeds} seed{'s' * (seeds > 1)}, a small network; "
        f"{differing} predictions of SNN and ANN differ"
    )
    return said, of_all([-0.3 < each < 0.8 for each in lost.values()])


@claim(
    "Table 12",
    "ReLU and a tenth of the epochs with QCFS is as good as QCFS from the start: "
    "93.51 against 93.60 % (ResNet-20).",
    "relu_first.json",
    page="results.md#relu-first-qcfs-after",
)
def relu_first(rows):
    parts, checks = [], []
    for network, found in sorted(grouped(rows, "network").items()):
        first, after = (
            statistics.fmean(row["accuracy"][name] for row in found)
            for name in ("QCFS", "ReLU, then QCFS")
        )
        seeds = f"{len(found)} seed{'s' * (len(found) > 1)}"
        parts.append(f"`{network}` {percent(after)} against {percent(first)}, {seeds}")
        checks.append(100 * (first - after) < 0.4)
    return "; ".join(parts), of_all(checks)
