"""A network with codes, or anything else, in the place of its activations."""

import dataclasses
import glob
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bitsnn_jax.activations.choices import OFF, Choice, choose
from bitsnn_jax.activations.found import Activations
from bitsnn_jax.activations.recognition import evaluated
from bitsnn_jax.activations.replay import Schedule
from bitsnn_jax.activations.trained_scales import Trained
from bitsnn_jax.conversion.by_path import ByPath, Skip, at_path, is_skipped
from bitsnn_jax.conversion.candidates import along
from bitsnn_jax.conversion.random_keys import Key, with_keys
from bitsnn_jax.conversion.report import ActivationReport
from bitsnn_jax.numerics.qcfs import qcfs
from bitsnn_jax.tracing.equations import named
from bitsnn_jax.tracing.program import ApplyFn
from bitsnn_jax.tracing.reading import Nonspiking
from bitsnn_jax.tracing.sites import check_theta


def run_coded(
    activations: Activations,
    choices: Iterable[Choice],
    x: Any,
    code: Callable[[Choice, Any], Any],
) -> Any:
    """Run a program with `code(choice, source)` in the place of some activations."""
    chosen = {choice.region: choice for choice in choices}
    schedule = Schedule(activations.recorded, chosen)
    return schedule.run(x, lambda region, source: code(chosen[region], source))


@dataclasses.dataclass(frozen=True, eq=False)
class ReplacedReLU:
    """What `replace_relu` returns: a class, so that it can be pickled.

    Attributes:
      apply_fn, levels, channel_axis, skip: as given.
      keys: random keys, where the network's variables have None.
      taken: scales that the network was trained with; None: not looked for.
      activations, left: see `Quantised.report`; activations without thresholds.
    """

    apply_fn: ApplyFn
    levels: ByPath[int]
    channel_axis: int | None = None
    keys: tuple[Key, ...] = ()
    left: tuple[Nonspiking, ...] = ()
    skip: Skip = ()
    taken: Mapping[str, Trained] = dataclasses.field(default_factory=dict)
    activations: tuple[ActivationReport, ...] = ()

    def __call__(self, variables: dict[str, Any], x: Any) -> Any:
        thetas, offsets = variables["theta"], variables.get("offset", {})
        network = with_keys(variables["network"], self.keys)
        activations = Activations(self.apply_fn, network, x)
        choices = [
            choice
            for choice in choose(activations, taken=self.taken)
            if not is_skipped(self.skip, choice.path)
            and (not choice.left or _has(thetas, choice.path))
        ]
        _check_names(thetas, choices, activations)

        def code(choice: Choice, source: Any) -> Any:
            region = choice.region
            site = partial(self._site, choice, thetas, offsets)
            if choice.clips:
                a = site(choice.path, source, choice.cap)
                return region.pooled(a)
            y = evaluated(region, source) if region.pooling else region(source)
            off = choice.path + OFF
            signs = []
            if choice.path in thetas:
                signs += [site(choice.path, y, choice.cap)]
            if off in thetas:
                signs += [-site(off, -y, choice.off_cap)]
            return region.pooled(sum(signs[1:], signs[0]))

        return run_coded(activations, choices, x, code)

    def _site(self, choice, thetas, offsets, path, z, cap) -> jax.Array:
        """Put neurons at z."""
        check_theta(thetas[path], path)
        levels = levels_at(self.levels, choice)
        # Types below float32 cannot hold the top code, as in layers.QCFS.
        wide = jnp.promote_types(z.dtype, jnp.float32)
        theta = jnp.asarray(thetas[path], wide)

        def shaped(values):
            axis = choice.region.source.channels
            axis = channels_of(axis, self.channel_axis, choice, z)
            return _along(values, axis, choice, z)

        with named(("network", path)):
            if path in offsets:
                z = z + shaped(jnp.asarray(offsets[path], z.dtype))
            theta = shaped(theta) if theta.ndim else theta
            if cap is not None:  # not jnp.minimum, whose gradient is halved at the cap
                theta = jnp.where(theta > cap, cap, theta)
            return qcfs(z.astype(wide), theta, levels=levels).astype(z.dtype)


def levels_at(levels: ByPath[int], choice: Choice) -> int:
    """Return the highest code of an activation."""
    if choice.trained is not None and choice.trained.levels is not None:
        return choice.trained.levels
    found = at_path(levels, choice.path, "levels")
    check_levels(found)
    return found


def check_levels(levels: ByPath[int]) -> None:
    """Raise ValueError if a number of levels is below 1."""
    values = levels.values() if isinstance(levels, Mapping) else [levels]
    for value in values:
        if not callable(value) and value < 1:
            raise ValueError(f"levels must be at least 1, got {value}")


def exactly(paths: Iterable[str]) -> tuple[str, ...]:
    """Write paths as patterns that match nothing else."""
    return tuple(map(glob.escape, paths))


def channels_of(found: int | None, given: int | None, choice: Choice, z: Any) -> int:
    """Find the axis of the channels of z, not negative."""
    axis = found if given is None else given
    if axis is None and z.ndim < 3:
        axis = -1
    if axis is None:
        raise ValueError(
            f"which axis has the channels of {_the(choice)}, of shape {z.shape}, "
            "cannot be told: no convolution or dense layer leads to it; give "
            "channel_axis"
        )
    if not -z.ndim <= axis < z.ndim:
        raise ValueError(
            f"channel_axis={axis} is no axis of {_the(choice)}, of shape {z.shape}"
        )
    return axis % z.ndim


def _along(theta, axis, choice, z):
    """Shape thresholds for each channel so that they broadcast against z."""
    if theta.shape != z.shape[axis : axis + 1]:
        raise ValueError(
            f"theta of {_the(choice)} must be one number or "
            f"{z.shape[axis : axis + 1]}, one for each channel; got the shape "
            f"{theta.shape}"
        )
    return along(theta, z, axis)


def _the(choice: Choice) -> str:
    name = "ReLU" if choice.clips else choice.name
    return f"the {name} {choice.path}"


def _has(thetas, path: str) -> bool:
    return path in thetas or path + OFF in thetas


def _check_names(thetas, choices, activations) -> None:
    """Raise ValueError unless each activation has a threshold, and nothing else."""
    missing = [choice for choice in choices if not _has(thetas, choice.path)]
    if missing:
        raise ValueError(
            f"theta has none for {_the(missing[0])}, only for "
            f"{', '.join(sorted(thetas)) or 'nothing'}: quantise this network"
        )
    paths = [choice.path for choice in choices]
    known = {*paths, *(c.path + OFF for c in choices if not c.clips)}
    if extra := sorted(thetas.keys() - known):
        raise ValueError(
            f"theta has some for {', '.join(extra)}, but the ReLUs of this network "
            f"are {', '.join(paths) or 'none'}: quantise this network"
        )
