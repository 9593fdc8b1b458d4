"""What `convert.py --fixed-point --target` does: needs, limits, narrow membranes."""

import math
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import structs

from bitsnn_jax import config, data
from bitsnn_jax.integers.accumulators import MOST_BITS, OVERFLOWS, Accumulator
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.needs import WITHOUT_MEMBRANE, LayerNeeds, layer_needs
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.integers.targets import (
    LIMITS,
    Target,
    broken_limits,
    in_words,
    target,
)
from bitsnn_jax.jobs.integers import count_differing, count_right, in_batches
from bitsnn_jax.results.hardware import (
    HardwareAtSteps,
    LayerOnHardware,
    NarrowMembranes,
    TargetResult,
    UnmetLimit,
)
from bitsnn_jax.runtime.columns import table

# What neurons with one threshold cannot do.
SCHEDULE = "thresholds that halve at each step"


def measure_hardware(
    networks: Sequence[IntegerNetwork],
    settings: config.Data,
    examples: data.Examples,
    *,
    names: Iterable[str],
) -> tuple[HardwareAtSteps, ...]:
    """Compare each network with the limits of chips, and print what does not fit.

    Args:
      networks: of pixels, one for each T.
      settings, examples: the images that sums are measured on.
      names: of `integers.targets`.
    """
    chips = [target(name) for name in names]
    found = []
    for network in networks:
        found.append(at_steps(HeldRuns(network, settings, examples), chips))
        print(in_lines(found[-1]), flush=True)
    return tuple(found)


def in_lines(found: HardwareAtSteps) -> str:
    """Write a table with a line for each chip."""
    layers = len(found.layers)
    widest = max(found.layers, key=lambda layer: layer.accumulator_bits)
    seen = max(found.layers, key=lambda layer: layer.largest)
    rows: list[Sequence[str]] = [("chip", "layers", "accuracy", "what does not fit")]
    for chip in found.targets:
        accuracy = f"{chip.membranes.accuracy:.2%}" if chip.membranes else ""
        fitting = f"{chip.fitting} of {layers}"
        rows.append((chip.title, fitting, accuracy, chip.words or "nothing"))
    return (
        f"on hardware, T = {found.steps}: membranes of {widest.accumulator_bits} bits, "
        f"for sums of {widest.low:,} to {widest.high:,} in {widest.name}; "
        f"at most {seen.largest:,} on these images, in {seen.name}\n"
        f"{table(rows, names=4)}"
    )


def at_steps(run: "HeldRuns", chips: Sequence[Target]) -> HardwareAtSteps:
    """Compare one network with the limits of chips.

    A chip whose membranes might not hold some sum is given a run in membranes of its
    width. Where nothing says what they do, they saturate.
    """
    needs = layer_needs(run.network)
    most, steps = max(need.accumulator_bits for need in needs), run.network.steps

    def held(chip: Target) -> NarrowMembranes | None:
        bits = chip.limits["accumulator_bits"]
        if bits is None or bits >= most:
            return None
        return run(Accumulator(bits, chip.overflow or OVERFLOWS[0]))

    return HardwareAtSteps(
        steps=steps,
        layers=tuple(
            LayerOnHardware(**need._asdict(), largest=run.seen[need.name])
            for need in needs
        ),
        targets=tuple(_judged(needs, chip, steps, held(chip)) for chip in chips),
    )


def _judged(
    needs: Sequence[LayerNeeds],
    chip: Target,
    steps: int,
    membranes: NarrowMembranes | None,
) -> TargetResult:
    broken = broken_limits(needs, chip, steps=steps)
    words = [] if chip.fires(steps) else [SCHEDULE]
    words += [in_words(broken)] if broken else []
    return TargetResult(
        name=chip.name,
        title=chip.title,
        fires=chip.fires(steps),
        fitting=len({need.name for need in needs} - {each.layer for each in broken}),
        unmet=tuple(UnmetLimit(**each._asdict()) for each in broken),
        words="; ".join(words),
        unpublished=tuple(name for name in LIMITS if chip.limits[name] is None),
        membranes=membranes,
    )


class HeldRuns:
    """Runs of a network on all examples, in membranes of some width.

    Widths share a program, and each is run once. A width that holds every sum of these
    examples is not run: nothing changes.

    Attributes:
      network: of pixels.
      seen: name of each layer -> its largest |membrane| on the examples, where every
        sum is held.
    """

    def __init__(
        self,
        network: IntegerNetwork,
        settings: config.Data,
        examples: data.Examples,
    ):
        self.network, self._settings, self._examples = network, settings, examples
        self._compare = jax.jit(self._compared)
        self._found: dict[Accumulator, NarrowMembranes] = {}
        self._wide, self.seen = self._run(Accumulator(MOST_BITS))

    def __call__(self, accumulator: Accumulator) -> NarrowMembranes:
        """Return what the network does in such membranes."""
        if accumulator not in self._found:
            if max(self.seen.values()) < 2 ** (accumulator.bits - 1):
                found = structs.replace(
                    self._wide, bits=accumulator.bits, overflow=accumulator.overflow
                )
            else:
                found, _ = self._run(accumulator)
            self._found[accumulator] = found
        return self._found[accumulator]

    def _compared(self, images, mask, accumulator: Accumulator):
        exact = one_shot(self.network)(images)
        ours = stepped(self.network, accumulator=accumulator)(images)
        assert ours.largest is not None
        logits, theirs = ours.outputs["output"], exact.outputs["output"]
        moved = (logits.argmax(-1) != theirs.argmax(-1)) & mask
        counts = (
            count_differing(ours.codes, exact.codes, mask),
            count_differing(ours.outputs, exact.outputs, mask),
            jnp.sum(moved),
        )
        return counts, {k: v.max() for k, v in ours.largest.items()}, logits

    def _run(self, accumulator: Accumulator) -> tuple[NarrowMembranes, dict[str, int]]:
        totals, right = np.zeros(3, np.int64), 0
        largest = dict.fromkeys(_with_membrane(self.network), 0)
        for batch in in_batches(self._settings, self._examples):
            counts, found, logits = self._compare(
                batch["image"], batch["mask"], accumulator
            )
            totals += np.array(counts, np.int64)
            right += count_right(logits, batch)
            largest = {k: max(v, int(found[k])) for k, v in largest.items()}
        codes, outputs, predictions = totals.tolist()
        size, limit = len(self._examples), 2 ** (accumulator.bits - 1)
        return NarrowMembranes(
            bits=accumulator.bits,
            overflow=accumulator.overflow,
            accuracy=right / size,
            codes=size * _entries(self.network, "neurons"),
            codes_differing=codes,
            outputs=size * _entries(self.network, "output"),
            outputs_differing=outputs,
            predictions_differing=predictions,
            overflowing=tuple(k for k, v in largest.items() if v >= limit),
        ), largest


def _with_membrane(network: IntegerNetwork) -> list[str]:
    return [n.name for n in network.nodes if n.kind not in WITHOUT_MEMBRANE]


def _entries(network: IntegerNetwork, kind: str) -> int:
    return sum(math.prod(node.shape) for node in network.of_kind(kind))
