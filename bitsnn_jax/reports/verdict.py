"""What the numbers of a conversion prove, in one sentence."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from bitsnn_jax.results.conversion import (
    CertificateResult,
    Changes,
    ConversionResult,
    ModeResult,
    StepsResult,
)


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


def is_exact(certificate: CertificateResult) -> bool:
    """Tell whether something was compared and nothing differed."""
    compared = certificate.neurons > 0 and certificate.examples > 0
    return certificate.exact and certificate.differing == 0 and compared


def verdict(results: ConversionResult) -> Verdict:
    """Judge the conversion at the T that the network was trained for.

    Equal codes in float64 are the proof. In float32 the spiking network adds in another
    order than the one-shot network, so differing codes there prove nothing either way;
    equal ones still prove equality.
    """
    row, examples = results.native, results.examples
    precision, proof = _proof(row)
    # Older certificates did not compare predictions.
    compared: ModeResult | CertificateResult | None = row.stepped
    if proof and proof.predictions_differing is not None:
        compared, examples = proof, proof.examples
    unequal = (compared.predictions_differing or 0) if compared else 0
    if proof:
        grade, claim = _claim(precision, proof, unequal, results.answers)
        claim += f": {proof.differing:,} of {proof.neurons:,} codes differ"
        claim += f" at T = {row.steps} in {precision}"
    else:
        grade = "open"
        claim = f"Not checked: no certificate was made at T = {row.steps}"
    if compared:
        equal = f"{examples - unequal:,} of {examples:,}"
        if compared.apart:
            claim += f"; {equal} {results.noun} with equal {results.answers}"
        else:
            claim += f"; {equal} {results.answers} equal"
    return Verdict(grade, claim + ".", tuple(_remarks(results, row)))


def _proof(row: StepsResult) -> tuple[str, CertificateResult | None]:
    """Choose the certificate in the widest precision that has compared anything."""
    for precision in ("float64", "float32"):
        proof = (row.certificate or {}).get(precision)
        if proof and proof.neurons:
            return precision, proof
    return "", None


def _claim(
    precision: str, proof: CertificateResult, unequal: int, answers: str
) -> tuple[str, str]:
    if is_exact(proof) and unequal:
        return "open", f"Equal codes, unequal {answers}"
    if is_exact(proof):
        return "exact", "Exact"
    if precision == "float64":
        return "differs", "Not exact"
    return "open", "Not proved without float64"


def _remarks(results: ConversionResult, row: StepsResult) -> Iterator[str]:
    run, (precision, proof) = results.run, _proof(row)
    named = results.noun, results.answers
    for kind, found in (row.certificate or {}).items():
        if found.apart:
            told = apart_in_words(found, found.examples, *named)
            yield f"Certified in {kind}: {told}."
    if told := _simulated(results, row, proof):
        yield f"As simulated on all {results.noun}, in float32, {told}."
    if row.steps != run.steps:
        yield f"T = {run.steps}, the T of the training, was not evaluated."
    elif row.levels != run.levels:
        yield (
            f"Trained with L = {run.levels}, compared at L = {row.levels}: the "
            f"SNN stands for the re-quantised network, not for the trained one."
        )
    if proof and proof.examples < results.examples:
        yield (
            f"Codes were compared on {proof.examples:,} of {results.examples:,} "
            f"{results.noun}."
        )
    if proof and not proof.outputs_agree:
        yield "The outputs differ by more than rounding."
    narrow = (row.certificate or {}).get("float32")
    if narrow and precision == "float64" and not is_exact(narrow):
        told = f"In float32 {narrow.differing:,} of {narrow.neurons:,} codes differ"
        if narrow.examples_differing is not None:
            told += f", in {narrow.examples_differing:,} of {narrow.examples:,} "
            told += results.noun
        yield f"{told}."
    if results.coding != "bits":
        yield (
            "Codes are sent as signed digits, 1 or −1, in one step more than T: "
            f"{row.window} for T = {row.steps}."
        )
    if analog := results.conversion.analog:
        layers = "1 layer" if len(analog) == 1 else f"{len(analog)} layers"
        yield f"Fed by real numbers in place of spikes: {layers}."
    if results.conversion.nonspiking:
        yield f"{outside_in_words(results.conversion)}."


def _simulated(
    results: ConversionResult, row: StepsResult, proof: CertificateResult | None
) -> str:
    """Say what the simulation predicts, unless the headline or the proof says so."""
    stepped, examples = row.stepped, results.examples
    if stepped and stepped.apart:
        return apart_in_words(stepped, examples, results.noun, results.answers)
    if not stepped or not proof or proof.predictions_differing is None:
        return ""
    equal = examples - stepped.predictions_differing
    if equal == examples == proof.examples:
        return ""
    return f"{equal:,} of {examples:,} {results.answers} are equal"


def apart_in_words(
    mode: ModeResult | CertificateResult, examples: int, noun: str, answers: str
) -> str:
    """Say how a spiking network predicts otherwise than the ANN, in real numbers too.

    Args:
      mode: what it does, or its certificate, with parts that are apart.
      examples: how many there are.
      noun: what they are called.
      answers: what predictions are called.
    """
    parts = [
        f"{each.part} are at most {each.largest:.2g}{' ' * bool(each.unit)}{each.unit}"
        for each in mode.apart
    ]
    return (
        f"{mode.predictions_differing:,} of {examples:,} {noun} have other {answers}; "
        f"in those that have the same, {' and '.join(parts)} apart"
    )


def outside_in_words(changes: Changes) -> str:
    """Say how many operations are computed outside the spiking network, and which."""
    counts: Counter[str] = Counter()
    for rows in changes.work.outside if changes.work else ():
        counts[rows.operation] += rows.times
    # Older files name each kind of operation of a module, and not how often it is done.
    counts = counts or Counter(each.operation for each in changes.nonspiking)
    listed = ", ".join(f"{n} {name}" for name, n in counts.most_common())
    total = counts.total()
    many = "1 operation is" if total == 1 else f"{total} operations are"
    return f"{many} computed outside the spiking network, on real numbers: {listed}"
