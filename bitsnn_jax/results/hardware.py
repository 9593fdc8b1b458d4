"""The part of `conversion.json` about hardware: needs, limits, narrow membranes."""

from msgspec import Struct


class LayerOnHardware(Struct, frozen=True, kw_only=True):
    """What a layer needs; the fields are those of `integers.needs.LayerNeeds`.

    Attributes:
      largest: the largest |membrane| on the images.
      row_entries: 0 in results from before there were routines.
    """

    name: str
    kind: str
    neurons: int
    weight_bits: int
    distinct_weights: int
    weights: int
    memory_bits: int
    connections: int
    fan_in: int
    fan_out: int
    input_bits: int
    message_bits: int
    bound: int
    low: int
    high: int
    accumulator_bits: int
    largest: int
    row_entries: int = 0


class NarrowMembranes(Struct, frozen=True, kw_only=True):
    """What the network does with membranes of so many bits.

    Attributes:
      bits: with the sign.
      overflow: "saturate" or "wrap".
      accuracy: on all examples.
      codes, outputs: that were compared with those of wide membranes.
      codes_differing, outputs_differing, predictions_differing: how many are others.
      overflowing: layers with a sum that did not fit.
    """

    bits: int
    overflow: str
    accuracy: float
    codes: int
    codes_differing: int
    outputs: int
    outputs_differing: int
    predictions_differing: int
    overflowing: tuple[str, ...]


class UnmetLimit(Struct, frozen=True, kw_only=True):
    """A limit that does not hold what a layer needs, or the network ("")."""

    layer: str
    limit: str
    needed: int
    available: int


class TargetResult(Struct, frozen=True, kw_only=True):
    """What of the network a chip holds.

    Attributes:
      name, title: of the chip.
      fires: its neurons can send a code of T bits.
      fitting: layers that no limit excludes.
      unmet: what does not fit, and by how much.
      words: all that in a line; "" where everything fits.
      unpublished: limits that are not known, and not judged.
      membranes: what its width makes of the codes, where some sum might not fit; None
        where every sum fits, and where the width is not published.
    """

    name: str
    title: str
    fires: bool
    fitting: int
    unmet: tuple[UnmetLimit, ...]
    words: str
    unpublished: tuple[str, ...]
    membranes: NarrowMembranes | None = None

    @property
    def fits(self) -> bool:
        """Every layer fits, and so does the whole."""
        return self.fires and not self.unmet


class HardwareAtSteps(Struct, frozen=True, kw_only=True):
    """Layers and chips at one T."""

    steps: int
    layers: tuple[LayerOnHardware, ...]
    targets: tuple[TargetResult, ...]
