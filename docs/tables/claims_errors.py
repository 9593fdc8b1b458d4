"""The paper's claims of errors: Figures 2 and 3."""

from claims import RESNET, claims_of, of_all
from errors import TRAINED_WITH

claim = claims_of("Errors of conversion")


@claim(
    "Figure 2(a)",
    "With fewer steps the unevenness error of a rate network grows.",
    "decomposition.json",
    page="errors.md",
)
def unevenness(rows):
    parts, checks = [], []
    for levels, network in TRAINED_WITH.items():
        found = _errors(rows, "none", "unevenness", network)
        steps = sorted(found)
        values = (f"{100 * found[t]:.2g} % at T = {t}" for t in steps)
        parts.append(f"L = {levels}: {', '.join(values)}")
        pairs = zip(steps, steps[1:], strict=False)
        checks += [found[a] > found[b] for a, b in pairs]
    return f"of θ, {'; '.join(parts)}", of_all(checks)


@claim(
    "Figure 2(b, c)",
    "From T = 4 to 2 the expected quantisation error of a rate network doubles.",
    "decomposition.json",
    page="errors.md",
)
def quantisation(rows):
    parts, checks = [], []
    for levels, network in TRAINED_WITH.items():
        found = _errors(rows, "none", "quantisation", network)
        grown = found[2] / found[4]
        shares = f"{100 * found[4]:.2f} and {100 * found[2]:.2f} %"
        parts.append(f"L = {levels}: {shares} of θ, {grown:.2f}-fold")
        checks.append(1.7 < grown < 2.3)
    return "; ".join(parts), of_all(checks)


@claim(
    "Figure 3, right",
    "Unevenness dominates the error of a rate network at few steps.",
    "decomposition.json",
    page="errors.md",
)
def dominating(rows):
    parts = {
        kind: _errors(rows, "none", kind)
        for kind in ("unevenness", "quantisation", "clipping")
    }
    largest = {t: max(parts, key=lambda kind: parts[kind][t]) for t in (2, 4, 8)}
    said = ", ".join(f"{kind} at T = {t}" for t, kind in largest.items())
    return f"largest: {said}", of_all([k == "unevenness" for k in largest.values()])


@claim(
    "Proposition II",
    "The neuron has no unevenness error at any T.",
    "decomposition.json",
    page="errors.md",
)
def none_left(rows):
    found = _errors(rows, "all", "unevenness")
    said = f"{max(found.values()):g} at T = {', '.join(map(str, sorted(found)))}"
    return said, of_all([not any(found.values())])


def _errors(rows, cell, kind, network=RESNET):
    return {
        row["steps"]: row["network_errors"]["absolute"][kind]
        for row in rows
        if row["cell"] == cell and row["network"] == network
    }
