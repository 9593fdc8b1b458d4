"""`compare.json`: what methods of conversion reach on one checkpoint."""

from collections import Counter

from msgspec import Struct, field

from bitsnn_jax.results.provenance import MachineRecord, RunRecord


class NetworkResult(Struct, frozen=True, kw_only=True):
    """A network that methods start from, without spikes.

    Attributes:
      accuracy: on the test examples.
      milliseconds: of one.
      source: its run or name.
    """

    accuracy: float
    milliseconds: float
    source: str = field(name="from")


class MethodRecord(Struct, frozen=True, kw_only=True):
    """A method: what it is called, where it is from, what its preparation took."""

    title: str
    source: str
    trained_with: str
    seconds: float


class MethodRow(Struct, frozen=True, kw_only=True):
    """What a method reached at one T, with one seed; counts and costs of one example.

    Attributes:
      method: its name.
      steps: T, without warm-up.
      window: steps of a layer, with it.
      until_output: steps until the output may be read.
      seed: of the calibration examples.
      accuracy: on the test examples; of a task with another score, that.
      agreement: share of examples on which it says what its network says.
      spikes_per_neuron: over the window.
      synaptic_operations: spikes that met a weight, or a value in a product.
      nanojoules: by the profile of the comparison; None for a network with functions
        that have no price in it (softmax, layer norm).
      milliseconds: of the simulation; in integers, of a pass to the logits.
      ann_passes: that pass, in passes of the float network that ran in turns with it;
        None where that was not measured.
      commit: of the code that measured this; None where that is not known.
      machine: that it was measured on; "" where that is not known.
    """

    method: str
    steps: int
    window: int
    until_output: int
    seed: int
    accuracy: float
    agreement: float
    spikes_per_neuron: float
    synaptic_operations: float
    nanojoules: float | None
    milliseconds: float
    commit: str | None = None
    machine: str = ""
    ann_passes: float | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells rows apart."""
        return self.method, self.steps, self.seed


class Failure(Struct, frozen=True, kw_only=True):
    """What a method could not do; at one T, or at all."""

    method: str
    steps: int | None = None
    error: str

    def __str__(self) -> str:
        at = "" if self.steps is None else f" at T = {self.steps}"
        return f"{self.method}{at}: {self.error}"


class ComparisonResult(Struct, frozen=True, kw_only=True):
    """What is in `compare.json`.

    Attributes:
      run: that methods are compared on.
      machine: of the last call; each row names its own.
      examples: how many test examples.
      noun: what they are called.
      batch: how many at a time.
      neurons, depth, multiply_accumulates: see `comparators.structure`.
      profile: what operations cost.
      networks: that methods start from, by activation.
      methods: by name.
      rows: what was measured.
      failed: what could not be.
    """

    run: RunRecord
    machine: MachineRecord
    examples: int
    batch: int | None = None
    neurons: int
    depth: int
    multiply_accumulates: int | None = None
    profile: str | None = None
    networks: dict[str, NetworkResult]
    methods: dict[str, MethodRecord]
    rows: tuple[MethodRow, ...]
    failed: tuple[Failure, ...]
    noun: str = "images"

    def __post_init__(self) -> None:
        """Check that no part contradicts another."""
        for name, method in self.methods.items():
            if method.trained_with not in self.networks:
                raise ValueError(
                    f"networks.{method.trained_with} is missing: methods.{name} starts "
                    "from it"
                )
        for i, row in enumerate(self.rows):
            if row.method not in self.methods:
                raise ValueError(f"methods.{row.method} is missing: rows[{i}] is of it")
        for (method, steps, seed), times in Counter(r.key for r in self.rows).items():
            if times > 1:
                raise ValueError(
                    f"rows has {method} at T = {steps} with seed {seed} {times} times"
                )
