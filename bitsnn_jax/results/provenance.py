"""Where numbers come from: the run and the machine."""

from msgspec import Struct


class RunRecord(Struct, frozen=True, kw_only=True):
    """The run that numbers are of, and the command that they come from.

    Attributes:
      name: of the run.
      model: its architecture.
      dataset: what it was trained on.
      checkpoint_step: of the checkpoint that was taken.
      seed: of its training.
      version: of this package.
      commit: of the code that trained it; None where that is not known.
      command: that was given; "" where none was.
    """

    name: str
    model: str
    dataset: str
    checkpoint_step: int
    seed: int
    version: str
    commit: str | None = None
    command: str = ""


class MachineRecord(Struct, frozen=True, kw_only=True):
    """What the numbers were computed on, and when."""

    jax: str
    device: str
    num_devices: int
    time: str
