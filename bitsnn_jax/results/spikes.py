"""The part of `conversion.json` about spikes: by layer, by head, of one example."""

from msgspec import Struct

from bitsnn_jax.results.pictures import NamedBox

# An image as nested lists: [H, W] or [H, W, C].
Pixels = tuple[tuple[int | float | tuple[int | float, ...], ...], ...]


class LayerSpikes(Struct, frozen=True, kw_only=True):
    """Spikes of a layer: for each step, per neuron and example."""

    path: str
    neurons: int
    spikes: tuple[float, ...]


class LayerRaster(Struct, frozen=True, kw_only=True):
    """Spikes of sampled neurons of a layer, [neurons, T]; -1 for a negative digit."""

    path: str
    neurons_total: int | None = None
    spikes: tuple[tuple[int, ...], ...]


class LayerPlaces(Struct, frozen=True, kw_only=True):
    """Spikes of a layer at each place of one example: per neuron, [places, T]."""

    path: str
    neurons: int
    spikes: tuple[tuple[float, ...], ...]


class Raster(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One example on its way through the network.

    Attributes:
      example: which one.
      label, prediction: its class, and what the network says; None of an example with
        boxes.
      steps: of a layer: T, and one more of signed digits.
      layers: spikes of some neurons of each.
      logits: the output; None of an example with boxes.
      found: boxes that the network finds; None of an example of one class.
      image: its pixels; None of an example that is no image.
      words: what stands at its places, without padding; none of an image.
      places: spikes at each of those places, or of the patches of an image; none of a
        network without attention.
    """

    example: int
    label: int | None = None
    prediction: int | None = None
    steps: int
    layers: tuple[LayerRaster, ...]
    logits: tuple[float, ...] | None = None
    found: tuple[NamedBox, ...] | None = None
    image: Pixels | None = None
    words: tuple[str, ...] = ()
    places: tuple[LayerPlaces, ...] = ()

    def __post_init__(self) -> None:
        for name in ("label", "prediction", "logits"):
            if self.found is None and getattr(self, name) is None:
                raise ValueError(f"Object missing required field `{name}`")


class HeadSpikes(Struct, frozen=True, kw_only=True):
    """Spikes of a layer in each head of attention: per neuron, over all steps.

    Neurons at empty places are left out.
    """

    path: str
    spikes: tuple[float, ...]


class AttentionSpikes(Struct, frozen=True, kw_only=True):
    """Spikes of a network with attention, over all examples.

    Attributes:
      steps: T.
      place: what attention looks at, in the singular, such as "word".
      places: of one example, padding included.
      filled: how many of them hold something; the mean.
      spikes_per_place: of a filled one, in all layers together.
      empty_share: of the spikes of these layers, what neurons at padding send.
      heads: layers that have heads.
    """

    steps: int
    place: str
    places: int
    filled: float
    spikes_per_place: float
    empty_share: float
    heads: tuple[HeadSpikes, ...]
