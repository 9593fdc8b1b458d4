"""A network while its thresholds are sought."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.activations.choices import OFF, Choice, choose
from bitsnn_jax.activations.found import Activations
from bitsnn_jax.activations.trained_scales import Trained
from bitsnn_jax.conversion.batches import progress
from bitsnn_jax.conversion.by_path import ByPath, Skip, at_path, is_skipped
from bitsnn_jax.conversion.candidates import Activation
from bitsnn_jax.conversion.coding import channels_of, levels_at, run_coded
from bitsnn_jax.conversion.report import ActivationReport
from bitsnn_jax.tracing.program import ApplyFn


class Sought:
    """A network while its thresholds are sought.

    Attributes:
      choices: what becomes of each activation.
      reasons: path -> why it gets no code.
      signs: path -> which signs its values have, 1 and -1.
    """

    def __init__(
        self,
        apply_fn: ApplyFn,
        choices: list[Choice],
        *,
        skip: Skip,
        levels: ByPath[int],
        method: ByPath[str],
        per_channel: ByPath[bool],
        channel_axis: int | None,
        correct_biases: bool,
    ):
        self.apply_fn = apply_fn
        self.choices = choices
        self.levels = levels
        self.method = method
        self.correct_biases = correct_biases
        self.per_channel = per_channel
        self.channel_axis = channel_axis
        self.reasons = {c.path: c.left for c in choices if c.left}
        self.reasons |= {c.path: "skip" for c in choices if is_skipped(skip, c.path)}
        self.signs = {c.path: (1,) if c.low >= 0 else (1, -1) for c in choices}

    @property
    def coded(self) -> list[Choice]:
        """The activations that get a code."""
        return [c for c in self.choices if c.path not in self.reasons]

    @property
    def methods(self) -> set[str]:
        """How thetas are chosen."""
        return {at_path(self.method, c.path, "method") for c in self.coded}

    @property
    def taken(self) -> dict[str, Trained]:
        """The trained scales, without their thetas."""
        return {c.path: c.trained._replace(theta=None) for c in self.coded if c.trained}

    @property
    def trained(self) -> dict[str, np.ndarray]:
        """The thetas of the trained scales."""
        return {c.path: np.asarray(c.trained.theta) for c in self.coded if c.trained}

    def sites(self, choice: Choice) -> tuple[str, ...]:
        """Name the neurons of an activation."""
        names = {1: choice.path, -1: choice.path + OFF}
        return tuple(names[sign] for sign in self.signs[choice.path])

    def run(self, visit, variables, x) -> Any:
        """Run it; `visit(path, Activation, z)` says what each activation sends."""

        def code(choice, z, y):
            if choice.trained:
                return y()
            if choice.clips:
                return visit(choice.path, self._activation(choice, z, 1), z)
            sent = [
                sign * visit(path, self._activation(choice, y(), sign), sign * y())
                for sign, path in zip(
                    self.signs[choice.path], self.sites(choice), strict=True
                )
            ]
            return sum(sent[1:], sent[0])

        return self._run(variables, x, code)

    def _run(self, variables, x, code) -> Any:
        """Run it with code(choice, z, y) at each activation; y computes its value."""
        activations = Activations(self.apply_fn, variables, x)
        paths = {choice.path for choice in self.coded}
        choices = [c for c in choose(activations, taken=self.taken) if c.path in paths]

        def at(choice, source):
            z = choice.region.pooled(source)
            return code(choice, z, lambda: choice.region(z))

        return run_coded(activations, choices, x, at)

    def _activation(self, choice, z, sign) -> Activation:
        cap = choice.cap if sign > 0 else choice.off_cap
        levels = levels_at(self.levels, choice)
        axis, per_channel = -1, at_path(self.per_channel, choice.path, "per_channel")
        if per_channel or self.correct_biases:
            axis = choice.region.start.channels
            axis = channels_of(axis, self.channel_axis, choice, z)
        method = at_path(self.method, choice.path, "method")
        return Activation(levels, per_channel, cap, axis, method)

    def look_at(self, variables: Any, batches: Sequence[Any]) -> None:
        """Decide what the data decide: signs, and clips of the input that do nothing.

        They are run through the network once more, if there is anything to decide.
        """
        asked = {
            c.path for c in self.coded if c.of_input or (not c.clips and c.low < 0)
        }
        if not asked:
            return

        def extremes(variables, x):
            found = {}

            def code(choice, z, y):
                a = y()
                if choice.path in asked:
                    off = jnp.max(jnp.abs(a - z))
                    found[choice.path] = jnp.stack([-jnp.min(a), jnp.max(a), off])
                return a

            self._run(variables, x, code)
            return found

        extremes = jax.jit(extremes)
        seen: dict[str, np.ndarray] = {}
        for x in progress(batches, "looking at signs"):
            for path, values in extremes(variables, x).items():
                values = np.asarray(values)
                seen[path] = np.maximum(values, seen.get(path, values))
        for choice in self.coded:
            if choice.path in asked:
                self._decide(choice, *seen[choice.path])

    def _decide(self, choice, most_off, most_on, off) -> None:
        if choice.clips:
            if off == 0:
                self.reasons[choice.path] = "of the input: it changes no value"
            return
        half_step = max(most_on, 0) / levels_at(self.levels, choice) / 2
        if most_off < half_step or most_off <= 0:
            self.signs[choice.path] = (1,)
        elif most_on <= 0:
            self.signs[choice.path] = (-1,)

    def report(self, activations: Activations) -> tuple[ActivationReport, ...]:
        """Say what becomes of each activation, and of regions that are none."""
        found = [
            ActivationReport(c.path, c.name, note=self.reasons[c.path])
            if c.path in self.reasons
            else ActivationReport(
                c.path, c.name, self.sites(c), levels_at(self.levels, c), (), c.note
            )
            for c in self.choices
        ]
        dismissed = [
            ActivationReport(
                "/".join(region.scope) or "the program",
                " ".join(op.name for op in region.bent),
                note=why,
            )
            for region, why in activations.dismissed
        ]
        return (*found, *dismissed)
