"""`conversion.json`: what a conversion found, part by part."""

from typing import Any

from msgspec import Struct

from bitsnn_jax.results.hardware import HardwareAtSteps
from bitsnn_jax.results.pictures import Picture
from bitsnn_jax.results.provenance import MachineRecord, RunRecord
from bitsnn_jax.results.spikes import AttentionSpikes, LayerSpikes, Raster


class ConvertedRun(RunRecord, frozen=True, kw_only=True):
    """The run that was converted.

    Attributes:
      steps: the T that it was trained for.
      levels: L of its activations.
      config: as `config.to_dict` writes it.
    """

    steps: int
    levels: int
    config: dict[str, Any]


class AnnResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the network does as it was trained.

    Attributes:
      accuracy: on all examples; of a task with another score, that.
      milliseconds_per_example: without compilation; None in older files.
      measures: of the task, the others, by name.
    """

    accuracy: float
    milliseconds_per_example: float | None = None
    measures: dict[str, float] = {}


class Apart(Struct, frozen=True, kw_only=True):
    """How far a part of what two networks predict is apart, at most.

    Attributes:
      part: in the plural, such as "boxes".
      largest: over the examples on which they predict alike.
      unit: in the plural, such as "pixels"; "" for none.
    """

    part: str
    largest: float
    unit: str = ""


class ModeResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the spiking network does in one mode, at one T.

    Attributes:
      accuracy: on all examples; of a task with another score, that.
      spikes_per_neuron: over all steps, the mean of examples and neurons.
      milliseconds_per_example: without compilation.
      compile_seconds: of that.
      predictions_differing: from those of the ANN at the same L.
      measures: of the task, the others, by name.
      apart: how far equal predictions are apart, of those with parts that are real.
    """

    accuracy: float
    spikes_per_neuron: float
    milliseconds_per_example: float
    compile_seconds: float
    predictions_differing: int
    measures: dict[str, float] = {}
    apart: tuple[Apart, ...] = ()


class LayerCodes(Struct, frozen=True, kw_only=True):
    """Codes of a layer, compared; membranes in units of theta/L."""

    path: str
    neurons: int
    differing: int
    largest_membrane_difference: float


class CertificateResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """ANN and spiking network, compared code by code in one precision.

    Attributes:
      exact: something was compared, no code differs, and the outputs agree.
      examples: that were compared.
      examples_differing: those with a differing code; None where they are not kept
        apart.
      neurons: codes that were compared.
      differing: how many of them differ.
      largest_output_difference: of the logits.
      outputs_agree: that difference is rounding.
      layers: the same, layer by layer.
      predictions_differing: examples on which what follows from the outputs differs;
        None in older files, which count them of real parts only.
      apart: how far equal predictions are apart.
    """

    exact: bool
    examples: int
    examples_differing: int | None
    neurons: int
    differing: int
    largest_output_difference: float
    outputs_agree: bool
    layers: tuple[LayerCodes, ...]
    predictions_differing: int | None = None
    apart: tuple[Apart, ...] = ()


class StepsResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was measured at one T.

    Attributes:
      steps: T.
      levels: L = 2^T - 1.
      requantised: whether the network was trained with another L.
      ann_accuracy: of the ANN at this L.
      fused, stepped: what each mode does; None of a mode that was not run.
      layers: spikes layer by layer; None where no mode was run.
      certificate: by precision, "float64" and "float32".
    """

    steps: int
    levels: int
    requantised: bool
    ann_accuracy: float
    fused: ModeResult | None = None
    stepped: ModeResult | None = None
    layers: tuple[LayerSpikes, ...] | None = None
    certificate: dict[str, CertificateResult] | None = None

    @property
    def window(self) -> int:
        """The time steps of a layer: T, and one more of signed digits."""
        return len(self.layers[0].spikes) if self.layers else self.steps

    @property
    def snn(self) -> ModeResult | None:
        """The mode that stands for the spiking network."""
        return self.stepped or self.fused


class ChangedBias(Struct, frozen=True, kw_only=True):
    """A bias that the conversion shifted."""

    path: str
    largest_change: float


class ThetaRange(Struct, frozen=True, kw_only=True):
    """Thresholds of a layer that has one for each channel."""

    min: float
    max: float
    channels: int


class NeuronLayer(Struct, frozen=True, kw_only=True):
    """A layer of neurons; its shape is that of one example."""

    path: str
    shape: tuple[int, ...]
    theta: float | ThetaRange
    levels: int


class NonspikingOperation(Struct, frozen=True, kw_only=True):
    """An operation that runs on real numbers, and the module it is in."""

    operation: str
    path: str


class AnalogLayer(Struct, frozen=True, kw_only=True):
    """A layer that real numbers feed, and the layers that those come from."""

    path: str
    operation: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]


class ProductOfCurrents(Struct, frozen=True, kw_only=True):
    """A product in which spikes of some layers add what others have summed up."""

    operation: str
    path: str
    streamed: tuple[str, ...]
    held: tuple[str, ...]


class RowsOutside(Struct, frozen=True, kw_only=True):
    """Operations on real numbers, done so many times for one example.

    Attributes:
      operation: what is done.
      paths: the modules that it is done in.
      times: how often.
      rows: of numbers that belong together, of all times.
      length: of a row.
    """

    operation: str
    paths: tuple[str, ...]
    times: int
    rows: int
    length: int


class Work(Struct, frozen=True, kw_only=True):
    """What a network does for one example.

    Attributes:
      driven: multiply-accumulates that are additions for spikes.
      multiplications: all of them.
      outside: what is neither affine nor a neuron.
    """

    driven: int
    multiplications: int
    outside: tuple[RowsOutside, ...]


class Changes(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the conversion did to the network, and what it found in it.

    Attributes:
      changed: biases.
      neurons: layers of them, in the order of firing.
      nonspiking: operations on real numbers, each kind once a module.
      analog: layers that real numbers feed.
      bias_shift: where biases were shifted.
      products: of two currents.
      work: what the network does for one example; None in older files.
    """

    changed: tuple[ChangedBias, ...]
    neurons: tuple[NeuronLayer, ...]
    nonspiking: tuple[NonspikingOperation, ...]
    analog: tuple[AnalogLayer, ...]
    bias_shift: str
    products: tuple[ProductOfCurrents, ...] = ()
    work: Work | None = None


