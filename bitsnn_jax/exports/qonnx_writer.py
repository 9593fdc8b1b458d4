"""The network of integers in QONNX, which flows for FPGAs such as FINN read.

Weights are integers in standard nodes of ONNX, channels first. A layer of neurons is a
`MultiThreshold` of QONNX. Its code is the number of thresholds that the sum reaches,

    code = #{k in 1..2**T - 1: sum of terms >= k 2**f - half - bias}

which is Eq. (2) in integers. The table of a function that rises is one as well. All
tensors are float32, as QONNX has it, and exact, since no sum reaches 2**24.

Needs the package `onnx`: the extra `onnx`.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx

from bitsnn_jax.exports import check
from bitsnn_jax.exports.node_checks import check_no_rows
from bitsnn_jax.exports.orders import transposition
from bitsnn_jax.exports.qonnx_tensors import (
    DOMAIN,
    EXACT,
    Model,
    QONNXError,
    Tensor,
    channels_first,
    type_of,
)
from bitsnn_jax.exports.qonnx_terms import add_term
from bitsnn_jax.integers.graph import Move, Weightless, apply_term
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.tables import NEVER


def to_qonnx(network: IntegerNetwork) -> onnx.ModelProto:
    """Turn the network into a QONNX model of a batch of 1.

    The input is named as that of the network and holds its integers. The tensor named
    as a layer of neurons has the codes of that layer. Outputs are integers; times the
    unit of their node they are the logits.

    Args:
      network: of `fixed_point`.

    Raises:
      QONNXError: a softmax, normalised rows, rows of a table, a function that falls, a
        product of two layers, thresholds that differ within a channel, values moved in
        another way than transposed, a sum that can reach 2**24; with the layer's name.
    """
    check_no_rows(network, "QONNX", QONNXError)
    model, first = Model(), network.nodes[0]
    start = Tensor(first.name, first.shape, _input_order(network), network.white)
    values = {first.name: model.describe(start)}
    for node in network.nodes[1:]:
        model.layer = node.name
        try:
            values[node.name] = _layer(model, node, values, network)
        except QONNXError as error:
            raise QONNXError(f"{node.name}: QONNX has no {error}") from None
    outputs = [values[node.name] for node in network.of_kind("output")]
    metadata = {"steps": network.steps, "bits": network.bits, "levels": network.white}
    return model.proto([start], outputs, metadata)


def write(
    network: IntegerNetwork, vectors: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Write `network.onnx`, test vectors in the order of its axes, and `check.py`.

    `python check.py` needs NumPy and qonnx only. Its executor runs the model, and every
    code and logit is compared.

    Args:
      network: of `fixed_point`.
      vectors: as in `bundle_writer.load_vectors`; may be none.
      folder: an empty one.

    Raises:
      QONNXError: as `to_qonnx`.
    """
    (folder / "network.onnx").write_bytes(to_qonnx(network).SerializeToString())
    check.complete(folder, in_file_order(network, vectors))


