"""The layer graph: what feeds each layer of neurons, as data.

The current of every neuron is a sum of affine terms of upstream spikes. `Graph` holds
these sums as arrays and a dozen kinds of linear operation, without modules, batch norm
or program. `lowering.lower` makes one from a network.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bitsnn_jax.conversion.readings import snn_levels
from bitsnn_jax.numerics import mixing
from bitsnn_jax.numerics.convolutions import convolve
from bitsnn_jax.numerics.qcfs import codes, qcfs
from bitsnn_jax.runtime.columns import table


class Reshape(NamedTuple):
    """The same numbers in another shape."""

    shape: tuple[int, ...]


class Move(NamedTuple):
    """y[i] = x.flatten()[index[i]], and 0 where the index is -1."""

    index: np.ndarray


class Sum(NamedTuple):
    """The sum over axes, which go."""

    axes: tuple[int, ...]


class WindowSum(NamedTuple):
    """The sum over windows; what is padded is 0. One entry an axis."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]


class Max(NamedTuple):
    """The maximum over axes, which go."""

    axes: tuple[int, ...]


class WindowMax(NamedTuple):
    """The maximum over windows; what is padded never wins."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]


class Scale(NamedTuple):
    """y = factor * x: a residual identity, a pooling. Broadcasts to x."""

    factor: np.ndarray


class Conv(NamedTuple):
    """A convolution of [1, *space, channels] with a kernel [*window, inputs, outputs].

    As in `lax.conv_general_dilated`: the kernel is not flipped, and holds
    channels / groups inputs.
    """

    kernel: np.ndarray
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int


class Dense(NamedTuple):
    """[rows, inputs] times a kernel [inputs, outputs]."""

    kernel: np.ndarray


class Lookup(NamedTuple):
    """A row of a kernel [rows, features] for each integer x: kernel[x].

    It gets a new last axis. An x that is out of range has the first or the last row.
    """

    kernel: np.ndarray


class Shift(NamedTuple):
    """y = x * 2**amount, of integers."""

    amount: int


# Moves numbers or adds them up.
Weightless = Reshape | Move | Sum | WindowSum | Max | WindowMax | Shift


class Held(NamedTuple):
    """A kernel that is the value of another node: a product of two nodes.

    `before(source)` is a kernel [groups, K, N]. Each group of an x [rows, groups * K]
    goes through its own [K, N], to [rows, groups * N]. A product of matrices has a
    group for each one of a batch; entry by entry, each entry is a group of K = N = 1.
    """

    source: str
    before: tuple[Weightless, ...]
    shape: tuple[int, ...]  # of the kernel


class Product(NamedTuple):
    """A `Held`, with the numbers that it holds."""

    kernel: Any  # [groups, K, N]
    largest: int = 0  # |number|, where that is known


# Holds numbers of its own, or of another node.
Weight = Scale | Conv | Dense | Lookup | Held | Product


class Term(NamedTuple):
    """The contribution of one node to another: `after(weight(before(source)))`.

    `before` and `after` move and add up and change no value; `weight` holds every
    number. Batch norm, the 1/k**2 of a pooling and all other scales are in it.
    """

    source: str
    before: tuple[Weightless, ...]
    weight: Weight
    after: tuple[Weightless, ...]

    @property
    def has_kernel(self) -> bool:
        """Whether it has weights of its own, and not only a factor."""
        return isinstance(self.weight, Conv | Dense | Lookup)

    @property
    def numbers(self) -> np.ndarray:
        """Its kernel or its factor."""
        weight: Any = self.weight
        return weight.factor if isinstance(weight, Scale) else weight.kernel

    @property
    def sources(self) -> tuple[str, ...]:
        """The nodes that it is made of: one, or the two of a product."""
        if isinstance(self.weight, Held):
            return self.source, self.weight.source
        return (self.source,)

    def given(self, values: Mapping[str, Any]) -> "Term":
        """Return the term with the numbers of the node that it holds, if it does."""
        weight = self.weight
        if not isinstance(weight, Held):
            return self
        kernel = values[weight.source]
        for op in weight.before:
            kernel = apply(op, kernel)
        return self._replace(weight=Product(kernel))

    def with_numbers(self, numbers: Any) -> "Term":
        """Return the term with another kernel, or another factor."""
        weight: Any = self.weight
        if isinstance(weight, Scale):
            return self._replace(weight=Scale(numbers))
        return self._replace(weight=weight._replace(kernel=numbers))


class Node(NamedTuple):
    """A layer of neurons, or another named sum of terms.

    z = sum of terms + bias, and the value of the node is

        "input"    the input of the network; no terms
        "neurons"  qcfs(z, theta, levels=levels), or qcfs(fn(z), theta, levels=levels)
        "maximum"  the largest of its terms, each a maximum of spikes
        "sum"      z: numbers instead of spikes, to which a second weight is applied, as
                   behind the linear bottleneck of MobileNetV2; or the product of two
                   nodes
        "softmax"  softmax(z) of each row, along the last axis: numbers, as those of a
                   sum
        "normalised"  z of each row with mean 0 and variance 1: numbers
        "output"   z

    Shapes have a batch axis of 1. `bias` and `theta` broadcast to `shape`. `fn` is
    given arrays [k, ...] that broadcast to [k, *shape]. `order` is that of the axes,
    which may be stored in another one than the program has; () is the same.
    `has_one_unit` says that a "sum" in integers has one unit for all channels.
    `epsilon` is added to the variance of a "normalised".
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    terms: tuple[Term, ...] = ()
    bias: np.ndarray = np.zeros(())
    theta: np.ndarray = np.ones(())
    levels: int = 0
    order: tuple[int, ...] = ()
    has_one_unit: bool = False
    fn: Callable[[Any], Any] | None = None
    epsilon: float = 0.0

    def charge(self, z: jax.Array) -> jax.Array:
        """Return what the code of neurons is of: z, or fn(z)."""
        return z if self.fn is None else self.fn(z[None])[0]

    def number(self, z: jax.Array) -> jax.Array:
        """Return the value of a node that is neither neurons nor a maximum."""
        if self.kind == "softmax":
            return mixing.softmax(z)
        if self.kind == "normalised":
            return mixing.normalise(z, epsilon=self.epsilon)
        return z


