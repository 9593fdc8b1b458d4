"""Proposition I on the parameters: the biases of a program, shifted for T steps.

An affine map g that is fed by spikes is applied T times, so its constant part would
enter T times. Proposition I asks for g_c with sum_t g_c(x_t) = g(sum_t x_t), that is

    g_c(x) = g(x) - (1 - 1/T) g(0).

Only biases may change. So each current is followed together with its *excess*, the
charge (1 - 1/T) c that constants c have brought to it in each step and should not have.
The next bias b takes the excess up: b_c = b/T - excess. For a batch norm, whose mean is
subtracted first, that is

    beta_c = beta/T + (1 - 1/T) gamma mu / sigma,

and for a convolution or a dense layer b_c = b/T.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bitsnn_jax.conversion.bias_ledger import (
    BiasLedger,
    DifferentPlaces,
    Origin,
    moved,
)
from bitsnn_jax.conversion.spiking import spiking
from bitsnn_jax.numerics.spikes import check_steps
from bitsnn_jax.numerics.tables import has_one_lobe
from bitsnn_jax.tracing.equations import apply_equation
from bitsnn_jax.tracing.independence import warn_unless_apart
from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.reading import Nonspiking, Reading, SpikingError
from bitsnn_jax.tracing.real_valued import RealInput, StreamedProduct, real_numbers
from bitsnn_jax.tracing.values import Analog, Constant, Current


class Shift(NamedTuple):
    """A bias that the conversion changed."""

    path: str
    largest_change: float


class Neurons(NamedTuple):
    """A layer of neurons. `shape` is that of the example, batch included."""

    path: str
    shape: tuple[int, ...]
    theta: Array
    levels: int


class Report(NamedTuple):
    """What the conversion did and found.

    Attributes:
      steps: T.
      changed: the biases that were shifted.
      neurons: the layers of neurons, in the order of firing.
      nonspiking: operations that are not affine and no neurons, and so are computed on
        real numbers: in front of the first neurons, or decoded.
      analog: convolutions and dense layers that real numbers feed in place of spikes.
        The first layers, which see the image, are not among them.
      products: of two currents, and which of them is streamed.
    """

    steps: int
    changed: list[Shift]
    neurons: list[Neurons]
    nonspiking: list[Nonspiking]
    analog: list[RealInput]
    products: list[StreamedProduct]

    @property
    def lossless(self) -> bool:
        """Whether T bits hold every code that the network was trained with."""
        return all(n.levels == 2**self.steps - 1 for n in self.neurons)


class Conversion(NamedTuple):
    """The variables of the spiking network, and how they came about."""

    variables: Any
    report: Report


def convert(
    apply_fn: ApplyFn,
    variables: Any,
    example: Any,
    *,
    steps: int,
    nonspiking: str = "error",
) -> Conversion:
    """Shift the biases of the layers that are fed by spikes (Proposition I).

        batch norm:             beta_c = beta/T + (1 - 1/T) gamma mu / sigma
        convolution and dense:  b_c = b/T

    Which layers those are is found by tracing, not by name; layers that see the analog
    input are left alone, and so is every leaf that is not added to a current. Differs
    from the paper, whose main text and Algorithm 1 print gamma mu / beta, and which
    requires batch norm: any affine map converts.

    Args:
      apply_fn: pure, (variables, x) -> output.
      variables: pytree of arrays, in the precision that the network will run in: a bias
        shifted in float32 is not exact in float64.
      example: an input, or `jax.ShapeDtypeStruct`s of one; a batch of 1 will do. With
        values, a warning is given where examples of a batch depend on one another.
      steps: T.
      nonspiking: as in `spiking`.

    Returns:
      Conversion(variables, report): variables has the tree structure, shapes and types
      of the input.

    Raises:
      ValueError: steps out of range, an empty example, a theta that is not positive, a
        bias that would not be finite; SpikingError: a bias that is
        added both to analog values and to currents, a constant with no bias behind it
        that could take it up, or an operation without a spiking form.

    >>> from bitsnn_jax import qcfs
    >>> def net(v, x):
    ...     return qcfs(x + v["stem"], 1.0) @ v["kernel"] + v["bias"]
    >>> variables = {"stem": jnp.ones(2), "kernel": jnp.eye(2), "bias": jnp.ones(2)}
    >>> converted, report = convert(net, variables, jnp.zeros((1, 2)), steps=4)
    >>> converted["bias"], [shift.path for shift in report.changed]
    (Array([0.25, 0.25], dtype=float32), ['bias'])
    """
    check_steps(steps)
    # Whatever has no spiking form is an error here, not when the network first runs.
    snn_fn = spiking(apply_fn, steps=steps, nonspiking=nonspiking)
    jax.eval_shape(snn_fn, variables, example)

    if any(0 in jnp.shape(leaf) for leaf in jax.tree.leaves(example)):
        raise ValueError("example must not be empty: a batch of 1 will do")
    warn_unless_apart(apply_fn, variables, example)
    program, _ = trace(apply_fn, variables, example)
    leaves, tree = jax.tree.flatten(variables)
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(variables)
    ]
    ledger = BiasLedger(leaves, paths)
    reading = _Excess(ledger, steps=steps, nonspiking=nonspiking)
    constants = [Constant(v, Origin(i)) for i, v in enumerate(leaves)]
    for result in read(reading, program, constants, jax.tree.leaves(example)):
        reading.must_be_even(result, "the output")
        reading.keep([result], "the output")
    shifted = ledger.changed()
    changed = [
        Shift(paths[i], float(np.max(np.abs(new - np.asarray(leaves[i])), initial=0)))
        for i, new in shifted.items()
    ]
    new_leaves = [
        jnp.asarray(shifted[i], v.dtype) if i in shifted else v
        for i, v in enumerate(leaves)
    ]
    real = real_numbers(
        program, leaves, jax.tree.leaves(example), nonspiking=nonspiking
    )
    report = Report(steps, changed, reading.layers, *real)
    return Conversion(jax.tree.unflatten(tree, new_leaves), report)


class _Excess(Reading):
    """Follows each current's excess charge per step. A current is that, or None for 0.

    Constants are computed, analog values are not. What becomes of biases is written
    into the ledger.
    """

    has_tables = True
    enters_all = True

    def __init__(self, ledger: BiasLedger, *, steps: int, nonspiking: str):
        super().__init__(nonspiking=nonspiking)
        self.ledger = ledger
        self.steps = steps
        self.layers: list[Neurons] = []

    def plain(self, eqn, values):
        constant = all(isinstance(v, Constant) for v in values)
        origin = moved(eqn, values) if constant else None
        if origin is None:
            self.keep(values, str(eqn.source_info.name_stack))
        if not constant:
            return [Analog(None)] * len(eqn.outvars)
        results = apply_equation(eqn, [v.value for v in values])
        return [Constant(y, origin) for y in results]

    def keep(self, values, path):
        """Note that the leaves among these values are used as they are."""
        for value in values:
            if isinstance(value, Constant) and value.origin:
                self.ledger.keep(value.origin, path)

    def neuron(self, site, z, theta):
        self.must_be_even(z, site.path)
        self.keep([z, theta], site.path)
        self.layers.append(
            Neurons(site.path, site.shape, jnp.squeeze(theta.value), site.levels)
        )
        return Current(None)

    def pointwise_neuron(self, site, z, theta, fn):
        if not fn.is_known and not has_one_lobe(fn, sizes=fn.sizes, dtype=fn.dtype):
            raise SpikingError(
                f"the function in front of {site.path} ({', '.join(fn.operations)}) "
                "rises and falls more than once, so that no table of thresholds has "
                "its codes: put a code behind each part that rises or falls"
            )
        self.keep(fn.constants, site.path)
        return self.neuron(site, z, theta)

    def product(self, eqn, values, streamed, path):
        for i, value in enumerate(values):
            if i != streamed:
                self.must_be_even(value, path)
        return self.linear(eqn, values, [streamed], path)

    def linear(self, eqn, values, operands, path):
        if bias := _added_bias(eqn, values):
            current, bias = bias
            self.take_up(bias, current.value, path)
            return [Current(None)]
        self.keep(values, path)
        excess = {i: self.excess(eqn, values, i) for i in operands}
        if all(e is None for e in excess.values()):
            return [Current(None)] * len(eqn.outvars)
        arrays = []
        for i, value in enumerate(values):
            if i in excess:
                aval, e = eqn.invars[i].aval, excess[i]
                arrays.append(jnp.zeros(aval.shape, aval.dtype) if e is None else e)
            elif isinstance(value, Constant):
                arrays.append(value.value)
            else:
                raise self.uneven(path, f"`{eqn.primitive.name}` with an analog value")
        return [Current(e) for e in apply_equation(eqn, arrays)]

    def excess(self, eqn, values, i):
        """Return the excess that operand i brings, None for 0."""
        value = values[i]
        if isinstance(value, Current):
            return value.value
        if isinstance(value, Analog) or not np.any(value.value):
            return None
        shape = eqn.invars[i].aval.shape
        return jnp.broadcast_to((1 - 1 / self.steps) * value.value, shape)

    def take_up(self, bias, excess, path):
        """Ask for the bias that makes the charge of all steps right: b/T - excess."""
        wanted = np.asarray(bias.value) / self.steps
        if excess is not None:
            wanted = wanted - np.asarray(excess)
        if not np.isfinite(wanted).all():
            name = self.ledger.paths[bias.origin.leaf]
            raise ValueError(
                f"{name} would not be finite in {path or 'the program'}: a variable is "
                "not, or a batch norm has a variance below 0"
            )
        try:
            self.ledger.change(bias.origin, wanted, path)
        except DifferentPlaces as error:
            raise self.uneven(path, str(error)) from None

    def maximum(self, eqn, spikes, sizes):
        return Current(None)

    def decode(self, current, path):
        self.must_be_even(current, path)
        return Analog(None)

    def must_be_even(self, value, path):
        if isinstance(value, Current) and value.value is not None:
            raise self.uneven(path, "no bias in between")

    def uneven(self, path, why):
        return SpikingError(
            "a constant is added to spikes on the way to "
            f"{path or 'a layer of the program'}, and no bias can take "
            f"up what {self.steps} steps add to it ({why}): add a bias there, or pass "
            'bias_shift="auto" to `spiking` and leave the variables alone'
        )


def _added_bias(eqn, values):
    """Return (current, constant) if this adds a leaf of the variables to a current."""
    if eqn.primitive.name not in ("add", "add_any"):
        return None
    current, bias = sorted(values, key=lambda v: not isinstance(v, Current))
    is_bias = isinstance(bias, Constant) and bias.origin is not None
    return (current, bias) if is_bias else None
