"""A reading: what a value is, and what becomes of each operation, in one place."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend.core import JaxprEqn

from bitsnn_jax.numerics.qcfs import qcfs_p
from bitsnn_jax.tracing.equations import apply_equation, at_precision, parts
from bitsnn_jax.tracing.fast_convolutions import fast_equation
from bitsnn_jax.tracing.linearity import linear_operands
from bitsnn_jax.tracing.pointwise import PointwiseFn
from bitsnn_jax.tracing.sites import Site
from bitsnn_jax.tracing.values import (
    Analog,
    Constant,
    Current,
    Step,
    Value,
    Waiting,
)


class Nonspiking(NamedTuple):
    """An operation that has no spiking form, and the module it stands in."""

    operation: str
    path: str


class SpikingError(ValueError):
    """The program, or a part of it, has no spiking form."""


class Reading:
    """What an interpretation must say. Subclasses keep their results as attributes.

    Attributes:
      activation_name: what its neurons are in the program; for messages.
      enters_all: whether functions with gradients of their own are entered always, and
        not only for the neurons in them.
      precision: of operations that have one and ask for none themselves.
      has_tables: whether it knows neurons with a function in front of the code.
      has_integers: whether a current may be of integers, as the input is where all of a
        program is followed.
      computed: what became of values that waited for a code and got none.
    """

    activation_name = "QCFS"
    enters_all = False
    precision: Any = None
    has_tables = False
    has_integers = False

    def __init__(self, *, nonspiking: str = "error"):
        if nonspiking not in ("error", "decode"):
            raise ValueError(
                f'nonspiking must be "error" or "decode", got {nonspiking!r}'
            )
        self.decodes = nonspiking == "decode"
        self.sites: list[Site] = []
        self.nonspiking: list[Nonspiking] = []
        self.computed: dict[int, tuple[Step, Value]] = {}

    def marks(self, eqn: JaxprEqn) -> bool:
        """Tell whether this operation alone shows that it is one of its neurons."""
        return eqn.primitive is qcfs_p

    def holds(self, eqn: JaxprEqn, values: Sequence[Waiting]) -> bool:
        """Tell whether its neurons are in the programs inside of this operation."""
        return any(
            self.marks(inner) or self.holds(inner, ())
            for part in parts(eqn)
            for inner in part.jaxpr.eqns
        )

    def neuron(self, site: Site, z: Value, theta: Constant) -> Value:
        """Make something of a QCFS site."""
        raise NotImplementedError

    def pointwise_neuron(
        self, site: Site, z: Value, theta: Constant, fn: PointwiseFn
    ) -> Value | None:
        """Make something of a QCFS site that is fed fn(z).

        None, as here: fn is computed like any operation without a spiking form.
        """
        return None

    def plain(self, eqn: JaxprEqn, values: Sequence[Value]) -> Sequence[Value]:
        """Do an operation on values without time: as it is, unless overridden."""
        kind = Constant if all(isinstance(v, Constant) for v in values) else Analog
        return [kind(y) for y in self.bind(eqn, [v.value for v in values])]

    def timeless(
        self, eqn: JaxprEqn, values: Sequence[Value], scope: tuple[str, ...]
    ) -> Sequence[Value]:
        """Do the same, knowing the modules that it stands in."""
        return self.plain(eqn, values)

    def bind(self, eqn: JaxprEqn, arrays: Sequence[Any]) -> list[Any]:
        """Do an operation on arrays; a convolution in its fastest form."""
        eqn = fast_equation(at_precision(eqn, self.precision))
        return apply_equation(eqn, arrays)

    def moved(
        self,
        eqn: JaxprEqn,
        values: Sequence[Value],
        sizes: Sequence[tuple[int, ...]],
        path: str,
    ) -> Sequence[Value]:
        """Do what leaves trains of spikes trains; `sizes` of the results."""
        operands = linear_operands(eqn, [isinstance(v, Current) for v in values])
        assert operands is not None, "moves are linear"
        return self.linear(eqn, values, operands, path)

    def linear(
        self, eqn: JaxprEqn, values: Sequence[Value], operands: Sequence[int], path: str
    ) -> Sequence[Value]:
        """Do what is linear in `operands` taken together, one of which is a current.

        The other operands have no time.
        """
        raise NotImplementedError

    def product(
        self, eqn: JaxprEqn, values: Sequence[Value], streamed: int, path: str
    ) -> Sequence[Value] | None:
        """Do what is linear in each of two currents while the other is held.

        The operand `streamed` is driven by spikes, each of which adds what the other
        has brought in all steps. None, as here: it has no spiking form.
        """
        return None

    def mixed(
        self, eqn: JaxprEqn, values: Sequence[Value], path: str
    ) -> Sequence[Value] | None:
        """Do a `numerics.mixing` operation on a current.

        None, as here: it has no spiking form.
        """
        return None

    def maximum(self, eqn: JaxprEqn, spikes: Current, sizes: tuple) -> Current:
        """Take a maximum over places of one spike train; `sizes` of the result."""
        raise NotImplementedError

    def decode(self, current: Current, path: str) -> Analog:
        """Return the value of a current: its sum over time."""
        raise NotImplementedError
