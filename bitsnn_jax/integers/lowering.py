"""From the traced program to the layer graph: a reading that writes down the sums."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers.agreement import drawn, graph_difference
from bitsnn_jax.integers.folding import (
    NotFoldable,
    scaled,
    shrunk,
    simplified,
    structured,
    weighted,
)
from bitsnn_jax.integers.graph import (
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
    WindowMax,
    WindowSum,
    out_shape,
)
from bitsnn_jax.tracing.equations import apply_equation
from bitsnn_jax.tracing.linearity import MOVES, PRODUCTS, moved_sizes
from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.reading import Reading, SpikingError
from bitsnn_jax.tracing.real_valued import neuron_paths
from bitsnn_jax.tracing.sites import unique
from bitsnn_jax.tracing.values import Constant, Current


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
      LoweringError: an operation that cannot be written so, with its module; a graph
        whose sums are not the network's on the example, or on a drawn input.
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
    program, shapes = trace(apply_fn, variables, example)
    count = len(jax.tree.leaves(shapes))
    outputs = [f"output_{i + 1}" for i in range(count)] if count > 1 else ["output"]
    constants = jax.tree.leaves(variables)
    reading = _Lowering(outputs, neuron_paths(program, constants, leaves))
    start = reading.node(Node("input", "input", leaves[0].shape))
    results = read(reading, program, constants, [start])
    for name, result in zip(outputs, results, strict=True):
        reading.output(name, result)
    graph = Graph(tuple(reading.nodes))
    if difference := graph_difference(graph, apply_fn, variables, _input(leaves[0])):
        raise LoweringError(f"the layer graph is another network: {difference}")
    return graph


def _input(example):
    """The example if it has values, else numbers of its shape."""
    if not isinstance(example, jax.ShapeDtypeStruct) and np.ptp(example):
        return jnp.asarray(example)
    return jnp.asarray(drawn(example.shape), example.dtype)


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

    def __init__(self, outputs, paths):
        super().__init__()
        self.nodes: list[Node] = []
        self.sums: dict[int, tuple[Affine, Current]] = {}
        # Neurons keep their names, so that those of later layers are taken already.
        self.taken = ["input", *outputs]
        self.neuron_names = {}
        for path in paths:
            self.neuron_names[path] = unique(path, self.taken)
            self.taken.append(self.neuron_names[path])

    def node(self, node: Node, sizes=None) -> Current:
        self.nodes.append(node)
        one = Term(node.name, (), Scale(np.ones(())), ())
        value = Affine((one,), (node.shape,), np.zeros(()), node.shape, node.name)
        return Current(value, sizes)

    def output(self, name, result):
        value = result.value
        if isinstance(result, Constant):
            value = Affine((), (), shrunk(value), np.shape(value), name)
        self.node(Node(name, "output", value.shape, value.terms, value.constant))

    def neuron(self, site, z, theta):
        value = z.value
        if isinstance(z, Constant):
            value = Affine((), (), shrunk(value), site.shape, site.path)
        axes = len(site.shape) - np.ndim(theta.value)
        theta = np.asarray(theta.value, np.float64)
        theta = theta.reshape((1,) * axes + theta.shape)
        neurons = Node(
            self.neuron_names[site.path],
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
        before = simplified((*term.before, op))
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
        # What is a node already is not written down as a sum again.
        values = [self.sums.get(id(v.value), (None, v))[1] for v in values]
        if eqn.primitive.name in PRODUCTS:
            values = [self.named(v) if _is_weighted(v) else v for v in values]
        currents = [i for i in operands if isinstance(values[i], Current)]
        try:
            columns = [rule(eqn, values, i, path) for i in currents]
        except NotFoldable:
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
        return [shrunk(y) for y in apply_equation(eqn, arrays)]

    def named(self, value):
        """The value of a new node with its sum: terms without any weight."""
        if not isinstance(value, Current):
            return value
        affine = value.value
        if id(affine) not in self.sums:
            name = self.unused(affine.path or "sum")
            node = Node(name, "sum", affine.shape, affine.terms, affine.constant)
            self.sums[id(affine)] = affine, self.node(node)  # numbers, no spikes
        return self.sums[id(affine)][1]

    def unused(self, name):
        # The first part is the class of the outermost module, as in names of neurons.
        name = unique(name.partition("/")[2] or name, self.taken)
        self.taken.append(name)
        return name

    def decode(self, current, path):
        raise LoweringError(f"{path}: a decoded value cannot be lowered")


# The rules: (eqn, values, i, path) -> for each result, the terms that operand i brings.


def _same(eqn, values, i, path):
    return [list(values[i].value.terms)]


def _negated(eqn, values, i, path):
    if eqn.primitive.name == "sub" and i == 0:
        return _same(eqn, values, i, path)
    return [[scaled(t, -np.ones(()), s) for t, s in values[i].value.sourced()]]


def _factor(eqn, values, i, path):
    arrays = [v.value for v in values]
    aval = eqn.invars[i].aval
    arrays[i] = jnp.ones(aval.shape, aval.dtype)  # what the operation makes of 1
    [factor] = map(shrunk, apply_equation(eqn, arrays))
    return [[scaled(t, factor, s) for t, s in values[i].value.sourced()]]


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
                structured(term, Move(index), eqn.invars[i].aval.shape)
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
    return [[structured(term, op, shape) for term in values[i].value.terms]]


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
        term, shape = weighted(term, conv, shape), out_shape(conv, shape)
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
        term = structured(term, flat, arranged)
        term = weighted(term, dense, flat.shape)
        product = (math.prod(rows), math.prod(columns))
        term = structured(term, Reshape(rows + columns), product)
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


def _transposed(term, order, shape):
    if order == tuple(range(len(shape))):
        return term
    places = np.arange(math.prod(shape)).reshape(shape).transpose(order)
    return structured(term, Move(places), shape)