# Their values mix the numbers of a row, and a routine computes them.
ROWS = ("softmax", "normalised")
# Their values are numbers, which enter what they feed once; those that may be negative.
NUMBERS = ("sum", *ROWS)
SIGNED = ("sum", "normalised")
KINDS = ("input", "neurons", "maximum", *NUMBERS, "output")


@dataclasses.dataclass(frozen=True)
class Graph:
    """Nodes in topological order, input first.

    Raises:
      ValueError: two nodes of one name, or a node fed by none that comes before it.
    """

    nodes: tuple[Any, ...]  # each a `Node`, or what a subclass uses instead

    def __post_init__(self):
        before = set()
        for node in self.nodes:
            if node.name in before:
                raise ValueError(
                    f"two nodes are named {node.name}: each needs a name of its own"
                )
            for source in (name for term in node.terms for name in term.sources):
                if source not in before:
                    raise ValueError(
                        f"{node.name} is fed by {source}, which is no node before it"
                    )
            before.add(node.name)

    def __getitem__(self, name: str) -> Any:
        return next(node for node in self.nodes if node.name == name)

    def of_kind(self, *kinds: str) -> list[Any]:
        return [node for node in self.nodes if node.kind in kinds]

    def __str__(self) -> str:
        """List the nodes in lines: their shapes, and what feeds them."""
        rows = [("layer", "kind", "shape", "fed by")]
        for node in self.nodes:
            shape = "x".join(map(str, node.shape[1:]))
            fed_by = ", ".join(f"{t.source} ({_described(t)})" for t in node.terms)
            rows.append((node.name, node.kind, shape, fed_by))
        return table(rows, names=4)

    def dot(self) -> str:
        """Write the graph for Graphviz, which draws it: `dot -Tsvg`."""
        forms = {"neurons": "box", "maximum": "invtrapezium", "sum": "circle"}
        forms |= dict.fromkeys(ROWS, "ellipse")
        lines = ["digraph {", "  node [fontname=sans]; edge [fontname=sans]"]
        for node in self.nodes:
            form = forms.get(node.kind, "plaintext")
            shape = "x".join(map(str, node.shape[1:]))
            lines.append(
                f'  "{node.name}" [shape={form}, label="{node.name}\\n{shape}"]'
            )
            lines += [
                f'  "{source}" -> "{node.name}" [label="{_described(t)}"]'
                for t in node.terms
                for source in t.sources
            ]
        return "\n".join([*lines, "}"])


