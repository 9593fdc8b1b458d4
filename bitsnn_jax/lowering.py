"""From the traced program to the layer graph: a reading that writes down the sums."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.graph import (
    Conv,
    Dense,
    Graph,
    Max,
    Move,
    Node,
    Reshape,
    Scale,
    Structure,
    Sum,
    Term,
    Weight,
    WindowMax,
    WindowSum,
    out_shape,
)
from bitsnn_jax.linear import MOVES, PRODUCTS, moved_sizes
from bitsnn_jax.program import (
    ApplyFn,
    Constant,
    Current,
    Reading,
    SpikingError,
    apply_equation,
    read,
    trace,
    unique,
)


class LoweringError(SpikingError):
    """A part of the network that the layer graph has no words for."""


def lower(apply_fn: ApplyFn, variables: Any, example: Any) -> Graph:
    """The layer graph of a network: for each layer of neurons, what feeds it.

    Follows each value as a sum of terms and a constant. Linear operations act on every
    term; scales are collected in the weights, so that batch norm leaves nothing behind;
    moves (slicing, padding, concatenation, ...) become index maps. Where a value that
    has passed a weight meets a second one, it becomes a node of kind "sum".

    The variables are those of the ANN, not the converted ones.

    Args:
      apply_fn: pure, (variables, x) -> output, in inference.
      variables: of the ANN, with values.
      example: an input of batch 1, or `jax.ShapeDtypeStruct` of one. The graph is for
        inputs of its shape, and for any batch of them.

    Returns:
      A Graph. Its numbers are float64, folded from the constants as the network itself
      computes them.

    Raises:
      LoweringError: an operation that cannot be written so, with its module.
      SpikingError: an operation without a spiking form.
      ValueError: a batch other than 1, or more than one input.

    >>> from bitsnn_jax import qcfs
    >>> net = lambda v, x: qcfs(2 * x @ v["w"], v["theta"]) @ v["w"]
    >>> variables = {"w": jnp.ones((2, 2)), "theta": jnp.array(15.0)}
    >>> [node.name for node in lower(net, variables, jnp.zeros((1, 2))).nodes]
    ['input', 'neuron', 'output']
    """
    leaves = jax.tree.leaves(example)
    if len(leaves) != 1 or leaves[0].shape[:1] != (1,):
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        raise ValueError(f"expected one input with a batch of 1, got {shapes}")
    program, _ = trace(apply_fn, variables, example)
    reading = _Lowering()
    start = reading.node(Node("input", "input", leaves[0].shape))
    results = read(reading, program, jax.tree.leaves(variables), [start])
    for i, result in enumerate(results):
        name = f"output_{i + 1}" if len(results) > 1 else "output"
        reading.output(name, result)
    return Graph(tuple(reading.nodes))


class _NeedsNode(Exception):
    """A scale that no weight can take up; a node with the sum can."""


class Affine(NamedTuple):
    """sum of terms + constant."""

    terms: tuple[Term, ...]
    sources: tuple[tuple[int, ...], ...]  # the shape of the source of each term
    constant: np.ndarray  # float64, 1 along axes where it does not change
    shape: tuple[int, ...]
    path: str  # where it was made, for the name of a "sum"

    def sourced(self):
        return zip(self.terms, self.sources, strict=True)


class _Lowering(Reading):
    """A current is an `Affine`; the input is one, too."""

    def __init__(self):
        super().__init__()
        self.nodes: list[Node] = []
        self.sums: dict[int, tuple[Affine, Current]] = {}

    def node(self, node: Node, sizes=None) -> Current:
        self.nodes.append(node)
        one = Term(node.name, (), Scale(np.ones(())), ())
        value = Affine((one,), (node.shape,), np.zeros(()), node.shape, node.name)
        return Current(value, sizes)

    def output(self, name, result):
        value = result.value
        if isinstance(result, Constant):
            value = Affine((), (), _shrunk(value), np.shape(value), name)
        self.node(Node(name, "output", value.shape, value.terms, value.constant))

    def neuron(self, site, z, theta):
        value = z.value
        if isinstance(z, Constant):
            value = Affine((), (), _shrunk(value), site.shape, site.path)
        axes = len(site.shape) - np.ndim(theta.value)
        theta = np.asarray(theta.value, np.float64)
        theta = theta.reshape((1,) * axes + theta.shape)
        neurons = Node(
            site.path,
            "neurons",
            site.shape,
            value.terms,
            value.constant,
            theta,
            site.levels,
        )
        return self.node(neurons, site.sizes)

    def maximum(self, eqn, spikes, sizes):
        [term], p = spikes.value.terms, eqn.params
        if eqn.primitive.name == "reduce_max":
            op = Max(tuple(p["axes"]))
        else:
            op = WindowMax(*_window(eqn, "maximum"))
        before = _simplified((*term.before, op))
        name = self.unused(f"{spikes.value.path}/max")
        shape = eqn.outvars[0].aval.shape
        terms = (term._replace(before=before),)
        return self.node(Node(name, "maximum", shape, terms), sizes)

    def linear(self, eqn, values, operands, path):
        rule = RULES.get(eqn.primitive.name)
        if rule is None:
            raise LoweringError(
                f"`{eqn.primitive.name}` in {path or 'the program'} cannot be lowered: "
                "a layer graph has convolutions, dense layers, sums and moves. Write "
                "it in terms of these"
            )
        if eqn.primitive.name in PRODUCTS:
            values = [self.named(v) if _is_weighted(v) else v for v in values]
        currents = [i for i in operands if isinstance(values[i], Current)]
        try:
            columns = [rule(eqn, values, i, path) for i in currents]
        except _NeedsNode:
            values = [self.named(v) for v in values]
            columns = [rule(eqn, values, i, path) for i in currents]
        constants = self.constants(eqn, values, operands)
        sources = tuple(s for i in currents for s in values[i].value.sources)
        results = []
        for j, out in enumerate(eqn.outvars):
            terms = tuple(term for column in columns for term in column[j])
            value = Affine(terms, sources, constants[j], out.aval.shape, path)
            first = values[operands[0]]
            sizes = moved_sizes(eqn, getattr(first, "sizes", None))
            results.append(Current(value, sizes))
        return results

    def constants(self, eqn, values, operands):
        """What the operation makes of the constant parts of its operands."""
        parts = [
            v.value.constant if isinstance(v, Current) else np.asarray(v.value)
            for v in values
        ]
        if not any(np.any(parts[i]) for i in operands):
            return [np.zeros(())] * len(eqn.outvars)
        arrays = [
            jnp.asarray(np.broadcast_to(p, x.aval.shape), x.aval.dtype)
            for p, x in zip(parts, eqn.invars, strict=True)
        ]
        return [_shrunk(y) for y in apply_equation(eqn, arrays)]

    def named(self, value):
        """The value of a new node with its sum: terms without any weight."""
        if not isinstance(value, Current):
            return value
        affine = value.value
        if id(affine) not in self.sums:
            name = self.unused(affine.path or "sum")
            node = Node(name, "sum", affine.shape, affine.terms, affine.constant)
            self.sums[id(affine)] = affine, self.node(node, value.sizes)
        return self.sums[id(affine)][1]

    def unused(self, name):
        # The first part is the class of the outermost module, as in names of neurons.
        name = name.partition("/")[2] or name
        return unique(name, [node.name for node in self.nodes])

    def decode(self, current, path):
        raise LoweringError(f"{path}: a decoded value cannot be lowered")


# The rules: (eqn, values, i, path) -> for each result, the terms that operand i brings.


def _same(eqn, values, i, path):
    return [list(values[i].value.terms)]


def _negated(eqn, values, i, path):
    if eqn.primitive.name == "sub" and i == 0:
        return _same(eqn, values, i, path)
    return [[_scaled(t, -np.ones(()), s) for t, s in values[i].value.sourced()]]


def _factor(eqn, values, i, path):
    arrays = [v.value for v in values]
    aval = eqn.invars[i].aval
    arrays[i] = jnp.ones(aval.shape, aval.dtype)  # what the operation makes of 1
    [factor] = map(_shrunk, apply_equation(eqn, arrays))
    return [[_scaled(t, factor, s) for t, s in values[i].value.sourced()]]


def _moved(eqn, values, i, path):
    """An operation that moves values: the map of places is that of their numbers."""
    places = []
    for j, (value, atom) in enumerate(zip(values, eqn.invars, strict=True)):
        shape = atom.aval.shape
        if j == i:
            places.append(jnp.arange(1, math.prod(shape) + 1).reshape(shape))
        elif jnp.issubdtype(atom.aval.dtype, jnp.floating):
            places.append(jnp.zeros(shape, int))
        else:
            places.append(value.value)
    columns = []
    for places_of_result in apply_equation(eqn, places):
        index = np.asarray(places_of_result, np.int64) - 1
        columns.append(
            [
                _structured(term, Move(index), eqn.invars[i].aval.shape)
                for term in values[i].value.terms
            ]
        )
    return columns


def _summed(eqn, values, i, path):
    if eqn.primitive.name == "reduce_sum":
        op: Structure = Sum(tuple(eqn.params["axes"]))
    else:
        op = WindowSum(*_window(eqn, path))
    shape = eqn.invars[i].aval.shape
    return [[_structured(term, op, shape) for term in values[i].value.terms]]


def _window(eqn, path):
    p = eqn.params
    dilations = (*p["base_dilation"], *p["window_dilation"])
    if any(d != 1 for d in dilations):
        raise LoweringError(f"{path}: a pooling with dilations cannot be lowered")
    padding = tuple(map(tuple, p["padding"]))
    return tuple(p["window_dimensions"]), tuple(p["window_strides"]), padding


def _convolved(eqn, values, i, path):
    p = eqn.params
    dims = p["dimension_numbers"]
    if i != 0 or p["batch_group_count"] != 1:
        raise LoweringError(f"{path}: a convolution with spikes for its kernel")
    batch, channel, *space = dims.lhs_spec
    kernel = np.asarray(values[1].value, np.float64)
    out, inputs, *window = dims.rhs_spec
    conv = Conv(
        kernel.transpose(*window, inputs, out),
        tuple(p["window_strides"]),
        tuple(map(tuple, p["padding"])),
        tuple(p["lhs_dilation"]),
        tuple(p["rhs_dilation"]),
        p["feature_group_count"],
    )
    terms = []
    for term in values[0].value.terms:
        shape = eqn.invars[0].aval.shape
        term = _transposed(term, (batch, *space, channel), shape)
        shape = tuple(shape[axis] for axis in (batch, *space, channel))
        term, shape = _weighted(term, conv, shape), out_shape(conv, shape)
        batch_out, channel_out, *space_out = dims.out_spec
        order = np.argsort((batch_out, *space_out, channel_out))
        terms.append(_transposed(term, tuple(order), shape))
    return [terms]


def _dotted(eqn, values, i, path):
    contracted, batch = eqn.params["dimension_numbers"]
    if any(batch):
        raise LoweringError(
            f"{path}: a product with batch dimensions cannot be lowered"
        )
    [other] = {0, 1} - {i}
    kernel = np.asarray(values[other].value, np.float64)
    mine, theirs = contracted[i], contracted[other]
    shape = eqn.invars[i].aval.shape
    free = [axis for axis in range(len(shape)) if axis not in mine]
    others = [axis for axis in range(kernel.ndim) if axis not in theirs]
    inner = math.prod(shape[axis] for axis in mine)
    rows = tuple(shape[axis] for axis in free)
    columns = tuple(kernel.shape[axis] for axis in others)
    dense = Dense(kernel.transpose(*theirs, *others).reshape(inner, -1))
    terms = []
    for term in values[i].value.terms:
        term = _transposed(term, (*free, *mine), shape)
        arranged = tuple(shape[axis] for axis in (*free, *mine))
        flat = Reshape((math.prod(rows), inner))
        term = _structured(term, flat, arranged)
        term = _weighted(term, dense, flat.shape)
        product = (math.prod(rows), math.prod(columns))
        term = _structured(term, Reshape(rows + columns), product)
        if i == 1:
            order = (*range(len(rows), len(rows + columns)), *range(len(rows)))
            term = _transposed(term, order, rows + columns)
        terms.append(term)
    return [terms]


def _is_weighted(value):
    if not isinstance(value, Current):
        return False
    return any(not isinstance(term.weight, Scale) for term in value.value.terms)


_IDENTITIES = "add add_any convert_element_type copy copy_p optimization_barrier "
RULES: dict[str, Callable[[Any, Sequence, int, str], list]] = {
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys(
        "concatenate pad select_n stack dynamic_update_slice scatter".split(), _moved
    ),
    **dict.fromkeys((_IDENTITIES + "stop_gradient sharding_constraint").split(), _same),
    "sub": _negated,
    "neg": _negated,
    "mul": _factor,
    "div": _factor,
    "scatter-mul": _factor,
    "reduce_sum": _summed,
    "reduce_window_sum": _summed,
    "conv_general_dilated": _convolved,
    "dot_general": _dotted,
}


# What happens to a term, and to the scale in it.


def _structured(term: Term, op: Structure, shape: tuple) -> Term:
    """The term, moved or added up; it has `shape` until then."""
    if isinstance(term.weight, Scale):
        factor = _pushed(op, term.weight.factor, shape)
        before = _simplified((*term.before, op), shape)
        return term._replace(before=before, weight=Scale(factor))
    return term._replace(after=_simplified((*term.after, op), shape))


def _transposed(term, order, shape):
    if order == tuple(range(len(shape))):
        return term
    places = np.arange(math.prod(shape)).reshape(shape).transpose(order)
    return _structured(term, Move(places), shape)


def _weighted(term: Term, weight: Weight, shape: tuple) -> Term:
    """A convolution or dense layer takes the scale of its input into its kernel."""
    factor = np.asarray(term.weight.factor)
    if any(n > 1 for n in factor.shape[:-1]):
        raise _NeedsNode  # it differs from place to place
    channels = np.broadcast_to(factor.reshape(-1), shape[-1:])
    kernel = weight.kernel
    if isinstance(weight, Conv):
        inputs, outputs = kernel.shape[-2:]
        group = np.arange(outputs) // (outputs // weight.groups)
        channels = channels[group * inputs + np.arange(inputs)[:, None]]
    else:
        channels = channels[:, None]
    return term._replace(weight=weight._replace(kernel=kernel * channels))


def _scaled(term: Term, factor: np.ndarray, source: tuple) -> Term:
    """The term times a factor; `source` is the shape of what it begins with."""
    if isinstance(term.weight, Scale):
        return term._replace(weight=Scale(_shrunk(term.weight.factor * factor)))
    shapes = [source]
    for op in (*term.before, term.weight, *term.after):
        shapes.append(out_shape(op, shapes[-1]))
    for op in reversed(term.after):
        shape = shapes.pop()
        factor = _pulled(op, np.broadcast_to(factor, shape), shapes[-1])
    if any(n > 1 for n in np.shape(factor)[:-1]):
        raise _NeedsNode
    kernel = term.weight.kernel * np.reshape(factor, -1)
    return term._replace(weight=term.weight._replace(kernel=kernel))


def _pushed(op: Structure, factor: np.ndarray, shape: tuple) -> np.ndarray:
    """The factor f with op(factor * x) = f * op(x)."""
    if np.ndim(factor) == 0:
        return factor
    if isinstance(op, Reshape):
        return _shrunk(np.broadcast_to(factor, shape).reshape(op.shape))
    if isinstance(op, Move):
        full = np.broadcast_to(factor, shape).reshape(-1)
        return _shrunk(full[np.maximum(op.index, 0)], op.index >= 0)
    axes = op.axes if isinstance(op, Sum) else _touched(op)
    if any(factor.shape[axis] > 1 for axis in axes):
        raise _NeedsNode
    return _shrunk(factor.squeeze(axes)) if isinstance(op, Sum) else factor


def _touched(op):
    plain = (1, 1, (0, 0))
    windows = enumerate(zip(op.window, op.strides, op.padding, strict=True))
    return [axis for axis, window in windows if window != plain]


def _pulled(op: Structure, factor: np.ndarray, shape: tuple) -> np.ndarray:
    """The inverse of `_pushed`: f of `shape` with op(f * x) = factor * op(x)."""
    if isinstance(op, Reshape):
        return _shrunk(factor.reshape(shape))
    if isinstance(op, Sum):
        return _shrunk(np.expand_dims(factor, op.axes))
    if isinstance(op, WindowSum):
        factor = _shrunk(factor)
        if np.ndim(factor) and any(factor.shape[axis] > 1 for axis in _touched(op)):
            raise _NeedsNode
        return factor
    is_used = np.zeros(math.prod(shape), bool)
    pulled, places = np.ones(is_used.shape), op.index >= 0
    pulled[op.index[places]], is_used[op.index[places]] = factor[places], True
    if not np.array_equal(pulled[op.index[places]], factor[places]):
        raise _NeedsNode  # a number goes to places with different factors
    return _shrunk(pulled.reshape(shape), is_used.reshape(shape))


def _simplified(ops: tuple, shape: tuple = ()) -> tuple:
    """The last operation, merged with the one before it where that is a move too."""
    *first, op = ops
    if isinstance(op, Reshape) and op.shape == shape:
        return tuple(first)
    if isinstance(op, Move) and _is_order(op.index, math.prod(shape)):
        op = Reshape(op.index.shape)
    if first and isinstance(op, (Move, Reshape)):
        if isinstance(first[-1], Reshape):
            first.pop()
        elif isinstance(first[-1], Move):
            index = first.pop().index
            if isinstance(op, Reshape):
                op = Move(index.reshape(op.shape))
            else:
                moved = index.reshape(-1)[np.maximum(op.index, 0)]
                op = Move(np.where(op.index < 0, -1, moved))
    if isinstance(op, Move):
        op = Move(op.index.astype(np.int32))
    return (*first, op)


def _is_order(index, size):
    return index.size == size and np.array_equal(index.reshape(-1), np.arange(size))


def _shrunk(array: Any, is_used: np.ndarray | None = None) -> np.ndarray:
    """The array in float64, with one entry along each axis where it is constant.

    Entries that nothing uses may become anything.
    """
    array = np.asarray(array, np.float64)
    for axis in range(array.ndim):
        if array.shape[axis] == 1:
            continue
        if is_used is None:
            one = array.take([0], axis)
            if (array == one).all():
                array = one
            continue
        used = is_used.any(axis, keepdims=True)
        low = np.where(is_used, array, np.inf).min(axis, keepdims=True)
        high = np.where(is_used, array, -np.inf).max(axis, keepdims=True)
        if (low[used] == high[used]).all():
            array, is_used = np.where(used, low, 1.0), used
    return array.reshape(()) if array.size == 1 else array
