"""`compare.json`: what methods of conversion reach on one checkpoint."""

from collections import Counter

from msgspec import Struct, field

from bitsnn_jax.results.provenance import MachineRecord, RunRecord


class NetworkResult(Struct, frozen=True, kw_only=True):
    """A network that methods start from, without spikes.

    Attributes:
      accuracy: on the test examples; of a task with another score, that.
      milliseconds: of one.
      source: its run or name.
    """

    accuracy: float
    milliseconds: float
    source: str = field(name="from")


class MethodRecord(Struct, frozen=True, kw_only=True):
    """A method: what it is called, where it is from, what its preparation took.

    Attributes:
      title, source: for readers.
      trained_with: the network that it starts from, or is compared with.
      seconds: of its preparation.
      direct: its networks are trained as spiking ones, and start from no other.
    """

    title: str
    source: str
    trained_with: str
    seconds: float
    direct: bool = False


class MethodRow(Struct, frozen=True, kw_only=True):
    """What a method reached at one T, with one seed; counts and costs of one example.

    Attributes:
      method: its name.
      steps: T, without warm-up.
      window: steps of a layer, with it.
      until_output: steps until the output may be read.
      seed: of the calibration examples, or of the training.
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
      run: that was trained directly, see `ComparisonResult.trained`; None of others.
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
    run: str | None = None

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


class StepCost(Struct, frozen=True, kw_only=True):
    """What a step of training costs, on one device.

    Attributes:
      milliseconds: of a step.
      megabytes: of temporaries; None where XLA does not say.
      qcfs_steps: the time in steps of the QCFS run, in turns with them.
      commit: of the code that measured this; None where that is not known.
      machine: that it was measured on.
    """

    milliseconds: float
    megabytes: float | None
    qcfs_steps: float
    commit: str | None = None
    machine: str = ""


class TrainedRun(Struct, frozen=True, kw_only=True):
    """A run whose training is part of the comparison.

    Attributes:
      run: which, with the name of its architecture.
      method: of direct training; None of the run with QCFS.
      steps: T.
      neurons, depth, multiply_accumulates: of its network, see `comparators.structure`.
      epochs: that it trained.
      batch: examples of a step.
      seconds: that it took; None where the run does not say.
      device: that it ran on, and how many; "" where the run does not say.
      cost: of a step; None where it was not measured.
    """

    run: RunRecord
    method: str | None
    steps: int
    neurons: int
    depth: int
    multiply_accumulates: int
    epochs: int
    batch: int
    seconds: float | None = None
    device: str = ""
    cost: StepCost | None = None


class ComparisonResult(Struct, frozen=True, kw_only=True):
    """What is in `compare.json`.

    Attributes:
      run: that methods are compared on.
      machine: of the last call; each row names its own.
      examples: how many test examples.
      batch: how many at a time.
      neurons, depth, multiply_accumulates: see `comparators.structure`.
      profile: what operations cost.
      networks: that methods start from, by activation.
      methods: by name.
      rows: what was measured.
      failed: what could not be.
      noun: what examples are called.
      measure: the name of the score that stands in each `accuracy`.
      trained: runs beside which the directly trained ones stand, and these, by what
        they were found by.
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
    measure: str = "accuracy"
    trained: dict[str, TrainedRun] = {}

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
            if row.run is not None and row.run not in self.trained:
                raise ValueError(f"trained.{row.run} is missing: rows[{i}] is of it")
        for (method, steps, seed), times in Counter(r.key for r in self.rows).items():
            if times > 1:
                raise ValueError(
                    f"rows has {method} at T = {steps} with seed {seed} {times} times"
                )
