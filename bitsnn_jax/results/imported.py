"""`import.json`: what became of a network of another framework."""

from msgspec import Struct

from bitsnn_jax.results.conversion import CertificateResult, NonspikingOperation
from bitsnn_jax.results.provenance import MachineRecord


class ImportedAtSteps(Struct, frozen=True, kw_only=True):
    """The spiking network at one T, beside the network that was imported.

    Attributes:
      steps: T.
      agreement: share of images on which both say the same.
      spikes_per_neuron: over all steps.
      milliseconds_per_example: stepped, without compilation.
      certificate: by precision; compared is the network quantised for T.
      accuracy: top-1, where the folders of the images are the classes.
    """

    steps: int
    agreement: float
    spikes_per_neuron: float
    milliseconds_per_example: float
    certificate: dict[str, CertificateResult]
    accuracy: float | None = None


class ImportResult(Struct, frozen=True, kw_only=True):
    """What is in `import.json`.

    Attributes:
      checkpoint: the name of its file; "" for none.
      model: what it is of.
      method, per_channel, sequential, correct_biases: how thresholds were found.
      coding: of the spikes, as in `ConversionResult`.
      calibrated_on, compared_on: how many images.
      same_images: whether those are the same.
      steps: a row for each T.
      ann_accuracy: of the imported network, as in the rows.
      neuron_layers: how many there are.
      left: operations that are computed on real numbers.
      version, commit, command, machine: where the numbers come from.
    """

    checkpoint: str
    model: str
    method: str
    per_channel: bool
    sequential: bool = False
    correct_biases: bool = False
    coding: str = "bits"
    calibrated_on: int
    compared_on: int
    same_images: bool
    steps: tuple[ImportedAtSteps, ...]
    version: str
    commit: str | None
    command: str
    machine: MachineRecord
    ann_accuracy: float | None = None
    neuron_layers: int = 0
    left: tuple[NonspikingOperation, ...] = ()
