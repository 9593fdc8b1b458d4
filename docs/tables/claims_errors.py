"""The paper's claims of errors: Figures 2 and 3."""

from claims import claims_of, of_all

claim = claims_of("Errors of conversion")


@claim(
    "Figure 2(a)",
    "With fewer steps the unevenness error of a rate network grows.",
    "decomposition.json",
    page="errors.md",
)
def unevenness(rows):
    found = _errors(rows, "none", "unevenness")
    said = ", ".join(f"{100 * e:.2g} % at T = {t}" for t, e in sorted(found.items()))
    steps = sorted(found)
    pairs = zip(steps, steps[1:], strict=False)
    return f"of θ: {said}", of_all([found[a] > found[b] for a, b in pairs])


@claim(
    "Figure 2(b, c)",
    "From T = 4 to 2 the expected quantisation error of a rate network doubles.",
    "decomposition.json",
    page="errors.md",
)
def quantisation(rows):
    found = _errors(rows, "none", "quantisation")
    grown = found[2] / found[4]
    said = f"{100 * found[4]:.2f} and {100 * found[2]:.2f} % of θ, {grown:.2f}-fold"
    return said, of_all([1.7 < grown < 2.3])


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


def _errors(rows, cell, kind):
    return {
        row["steps"]: row["network_errors"]["absolute"][kind]
        for row in rows
        if row["cell"] == cell
    }