def in_file_order(
    network: IntegerNetwork, vectors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Put the axes of test vectors in the order of the file.

    Args:
      network: that they are of.
      vectors: as in `bundle_writer.load_vectors`.
    """
    found = {}
    for name, array in vectors.items():
        if name == "input":
            order = _input_order(network)
        else:
            order = channels_first(len(network[name.split("/", 1)[1]].shape))
        found[name] = np.asarray(array).transpose(order)
    return found


def _input_order(network: IntegerNetwork) -> tuple[int, ...]:
    """Return the order of the input's axes in the file: channels first.

    A network that has them first by itself begins with a transposition.
    """
    first = network.nodes[0]
    terms = [t for node in network.nodes for t in node.terms if t.source == first.name]
    if any(term.before and _transposes(term.before[0], first) for term in terms):
        return tuple(range(len(first.shape)))
    return channels_first(len(first.shape))


def _transposes(op: Weightless, node: IntegerNode) -> bool:
    return (
        isinstance(op, Move)
        and op.index.ndim == len(node.shape)
        and transposition(op.index, node.shape) is not None
    )


def _layer(
    model: Model,
    node: IntegerNode,
    values: Mapping[str, Tensor],
    network: IntegerNetwork,
) -> Tensor:
    if node.shape[:1] != (1,):
        raise QONNXError("values without an axis for the batch")
    order = channels_first(len(node.shape))
    parts = [
        model.ordered(add_term(model, term, values[term.source], node), order)
        for term in node.terms
    ]
    if node.kind == "maximum":
        return model.named(_joined(model, "Max", parts), node.name)
    _check_sums(node, network)
    z = _joined(model, "Add", parts)
    if node.kind == "neurons":
        return _neurons(model, node, z, network.steps)
    z = _plus(model, node, z, node.bias + node.half)
    if node.kind == "sum":
        factor = model.broadcast(z, 2.0**-node.fraction, "FLOAT32")
        z = model.node("Mul", [z.name, factor], model.new(z, is_whole=False))
        whole = model.new(z, top=network.top(node.name), is_whole=True)
        z = model.node("Floor", [z.name], whole)
    return model.named(z, node.name)


def _joined(model: Model, kind: str, parts: list[Tensor]) -> Tensor:
    z, *others = parts
    for part in others:
        top, has_sign = max(z.top, part.top), z.has_sign or part.has_sign
        to = model.new(z, top=top, has_sign=has_sign)
        z = model.node(kind, [z.name, part.name], to)
    return z


def _neurons(model: Model, node: IntegerNode, z: Tensor, steps: int) -> Tensor:
    """Compare z, the sum without its bias, with thresholds that hold the bias."""
    bias = node.bias.astype(np.int64)
    if not _is_by_channel(bias):
        z, bias = _plus(model, node, z, bias), np.zeros((), np.int64)
    if node.has_table:
        if (node.fall != NEVER).any():
            raise QONNXError("neurons with a function that falls")
        rows = node.rise.astype(np.int64)
    else:
        codes = np.arange(1, 2**steps).reshape(-1, *(1,) * node.fraction.ndim)
        rows = (codes << node.fraction) - node.half
    if not _is_by_channel(rows[0]):
        raise QONNXError("thresholds that differ within a channel")
    # What each sum reaches, or none, need not be further away than sums are.
    rows = np.clip(rows - bias, -node.bound, node.bound + 1)
    rows = rows.reshape(len(rows), -1)
    thresholds = model.constant(rows.T, type_of(node.bound + 1, True))
    to = z._replace(name=node.name, top=2**steps - 1, has_sign=False)
    return model.node(
        "MultiThreshold",
        [z.name, thresholds],
        to,
        domain=DOMAIN,
        out_dtype=to.integers,
        data_layout="NC" + "DHW"[5 - len(node.shape) :],
    )


def _is_by_channel(numbers: np.ndarray) -> bool:
    """Whether there is one number, or one for each channel."""
    return numbers.size == 1 or numbers.size == numbers.shape[-1]


def _plus(model: Model, node: IntegerNode, z: Tensor, numbers: np.ndarray) -> Tensor:
    if not np.any(numbers):
        return z
    to = model.new(z, top=node.bound, has_sign=True)
    added = model.broadcast(z, numbers, to.integers)
    return model.node("Add", [z.name, added], to)


def _check_sums(node: IntegerNode, network: IntegerNetwork) -> None:
    """Raise QONNXError if a sum may be beyond what float32 counts."""
    reach = node.bound if node.bound < EXACT else _largest_partial_sum(node, network)
    if reach >= EXACT:
        raise QONNXError(f"sums of {reach:,}, only of less than {EXACT:,}")


def _largest_partial_sum(node: IntegerNode, network: IntegerNetwork) -> int:
    """Return the largest |sum| in any order of addition, signs of weights seen.

    Codes are never negative, so weights of one sign make the largest sum.
    """
    with jax.enable_x64(True):
        full = np.broadcast_to(node.bias + node.half, node.shape).astype(np.float64)
        sides = [np.maximum(full, 0), np.maximum(-full, 0)]
        for term in node.terms:
            top, source = network.top(term.source), network[term.source]
            numbers = term.numbers.astype(np.float64)
            x = jnp.full(source.shape, top, jnp.float64)
            for i, sign in enumerate((1, -1)):
                kept = np.maximum(sign * numbers, 0)
                if source.kind == "sum":
                    kept = np.abs(numbers)
                sides[i] = sides[i] + apply_term(term.with_numbers(kept), x)
    return int(max(side.max() for side in map(np.asarray, sides)))