def _described(term: Term) -> str:
    ops = [type(op).__name__.lower() for op in term.before]
    weight = term.weight
    if isinstance(weight, Scale):
        ops.append("identity")
    elif isinstance(weight, Held):  # spikes of the first stream through the second
        ops.append(f"times {weight.source}")
    else:
        size = "x".join(map(str, weight.kernel.shape))
        ops.append(f"{type(weight).__name__.lower()} {size}")
    return " ".join([*ops, *(type(op).__name__.lower() for op in term.after)])


def apply(op: Weightless | Weight, x: jax.Array, **accumulate: Any) -> jax.Array:
    """Apply the operation to an array, in the type of the array.

    `accumulate` may give a product `preferred_element_type`.
    """
    return _APPLY[type(op)](op, x, **accumulate)


def apply_term(term: Term, x: jax.Array, product: Callable = apply) -> jax.Array:
    """Compute the term from its source's value; `product` applies the weight."""
    for op in term.before:
        x = apply(op, x)
    x = product(term.weight, x)
    for op in term.after:
        x = apply(op, x)
    return x


def collected(node: Any, values: Mapping[str, Any], dtype: Any) -> jax.Array:
    """Add up the terms and the bias of a node; of a maximum, take the largest term."""
    terms = [apply_term(t.given(values), values[t.source]) for t in node.terms]
    if node.kind == "maximum":
        return functools.reduce(jnp.maximum, terms)
    return sum(terms, jnp.asarray(np.broadcast_to(node.bias, node.shape), dtype))


