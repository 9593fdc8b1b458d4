"""From the traced program to the layer graph: a reading that writes down the sums."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.integers.agreement import drawn, graph_difference
from bitsnn_jax.integers.channels_last import (
    as_in_the_program,
    channels_last,
    with_one_unit,
)
from bitsnn_jax.integers.folding import NotFoldable, extended, scaled, shrunk, weighted
from bitsnn_jax.integers.graph import (
    Graph,
    Lookup,
    Max,
    Node,
    Reshape,
    Scale,
    Term,
    WindowMax,
)
from bitsnn_jax.integers.linear_rules import (
    Affine,
    LoweringError,
    folded,
    pooled,
    rule_for,
)
from bitsnn_jax.integers.product_rules import is_one_node, product_terms
from bitsnn_jax.numerics.mixing import lookup_p, normalise_p, softmax_p
from bitsnn_jax.tracing.equations import apply_equation
from bitsnn_jax.tracing.linearity import PRODUCTS
from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.reading import Reading
from bitsnn_jax.tracing.real_valued import neuron_paths
from bitsnn_jax.tracing.sites import unique
from bitsnn_jax.tracing.values import Constant, Current


def lower(apply_fn: ApplyFn, variables: Any, example: Any) -> Graph:
    """Lower a network to a graph: for each layer of neurons, what feeds it.

    Follows each value as a sum of terms and a constant. Linear operations act on every
    term; scales are collected in the weights, so that batch norm leaves nothing behind;
    moves (slicing, padding, concatenation, ...) become index maps. Where a value that
    has passed a weight meets a second one, it becomes a node of kind "sum". Nodes of a
    channels-first network are stored channels last; the input stays as the network has
    it.

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
    outputs = output_names(len(jax.tree.leaves(shapes)))
    constants = jax.tree.leaves(variables)
    reading = _Lowering(outputs, neuron_paths(program, constants, leaves))
    start = reading.node(Node("input", "input", leaves[0].shape))
    results = read(reading, program, constants, [start])
    for name, result in zip(outputs, results, strict=True):
        reading.output(name, result)
    graph = Graph(with_one_unit(reading.nodes))
    if difference := graph_difference(graph, apply_fn, variables, _input(leaves[0])):
        raise LoweringError(f"the layer graph is another network: {difference}")
    return graph


def output_names(count: int) -> list[str]:
    """Return the names of the output nodes, in the order of `jax.tree.leaves`.

    They are sorted, since `jit` returns dictionaries in the order of their keys.

    >>> output_names(1), output_names(2), output_names(10)[-2:]
    (['output'], ['output_1', 'output_2'], ['output_09', 'output_10'])
    """
    digits = len(str(count))
    names = [f"output_{i:0{digits}}" for i in range(1, count + 1)]
    return names if count > 1 else ["output"]


def _input(example):
    """Return the example if it has values, else numbers of its shape."""
    if not isinstance(example, jax.ShapeDtypeStruct) and np.ptp(example):
        return jnp.asarray(example)
    return jnp.asarray(drawn(example.shape), example.dtype)


