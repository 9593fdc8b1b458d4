"""What the numbers of a conversion prove, in one sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """A judgement that never says more than was measured.

    Attributes:
      grade: "exact"; "differs", when codes differ in the widest precision there is;
        "open", when nothing was compared, or only where rounding hides the answer.
      headline: the judgement and its numbers.
      remarks: what qualifies it, a sentence each.
    """

    grade: str
    headline: str
    remarks: tuple[str, ...]


def native_row(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of the T that the network was trained for; the first row without one.

    >>> native_row({"run": {"steps": 4}, "steps": [{"steps": 2}, {"steps": 4}]})
    {'steps': 4}
    """
    rows, steps = results["steps"], results["run"]["steps"]
    return next((row for row in rows if row["steps"] == steps), rows[0])


def is_exact(certificate: Mapping[str, Any]) -> bool:
    """Whether something was compared and nothing differed."""
    compared = certificate["neurons"] > 0 and certificate["examples"] > 0
    return bool(certificate["exact"]) and certificate["differing"] == 0 and compared


def verdict(results: Mapping[str, Any]) -> Verdict:
    """Judges the conversion at the T that the network was trained for.

    Equal codes in float64 are the proof. In float32 the spiking network adds in another
    order than the one-shot network, so differing codes there prove nothing either way;
    equal ones still prove equality.

    Args:
      results: the results of an evaluation, see `conversion_page.SCHEMA`.

    >>> verdict({"run": {"steps": 4, "levels": 15}, "examples": 9,
    ...          "steps": [{"steps": 4, "levels": 15}]}).headline
    'Not checked: no certificate was made at T = 4.'
    """
    row, examples = native_row(results), results["examples"]
    stepped = row.get("stepped")
    unequal = stepped["predictions_differing"] if stepped else 0
    precision, proof = _proof(row)
    if proof:
        grade, claim = _claim(precision, proof, unequal)
        differing, neurons = proof["differing"], proof["neurons"]
        claim += f": {differing:,} of {neurons:,} codes differ at T = {row['steps']}"
        claim += f" in {precision}"
    else:
        grade = "open"
        claim = f"Not checked: no certificate was made at T = {row['steps']}"
    if stepped:
        claim += f"; {examples - unequal:,} of {examples:,} predictions equal"
    return Verdict(grade, claim + ".", tuple(_remarks(results, row)))


def _proof(row):
    """The certificate in the widest precision in which anything was compared."""
    certificates = row.get("certificate") or {}
    for precision in ("float64", "float32"):
        proof = certificates.get(precision)
        if proof and proof["neurons"]:
            return precision, proof
    return None, None


def _claim(precision, proof, unequal):
    if is_exact(proof) and unequal:
        return "open", "Equal codes, unequal predictions"
    if is_exact(proof):
        return "exact", "Exact"
    if precision == "float64":
        return "differs", "Not exact"
    return "open", "Not proved without float64"


def _remarks(results, row):
    run, (precision, proof) = results["run"], _proof(row)
    if row["steps"] != run["steps"]:
        yield f"T = {run['steps']}, the T of the training, was not evaluated."
    elif row["levels"] != run["levels"]:
        yield (
            f"Trained with L = {run['levels']}, compared at L = {row['levels']}: the "
            f"SNN stands for the re-quantised network, not for the trained one."
        )
    if proof and proof["examples"] < results["examples"]:
        yield (
            f"Codes were compared on {proof['examples']:,} of "
            f"{results['examples']:,} images."
        )
    if proof and not proof.get("outputs_agree", True):
        yield "The outputs differ by more than rounding."
    narrow = (row.get("certificate") or {}).get("float32")
    if narrow and precision == "float64" and not is_exact(narrow):
        yield (
            f"In float32 {narrow['differing']:,} of {narrow['neurons']:,} codes "
            f"differ, in {narrow['examples_differing']:,} "
            f"of {narrow['examples']:,} images."
        )
    if analog := (results.get("conversion") or {}).get("analog"):
        layers = "1 layer" if len(analog) == 1 else f"{len(analog)} layers"
        yield f"Fed by real numbers in place of spikes: {layers}."
    if decoded := (results.get("conversion") or {}).get("nonspiking"):
        yield f"Not spiking, but run on real numbers: {len(decoded)} operations."