class IntegerLayer(Struct, frozen=True, kw_only=True):
    """A node of the integer network, and what its sums stay below."""

    name: str
    kind: str
    bound: int


class TiedLayer(Struct, frozen=True, kw_only=True):
    """A layer whose threshold is a power of two times those of its chain.

    Attributes:
      path: of the layer.
      trained: theta as the network was trained with it.
      theta: the one that it has in integers.
    """

    path: str
    trained: float | ThetaRange
    theta: float | ThetaRange


class UntiedSkip(Struct, frozen=True, kw_only=True):
    """A skip connection that keeps its multiplier, and why."""

    source: str
    target: str
    reason: str


class TiesResult(Struct, frozen=True, kw_only=True):
    """Thresholds tied by powers of two along skip connections.

    Attributes:
      chains: of layers that skip connections join.
      untied: skip connections that could not be tied.
    """

    chains: tuple[tuple[TiedLayer, ...], ...]
    untied: tuple[UntiedSkip, ...] = ()


class IntegersAtSteps(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the integer network does at one T.

    Attributes:
      steps: T.
      accuracy: on all examples; of a task with another score, that.
      spikes_per_neuron: over all steps.
      codes: that were compared, of each execution with the first.
      differing, outputs_differing: codes and logits that differ.
      bound: what every sum stays below.
      executions: which were compared.
      layers: bounds, node by node.
      accuracy_before: without fine-tuning; None where there was none.
      ties: of thresholds along skip connections; None where nothing was to be tied.
    """

    steps: int
    accuracy: float
    spikes_per_neuron: float
    codes: int
    differing: int
    outputs_differing: int
    bound: int
    executions: tuple[str, ...]
    layers: tuple[IntegerLayer, ...] = ()
    accuracy_before: float | None = None
    ties: TiesResult | None = None


class TuningResult(Struct, frozen=True, kw_only=True):
    """Fine-tuning of the weights; losses are means of the first and last batches."""

    steps: int
    epochs: int
    learning_rate: float
    first_loss: float
    last_loss: float


class RoundingResult(Struct, frozen=True, kw_only=True):
    """How weights were rounded that were not fine-tuned.

    Attributes:
      method: "nearest", or "gptq".
      images: of the training split, which "gptq" saw: its first ones.
    """

    method: str
    images: int = 0


class PassTime(Struct, frozen=True, kw_only=True):
    """A pass from pixels to logits, timed in turns with others on the same images.

    Attributes:
      name: "ANN", the float network; or an execution of the integers.
      milliseconds_per_example: the median over rounds.
      ratio: to the pass of the ANN, the median of that within each round.
    """

    name: str
    milliseconds_per_example: float
    ratio: float


class IntegersResult(Struct, frozen=True, kw_only=True):
    """The network in integers.

    Attributes:
      bits: of a weight.
      folder: it is in.
      steps: what it does, a row for each T.
      qat: how its weights were fine-tuned; None for rounding alone.
      times: of passes, the ANN first; none in older files.
      timed_at: the T of those passes.
      rounding: how weights were rounded that were not fine-tuned; None in older files,
        where that was "nearest".
      hardware: what chips hold of it, a row for each T; none where none was asked for.
    """

    bits: int
    folder: str
    steps: tuple[IntegersAtSteps, ...]
    qat: TuningResult | None = None
    times: tuple[PassTime, ...] = ()
    timed_at: int | None = None
    rounding: RoundingResult | None = None
    hardware: tuple[HardwareAtSteps, ...] = ()


class ConversionResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is in `conversion.json`.

    Attributes:
      run: that was converted.
      machine: that the numbers are from.
      examples: how many were evaluated.
      ann: the network as it was trained.
      steps: what was measured, a row for each T; one at least.
      conversion: what changed.
      fixed_point: the network in integers; None without.
      raster: one example, spike by spike.
      attention: spikes by head and by place; None without attention.
      noun: what examples are called, in the plural.
      measure: the name of the score that stands in each `accuracy`.
      answers: what predictions are called, in the plural.
      gallery: examples and the boxes that networks find in them; none of other tasks.
      coding: of the spikes: "bits", or "signed_digits" for one step more than T.
    """

    run: ConvertedRun
    machine: MachineRecord
    examples: int
    ann: AnnResult
    steps: tuple[StepsResult, ...]
    conversion: Changes
    fixed_point: IntegersResult | None = None
    raster: Raster | None = None
    attention: AttentionSpikes | None = None
    noun: str = "images"
    measure: str = "accuracy"
    answers: str = "predictions"
    gallery: tuple[Picture, ...] = ()
    coding: str = "bits"

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("steps must have a row for some T, and is empty")

    @property
    def native(self) -> StepsResult:
        """The row of the T that the network was trained for; the first without one."""
        return next((r for r in self.steps if r.steps == self.run.steps), self.steps[0])
