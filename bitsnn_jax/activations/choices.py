"""What becomes of each activation: a neuron in its place, or one behind it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.activations.found import Activations
from bitsnn_jax.activations.recognition import (
    FUNCTIONS,
    Numbers,
    Recognised,
    recognise_region,
)
from bitsnn_jax.activations.regions import Region, region_bounds
from bitsnn_jax.activations.trained_scales import (
    Trained,
    find_trained,
    with_scales,
)
from bitsnn_jax.tracing.literals import number
from bitsnn_jax.tracing.program import ApplyFn
from bitsnn_jax.tracing.values import Constant

OFF = "/off"  # behind the path of the neurons for negative values


@dataclasses.dataclass(frozen=True)
class Choice:
    """What becomes of an activation.

    Attributes:
      path: its name.
      function: what it was recognised as; None if as nothing.
      region: the activation.
      clips: whether it is min(max(z, 0), cap), so that the code takes its place;
        otherwise the code comes behind it.
      low, high: what its values lie between.
      left: why it gets no code; "" if it gets one.
      note: what else is to say.
      of_input: whether it stands between the input and the first weights.
      trained: the scale that the network was trained with.
    """

    path: str
    function: str | None
    region: Region
    clips: bool = False
    low: float = -np.inf
    high: float = np.inf
    left: str = ""
    note: str = ""
    of_input: bool = False
    trained: Trained | None = None

    @property
    def cap(self) -> float | None:
        """The largest value, if it has one."""
        return float(self.high) if self.high < np.inf else None

    @property
    def off_cap(self) -> float | None:
        """The largest negative value, if it has one."""
        return float(-self.low) if -np.inf < self.low < 0 else None

    @property
    def name(self) -> str:
        """The function, or its operations."""
        return self.function or " ".join(op.name for op in self.region.bent)


def choose(
    activations: Activations,
    numbers: Numbers = number,
    taken: Mapping[str, Trained] | None = None,
) -> list[Choice]:
    """Choose what becomes of each activation, as far as the program tells.

    Args:
      activations: of the program.
      numbers: what numbers a constant has, see `read_numbers`.
      taken: the trained scales, if they are known already.
    """
    make = _Chooser(activations, numbers, taken)
    return [make.choice(*item) for item in activations.named.items()]


@dataclasses.dataclass
class _Chooser:
    activations: Activations
    numbers: Numbers
    taken: Mapping[str, Trained] | None

    def choice(self, path: str, region: Region) -> Choice:
        choice = self.of_trained(path, region)
        found = None
        if choice is None:
            found = recognise_region(region, self.numbers)
            choice = self.of_function(path, region, found)
        roles = self.activations.roles
        left = roles.needs_none(region, choice.function)
        if left is not None:
            return dataclasses.replace(choice, left=left)
        choice = dataclasses.replace(choice, of_input=roles.is_of_input(region))
        pooled = self.activations.regions.behind_pooling(choice.region)
        if not pooled.pooling:
            return choice
        moves = found is not None and found.is_increasing and _is_said(region)
        if not (choice.clips or moves):
            note = "behind a maximum over places, which is decoded"
            return dataclasses.replace(choice, note=note)
        note = "moved in front of the maximum over places"
        note = f"{choice.note}; {note}" if choice.note else note
        return dataclasses.replace(choice, region=pooled, note=note)

    def of_trained(self, path: str, region: Region) -> Choice | None:
        """Take over the scale that an activation was trained with."""
        regions = self.activations.regions
        if self.taken is None:
            trained = find_trained(regions, region, self.numbers)
        else:
            trained = self.taken.get(path)
        if trained is None:
            return None
        whole = regions.extended(region, trained.before, trained.behind)
        if whole is None:
            raise ValueError(
                f"the trained scale of {path} is not where it was in the program: "
                "quantise this network"
            )
        name, note = "trained clip", "theta as trained"
        if trained.levels is not None:
            name = f"trained grid of {trained.levels}"
            note = "theta and levels as trained; halves round up, not to even"
        return Choice(path, name, whole, True, 0, note=note, trained=trained)

    def of_function(self, path, region, found: Recognised | None) -> Choice:
        bounds = region_bounds(region)
        if bounds is None and found is not None and found.clips and _is_said(region):
            bounds = 0.0, found.high
        name = self.called(region, found)
        if name and any(np.size(self.numbers(c)) > 1 for c in region.constants):
            name += ", by channel"
        if bounds is not None and bounds[0] == 0 and (bounds[1] is None or bounds[1]):
            high = np.inf if bounds[1] is None else bounds[1]
            whole = self.with_offset(region)
            if whole is not None:
                return Choice(path, name or "relu", whole, False, 0, high)
            return Choice(path, name or "relu", region, True, 0, high)
        if found is None:
            return Choice(path, None, region)
        note = "" if found.has_tables else "rises and falls again: decoded"
        return Choice(path, name, region, False, found.low, found.high, note=note)

    def with_offset(self, region: Region) -> Region | None:
        """Take in a number that is added to weighted values in front of a clip.

        It stands behind the bias, so that neurons can only take it up in their
        function: relu6(z + 3). None if there is none.
        """
        regions, roles = self.activations.regions, self.activations.roles
        found = None
        for before in (1, 2):
            whole = regions.extended(region, before, 0)
            if whole is None or not _is_said(whole) or not roles.is_fed(whole):
                break
            if whole.operations[0].name in ("add", "sub"):
                found = whole
        return found

    def called(self, region: Region, found: Recognised | None) -> str | None:
        """Name a function, with the scales around it where they belong to it."""
        if found is not None and (found.name in FUNCTIONS or found.name == "relu"):
            return found.name
        for before, behind in ((1, 0), (1, 1), (2, 0), (0, 1), (2, 1)):
            whole = self.activations.regions.extended(region, before, behind)
            if whole is None or not _is_said(whole):
                continue
            known = recognise_region(whole)
            if known is not None and known.name in FUNCTIONS:
                return known.name
        return None if found is None else found.name


def _is_said(region: Region) -> bool:
    """Tell whether the program itself says all that the function is made of."""
    return all(number(constant) is not None for constant in region.constants)


def read_numbers(
    apply_fn: ApplyFn, variables: Any, x: Any
) -> tuple[Activations, Numbers]:
    """Find the activations of a network, and the numbers that variables bring to them.

    Returns:
      The activations, and a function that says of a constant what number it is: [], or
      [C] with one for each channel, or None if it is neither.
    """
    found: list[Activations] = []

    def look(variables):
        activations = Activations(apply_fn, variables, x)
        found.append(activations)
        return [_profile(*item) for item in _constants(activations)]

    numbers: list[Any] = jax.eval_shape(look, variables)
    if numbers:
        numbers = jax.device_get(jax.jit(look)(variables))
    activations = found[-1]
    known = {
        id(constant): profile if is_even else None
        for (constant, _), (profile, is_even) in zip(
            _constants(activations), numbers, strict=True
        )
    }

    def of_constant(constant: Constant) -> Any:
        said = number(constant)
        return known.get(id(constant)) if said is None else said

    return activations, of_constant


def _constants(activations: Activations) -> list[tuple[Constant, int | None]]:
    """List what the program does not say itself, with the axis of the channels."""
    found = {}
    for region in activations.named.values():
        for value in with_scales(activations.regions, region).constants:
            if value.number is None:
                found[id(value)] = value, region.start.channels
    return list(found.values())


def _profile(constant: Constant, axis: int | None) -> tuple[jax.Array, jax.Array]:
    """Reduce a constant to one number for each channel; say whether that is all."""
    value = jnp.asarray(constant.value)
    if value.ndim == 0:
        return value, jnp.asarray(True)
    sizes = value.shape if constant.sizes is None else constant.sizes
    if axis is None or axis >= value.ndim or sizes[axis] == 1:
        profile = value.ravel()[:1]
        return profile[0], jnp.all(value == profile[0])
    rows = jnp.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])
    return rows[0], jnp.all(rows == rows[0])
