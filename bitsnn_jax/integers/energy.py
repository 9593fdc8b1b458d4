"""Energy estimates: counts of operations times joules, for this network and rivals.

This is an estimate from published costs of single operations, not a measurement. It
leaves out leakage, clock, wires, control, and the traffic of spikes and activations.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files

from bitsnn_jax.integers.operations import COUNTS, NodeOperations, Operations
from bitsnn_jax.runtime.columns import table

_FETCHES = ("weight_read", "membrane_read", "membrane_write")
MEMORY = tuple(f"{name}s" for name in _FETCHES)
# Bits of the image, for which `multiply` is given.
IMAGE_BITS = 8
# Products of a weight by 8 bits that one in a routine costs, of 16 by 16 bits.
ROUTINE_PRODUCT = 4


@dataclasses.dataclass(frozen=True)
class Profile:
    """Picojoules of single operations.

    Attributes:
      name: in `energy_profiles.json`.
      source: of the numbers, or how they were derived.
      weight_bits, membrane_bits: the widths that the costs are for.
      add, shift, compare: of the width of a membrane.
      multiply: of a weight by 8 bits.
      binary_product: of a sign by a sign, with its share of the sum: an XNOR, and a
        full adder of the popcount.
      weight_read, membrane_read, membrane_write: 0 where memory is left out.
      float_add, float_multiply: of 32 bits.
    """

    name: str
    source: str
    weight_bits: int
    membrane_bits: int
    add: float
    multiply: float
    shift: float
    compare: float
    binary_product: float
    weight_read: float
    membrane_read: float
    membrane_write: float
    float_add: float
    float_multiply: float


def profiles() -> dict[str, Profile]:
    """Read all profiles of `energy_profiles.json`, by name."""
    text = (
        files("bitsnn_jax.integers").joinpath("energy_profiles.json").read_text("utf-8")
    )
    return {
        name: Profile(
            name=name,
            source=entry["source"],
            weight_bits=entry["bits"]["weight"],
            membrane_bits=entry["bits"]["membrane"],
            **entry["picojoules"],
        )
        for name, entry in json.loads(text).items()
    }


def profile(name: str) -> Profile:
    """Read the profile of that name.

    Raises:
      ValueError: unknown; the message lists the names.
    """
    known = profiles()
    if name not in known:
        raise ValueError(f"profile must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def in_float(profile: Profile) -> Profile:
    """Scale a profile to 32-bit floats in the same memories."""
    weight, membrane = 32 / profile.weight_bits, 32 / profile.membrane_bits
    return dataclasses.replace(
        profile,
        name=f"{profile.name}, float32",
        weight_bits=32,
        membrane_bits=32,
        add=profile.float_add,
        multiply=profile.float_multiply,
        weight_read=profile.weight_read * weight,
        membrane_read=profile.membrane_read * membrane,
        membrane_write=profile.membrane_write * membrane,
    )


@dataclasses.dataclass(frozen=True)
class Energy:
    """Joules per example, by node and by kind of operation.

    Attributes:
      profile: whose costs.
      nodes: name of node -> {name of count: joules}, the names of `COUNTS`.
    """

    profile: Profile
    nodes: Mapping[str, Mapping[str, float]]

    def of(self, *counts: str) -> float:
        """Sum the joules of these kinds of operation, over all nodes."""
        return sum(node[c] for node in self.nodes.values() for c in counts)

    @property
    def total(self) -> float:
        return self.of(*COUNTS)

    @property
    def memory(self) -> float:
        return self.of(*MEMORY)

    @property
    def compute(self) -> float:
        return self.of(*(c for c in COUNTS if c not in MEMORY))

    def layer(self, name: str) -> float:
        """Sum the joules of one node."""
        return sum(self.nodes[name].values())

    def __str__(self) -> str:
        rows: list[Sequence[str]] = [
            ("layer, nJ per example", "compute", "memory", "total")
        ]
        for name, node in self.nodes.items():
            memory = sum(node[c] for c in MEMORY)
            total = self.layer(name)
            rows.append((name, *_nano(total - memory, memory, total)))
        rows.append(("total", *_nano(self.compute, self.memory, self.total)))
        return table(rows)


def energy(operations: Operations, profile: Profile) -> Energy:
    """Multiply counts by costs.

    A multiply-accumulate is a product and an addition; a reset is an addition. A
    product with a code of T bits costs T / 8 of one with 8 bits, since an array
    multiplier has a row of adders for each bit. That favours the quantised ANN. At
    T = 4 and 32-bit sums a multiply-accumulate then costs 2.0 additions; the paper
    quotes 2.3 for 4 bits.

    A weight of a row that was looked up costs an addition. In a routine, a product is
    of about 16 by 16 bits and costs four of 8 by 8; all else costs an addition, and its
    registers nothing. Rivals compute the same routines.

    Args:
      operations: of `operations.count`, or of a rival, below.
      profile: of `profile(name)`.

    Raises:
      ValueError: no examples.

    >>> from bitsnn_jax.integers.operations import NodeOperations, Operations
    >>> node = NodeOperations("a", "neurons", 1, synaptic_operations=10)
    >>> print(energy(Operations((node,), 1, 4), profile("mixed")).total * 1e12)
    1.0
    """
    if operations.examples < 1:
        raise ValueError("energy is per example, and no example was counted")
    costs = _costs(profile, operations.steps)
    scale = 1e-12 / operations.examples
    nodes = {
        node.name: {c: getattr(node, c) * costs[c] * scale for c in COUNTS}
        for node in operations.nodes
    }
    return Energy(profile, nodes)


def _costs(profile: Profile, steps: int) -> dict[str, float]:
    product_of_code = profile.multiply * steps / IMAGE_BITS
    return {
        "synaptic_operations": profile.add,
        "multiply_accumulates": profile.multiply + profile.add,
        "code_multiply_accumulates": product_of_code + profile.add,
        "lookups": profile.add,
        "routine_products": ROUTINE_PRODUCT * profile.multiply,
        "routine_additions": profile.add,
        "bias_additions": profile.add,
        "shifts": profile.shift,
        "compares": profile.compare,
        "resets": profile.add,
        **{f"{name}s": getattr(profile, name) for name in _FETCHES},
    }


# Rivals: the same network executed in other ways, counted from the same codes.


def dense_ann(operations: Operations, *, reuse: int = 1) -> Operations:
    """Count the quantised ANN: every connection is a product with a T-bit code.

    One addition of the bias per entry; one shift and one compare per neuron stand for
    rescaling and clipping; no spikes, no reset.

    Args:
      operations: of the spiking network.
      reuse: accumulations in a row served by one fetch of a weight, and of a sum. 1:
        each goes to memory, as for spikes. Arrays of multipliers have 10 and more.
    """
    return _quantised(operations, reuse, lambda node: node.paths)


def skipping_ann(operations: Operations, *, reuse: int = 1) -> Operations:
    """Count as `dense_ann`, but skip codes 0; finding them is free."""
    return _quantised(operations, reuse, lambda node: node.nonzero_paths)


def float_ann(operations: Operations, *, reuse: int = 1) -> Operations:
    """Count as `dense_ann`, in float32: to be priced with `in_float(profile)`."""

    def made(node):
        products = {"multiply_accumulates": node.accumulations - node.lookups}
        return dataclasses.replace(
            node, **products, code_multiply_accumulates=0, shifts=0
        )

    nodes = tuple(map(made, dense_ann(operations, reuse=reuse).nodes))
    return dataclasses.replace(operations, nodes=nodes)


def bit_serial_ann(operations: Operations, *, reuse: int = 1) -> Operations:
    """Count as `dense_ann`, bit by bit: T additions per connection, zeros too.

    The sum of each bit is shifted once per entry, as in the spiking network.
    """
    more = (operations.steps - 1) * operations.examples

    def made(node):
        return dataclasses.replace(
            node,
            synaptic_operations=operations.steps * node.code_multiply_accumulates,
            code_multiply_accumulates=0,
            shifts=node.shifts + more * node.entries * bool(node.paths),
        )

    nodes = tuple(map(made, dense_ann(operations, reuse=reuse).nodes))
    return dataclasses.replace(operations, nodes=nodes)


def rate_snn(
    operations: Operations, *, steps: int, spikes_per_neuron: float
) -> Operations:
    """Count a rate-coded network (QCFS) with the same connections.

    Spikes are spread evenly over neurons, so additions are connections times spikes per
    neuron. Weights are not shifted. The image and sums are multiplied once, and their
    current is added at each step with the bias. Both favour the rival.

    Args:
      operations: of the spiking network, for its connections.
      steps: T of the rate-coded network.
      spikes_per_neuron: over all its steps, as measured or assumed.

    Raises:
      ValueError: spikes per neuron not in 0..steps.
    """
    if not 0 <= spikes_per_neuron <= steps:
        raise ValueError(
            f"spikes_per_neuron must be 0 to {steps} (steps), got {spikes_per_neuron}"
        )

    def made(node):
        each_step = steps * node.entries * operations.examples
        emits, is_neurons = bool(node.spikes), node.kind == "neurons"
        spikes = round(spikes_per_neuron * node.entries * operations.examples)
        return _plain(
            node,
            spikes=tuple((spikes + t) // steps for t in range(steps)) * emits,
            synaptic_operations=round(node.paths * spikes_per_neuron),
            bias_additions=each_step * bool(node.bias_additions),
            compares=each_step * is_neurons,
            resets=spikes * is_neurons,
        )

    return Operations(tuple(map(made, operations.nodes)), operations.examples, steps)


def _quantised(operations, reuse, products) -> Operations:
    if reuse < 1:
        raise ValueError(f"reuse must be at least 1, got {reuse}")

    def made(node):
        each = node.entries * operations.examples
        is_neurons = node.kind == "neurons"
        return _plain(
            node,
            code_multiply_accumulates=products(node),
            bias_additions=each * bool(node.bias_additions),
            shifts=each * is_neurons,
            compares=each * is_neurons,
            reuse=reuse,
        )

    return dataclasses.replace(operations, nodes=tuple(map(made, operations.nodes)))


def _plain(node: NodeOperations, **counts) -> NodeOperations:
    """Keep of the node what it shares with every rival, and set these counts."""
    return NodeOperations(
        node.name,
        node.kind,
        node.entries,
        multiply_accumulates=node.multiply_accumulates,
        lookups=node.lookups,
        routine_products=node.routine_products,
        routine_additions=node.routine_additions,
        paths=node.paths,
        nonzero_paths=node.nonzero_paths,
        nonzero=node.nonzero,
        **counts,
    )


@dataclasses.dataclass(frozen=True)
class BreakEven:
    """Where the spiking network and a rival cost the same.

    Attributes:
      spikes_per_neuron: at which both cost the same; negative if the spiking network
        costs more even without a spike.
      measured: spikes per neuron of the network.
      floor: fraction of neurons with a code other than 0. Each of these spikes at least
        once, so no network with these zeros has fewer spikes per neuron.
    """

    spikes_per_neuron: float
    measured: float
    floor: float

    @property
    def wins(self) -> bool:
        """The network as measured costs less than the rival."""
        return self.measured < self.spikes_per_neuron

    @property
    def reachable(self) -> bool:
        """Some network with the same zeros would cost less."""
        return self.floor < self.spikes_per_neuron


def break_even(
    operations: Operations, rival: Operations, profile: Profile
) -> BreakEven:
    """Find the spikes per neuron below which the SNN costs less than a rival.

    At r spikes per neuron the spiking network costs a + b r, if spikes become fewer in
    all layers by the same factor: a for the image, biases, shifts, and compares, b r
    for synaptic operations and resets. The rival does not change. For an ANN that skips
    zeros this favours the spiking network, since fewer spikes often mean more zeros.

    Every spike fetches its weights and membranes, even if the neuron spikes again.
    Hardware that collects the bits of a neuron first is the ANN that skips zeros.

    Args:
      operations: of the spiking network.
      rival: of `skipping_ann(operations)` or another.
      profile: of both.

    Raises:
      ValueError: spikes cost nothing, or there are none.
    """
    measured = operations.spikes_per_neuron
    idle = energy(silenced(operations), profile).total
    active = energy(operations, profile).total - idle
    if not measured or active <= 0:
        raise ValueError("no spike was counted, or it costs nothing: no rate to find")
    slope = active / measured
    level = (energy(rival, profile).total - idle) / slope
    return BreakEven(level, measured, operations.nonzero_fraction)


def silenced(operations: Operations) -> Operations:
    """Silence the spiking network: what is left is where its energy starts from."""
    nodes = tuple(
        dataclasses.replace(
            node, spikes=(0,) * len(node.spikes), synaptic_operations=0, resets=0
        )
        for node in operations.nodes
    )
    return dataclasses.replace(operations, nodes=nodes)


def comparison(operations: Operations, profile: Profile, *, reuse: int = 1) -> str:
    """Tabulate this network and its rivals. `reuse` is of the ANNs, see `dense_ann`."""
    snn, floats = energy(operations, profile), in_float(profile)
    rows: list[Sequence[str]] = [
        ("nJ per example", "compute", "memory", "total", "x SNN")
    ]
    for name, other in (
        ("this SNN", snn),
        ("ANN, zeros skipped", energy(skipping_ann(operations, reuse=reuse), profile)),
        ("ANN, dense", energy(dense_ann(operations, reuse=reuse), profile)),
        ("ANN, bit-serial", energy(bit_serial_ann(operations, reuse=reuse), profile)),
        ("ANN, float32", energy(float_ann(operations, reuse=reuse), floats)),
    ):
        ratio = f"{other.total / snn.total:.2f}"
        rows.append((name, *_nano(other.compute, other.memory, other.total), ratio))
    return table(rows)


def _nano(*joules: float) -> list[str]:
    return [f"{1e9 * j:,.3f}" for j in joules]