class _Lowering(Reading):
    """A current is an `Affine`; the input is one, too."""

    has_tables = True
    has_integers = True

    def __init__(self, outputs, paths):
        super().__init__()
        self.nodes: list[Node] = []
        self.by_name: dict[str, Node] = {}
        self.sums: dict[int, tuple[Affine, Current]] = {}
        # Neurons keep their names, so that those of later layers are taken already.
        self.taken = ["input", *outputs]
        self.neuron_names = {}
        for path in paths:
            self.neuron_names[path] = unique(path, self.taken)
            self.taken.append(self.neuron_names[path])

    def node(self, node: Node, sizes=None) -> Current:
        stored = channels_last(node, self.by_name.__getitem__)
        self.nodes.append(stored)
        self.by_name[node.name] = stored
        one = Term(node.name, as_in_the_program(stored), Scale(np.ones(())), ())
        value = Affine((one,), (stored.shape,), np.zeros(()), node.shape, node.name)
        return Current(value, sizes)

    def sum(self, node: Node) -> Current:
        """Add a node of numbers, with an axis of examples also where `x @ y` has none.

        For a batch of one, jnp.matmul computes without that axis.
        """
        shape = node.shape
        if shape[:1] == (1,):
            return self.node(node)
        whole = (1, *shape)
        terms = tuple(extended(term, Reshape(whole), shape) for term in node.terms)
        value = self.node(node._replace(shape=whole, terms=terms)).value
        terms = tuple(extended(term, Reshape(shape), whole) for term in value.terms)
        return Current(value._replace(terms=terms, shape=shape))

    def output(self, name, result):
        value = result.value
        if isinstance(result, Constant):
            value = Affine((), (), shrunk(value), np.shape(value), name)
        self.node(Node(name, "output", value.shape, value.terms, value.constant))

    def neuron(self, site, z, theta):
        return self.pointwise_neuron(site, z, theta, None)

    def pointwise_neuron(self, site, z, theta, fn):
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
            fn=fn,
        )
        return self.node(neurons, site.sizes)

    def maximum(self, eqn, spikes, sizes):
        value = spikes.value  # of several layers side by side, if these were joined
        if eqn.primitive.name == "reduce_max":
            op = Max(tuple(eqn.params["axes"]))
            terms = [extended(term, op, value.shape) for term in value.terms]
        else:
            kinds = WindowMax, Max
            terms = [pooled(term, eqn, value.shape, kinds) for term in value.terms]
        name = self.unused(f"{value.path}/max")
        shape = eqn.outvars[0].aval.shape
        return self.node(Node(name, "maximum", shape, tuple(terms)), sizes)

    def product(self, eqn, values, streamed, path):
        spikes, other = values[streamed].value, values[1 - streamed]
        held = self.sums.get(id(other.value), (None, other))[1].value
        if not is_one_node(held):
            held = self.named(other).value
        shape, terms, sources = eqn.outvars[0].aval.shape, [], []
        for term, factor in product_terms(eqn, spikes, held, streamed, path):
            name = self.unused(f"{path}/product")
            made = self.sum(Node(name, "sum", shape, (term,))).value
            terms.append(scaled(made.terms[0], factor, made.sources[0]))
            sources += made.sources
        value = Affine(tuple(terms), tuple(sources), np.zeros(()), shape, path)
        return [Current(value)]

    def mixed(self, eqn, values, path):
        shape = eqn.outvars[0].aval.shape
        if eqn.primitive is lookup_p:
            table, ids = values
            return [Current(_looked_up(table, ids, shape, path))]
        [current] = values
        kind, epsilon = _ROWS[eqn.primitive], eqn.params.get("epsilon", 0.0)
        terms, constant = current.value.terms, current.value.constant
        name = self.unused(f"{path}/{kind}")
        node = Node(name, kind, shape, terms, constant, epsilon=epsilon)
        return [self.node(node)]

    def linear(self, eqn, values, operands, path):
        rule = rule_for(eqn, path)
        # What is a node already is not written down as a sum again.
        values = [self.sums.get(id(v.value), (None, v))[1] for v in values]
        if eqn.primitive.name in PRODUCTS:  # a term has one weight
            values = [self.named(v) if _is_weighted(v) else v for v in values]
        currents = [i for i in operands if isinstance(values[i], Current)]
        terms = folded(rule, eqn, values, currents, path)
        if terms is None:  # nodes have a unit of their own, and so no scale to fold
            values = [self.named(v) for v in values]
            terms = folded(rule, eqn, values, currents, path)
            assert terms is not None, "terms of nodes have no scale"
        sources = tuple(s for i in currents for s in values[i].value.sources)
        return [
            Current(Affine(of_result, sources, constant, out.aval.shape, path))
            for out, of_result, constant in zip(
                eqn.outvars, terms, self.constants(eqn, values, operands), strict=True
            )
        ]

    def constants(self, eqn, values, operands):
        """Apply the operation to the constant parts of its operands."""
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
        """Add a node for a sum: return its value, terms without any weight."""
        if not isinstance(value, Current):
            return value
        affine = value.value
        if id(affine) not in self.sums:
            name = self.unused(affine.path or "sum")
            node = Node(name, "sum", affine.shape, affine.terms, affine.constant)
            self.sums[id(affine)] = affine, self.sum(node)  # numbers, no spikes
        return self.sums[id(affine)][1]

    def unused(self, name):
        # The first part is the class of the outermost module, as in names of neurons.
        name = unique(name.partition("/")[2] or name, self.taken)
        self.taken.append(name)
        return name

    def decode(self, current, path):
        operation = self.nonspiking[-1].operation
        raise LoweringError(
            f"{path or 'the program'}: `{operation}` would be computed outside the "
            "spiking network, and has no integers; put a QCFS behind it, or replace it"
        )


_ROWS = {softmax_p: "softmax", normalise_p: "normalised"}


def _looked_up(table, ids, shape, path):
    """Return rows of a table, which a part of the input names."""
    if not isinstance(table, Constant):
        raise LoweringError(f"{path}: a table that is looked up depends on the input")
    if not isinstance(ids, Current):
        raise LoweringError(f"{path}: no input names the rows that are looked up")
    affine = ids.value
    weight = Lookup(np.asarray(table.value, np.float64))
    try:
        if not is_one_node(affine):
            raise NotFoldable("they are a sum")
        term = weighted(affine.terms[0], weight, affine.shape)
    except NotFoldable:
        raise LoweringError(
            f"{path}: rows of a table are looked up by numbers that are computed, "
            "expected integers of the input as they are"
        ) from None
    return Affine((term,), affine.sources, np.zeros(()), shape, path)


def _is_weighted(value):
    if not isinstance(value, Current):
        return False
    return any(term.has_kernel for term in value.value.terms)