def evaluate(
    graph: Graph, x: jax.Array, *, steps: int | None = None
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Run the ANN that the graph stands for, in floating point.

    Args:
      graph: of `lowering.lower`.
      x: [n, ...] inputs, in the type to compute in.
      steps: T, for the re-quantised ANN with levels 2**T - 1. None: levels as trained.

    Returns:
      outputs by name; codes by name, of neurons and maxima.
    """

    def code(node, charge, levels):
        return codes(charge, jnp.asarray(node.theta, x.dtype), levels=levels)

    return observed(graph, x, code, steps=steps)


def observed(
    graph: Graph,
    x: jax.Array,
    observe: Callable[[Node, jax.Array, int], Any],
    *,
    steps: int | None = None,
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Run it as `evaluate` does, with something else to say of layers than codes.

    Args:
      graph, x, steps: as in `evaluate`.
      observe: (node, what its code is of [1, ...], levels) -> arrays.

    Returns:
      outputs by name; what was observed, by name.
    """

    def one(x):
        values, seen = {"input": x}, {}
        for node in graph.nodes[1:]:
            z = collected(node, values, x.dtype)
            if node.kind == "neurons":
                levels = (
                    node.levels if steps is None else snn_levels(node.levels, steps)
                )
                theta, z = jnp.asarray(node.theta, x.dtype), node.charge(z)
                seen[node.name] = observe(node, z, levels)
                z = qcfs(z, theta, levels=levels)
            elif node.kind in ROWS:
                z = node.number(z)
            values[node.name] = z
        return {node.name: values[node.name] for node in graph.of_kind("output")}, seen

    return batched(one)(x)


def batched(fn: Callable) -> Callable:
    """Map `fn` of values with a batch axis of 1 over batches of any size."""

    def mapped(x, *rest):
        return jax.vmap(lambda one: fn(one[None], *rest))(x)

    return mapped


def out_shape(op: Weightless | Weight, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that the operation makes of `shape`."""
    if isinstance(op, Held):
        op = Product(np.broadcast_to(np.int8(0), op.shape))
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda x: apply(op, x), x).shape


def conv_dimensions(rank: int) -> lax.ConvDimensionNumbers:
    """Describe an array of `rank` axes, channels last, and a kernel as in `Conv`."""
    space = tuple(range(1, rank - 1))
    kernel = (rank - 1, rank - 2, *range(rank - 2))
    io = (0, rank - 1, *space)
    return lax.ConvDimensionNumbers(io, kernel, io)


def padded(conv: Conv, x: jax.Array, value: int = 0) -> tuple[Conv, jax.Array]:
    """Pad and dilate x; return the convolution that is left, and x."""
    edges = [
        (*pair, between - 1)
        for pair, between in zip(conv.padding, conv.lhs_dilation, strict=True)
    ]
    none = (0, 0, 0)
    x = lax.pad(x, jnp.asarray(value, x.dtype), [none, *edges, none])
    nothing = ((0, 0),) * len(edges)
    return conv._replace(padding=nothing, lhs_dilation=(1,) * len(edges)), x


def _move(op, x):
    flat = x.reshape(-1)
    moved = flat[np.maximum(op.index, 0)]
    return moved if (op.index >= 0).all() else jnp.where(op.index >= 0, moved, 0)


def _conv(op, x, **accumulate):
    if min(map(min, op.padding), default=0) < 0:
        # XLA's convolutions of floats on CPUs have wrong numbers then (JAX 0.10.2).
        op, x = padded(op, x)
    return convolve(
        x,
        jnp.asarray(op.kernel, x.dtype),
        strides=op.strides,
        padding=op.padding,
        lhs_dilation=op.lhs_dilation,
        rhs_dilation=op.rhs_dilation,
        groups=op.groups,
        dimensions=conv_dimensions(x.ndim),
        **accumulate,
    )


def _dense(op, x, **accumulate):
    return jnp.matmul(x, jnp.asarray(op.kernel, x.dtype), **accumulate)


def _lookup(op, x, **accumulate):
    dtype = accumulate.get("preferred_element_type", x.dtype)
    rows = mixing.lookup(jnp.asarray(op.kernel), x.astype(jnp.int32))
    return rows.astype(dtype)


def _product(op, x, **accumulate):
    groups, inner, outer = op.kernel.shape
    kernel, x = jnp.asarray(op.kernel, x.dtype), x.reshape(-1, groups, inner)
    if inner == 1:  # nothing is added up
        dtype = accumulate.get("preferred_element_type", x.dtype)
        y = x.astype(dtype) * kernel[:, 0].astype(dtype)
    else:
        y = jnp.einsum("rgk,gkn->rgn", x, kernel, **accumulate)
    return y.reshape(-1, groups * outer)


def _window(init, combine):
    def reduce(op, x):
        start = jnp.asarray(init, x.dtype)
        return lax.reduce_window(x, start, combine, op.window, op.strides, op.padding)

    return reduce


# Maxima are of codes, the smallest of which is 0.
_APPLY: Mapping[type, Callable[..., Any]] = {
    Reshape: lambda op, x: x.reshape(op.shape),
    Move: _move,
    Sum: lambda op, x: jnp.sum(x, op.axes, dtype=x.dtype),
    WindowSum: _window(0, lax.add),
    Max: lambda op, x: jnp.max(x, op.axes),
    WindowMax: _window(0, lax.max),
    Shift: lambda op, x: x * jnp.asarray(2**op.amount, x.dtype),
    Scale: lambda op, x: x * jnp.asarray(op.factor, x.dtype),
    Conv: _conv,
    Dense: _dense,
    Lookup: _lookup,
    Product: _product,
}
