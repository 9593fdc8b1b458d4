"""Quantised ONNX files: weights become numbers, pairs on activations become QCFS.

A QuantizeLinear and the DequantizeLinear behind it keep x on the grid of a scale:

    scale * (clip(round(x / scale) + zero, low, high) - zero)

With zero = low, as behind a ReLU, that is QCFS, Eq. (2), with `high - low` levels and
theta = scale * levels. Otherwise it is the difference of two, one for each sign. They
round ties up where ONNX rounds them to even.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from bitsnn_jax.interop.onnx_nodes import Attribute, Node
from bitsnn_jax.numerics.qcfs import qcfs


class QuantisedFileError(ValueError):
    """A use of QuantizeLinear or DequantizeLinear without a JAX form."""


def _quantised(x, theta=None, theta_off=None, *, levels, levels_off, axis=1):
    """Keep x on a grid; `levels_off` are those of negative values."""

    def shaped(value):
        return value.reshape(-1, *(1,) * (x.ndim - 1 - axis)) if value.ndim else value

    y = 0 if theta is None else qcfs(x, shaped(theta), levels=levels)
    if theta_off is None:
        return y
    return y - qcfs(-x, shaped(theta_off), levels=levels_off)


QUANTISED: dict[str, Callable[..., Any]] = {"QCFS": _quantised}
# What changes nothing in front of a code that has no negative values.
_RECTIFIERS = ("Relu",)


class _Grid(NamedTuple):
    """The numbers of a QuantizeLinear or a DequantizeLinear."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int

    def shaped(self, values: np.ndarray, rank: int) -> np.ndarray:
        """Let values for each channel broadcast."""
        if not values.ndim:
            return values
        return values.reshape(-1, *(1,) * (rank - 1 - self.axis % rank))


def without_quantised_types(
    nodes: list[Node], constants: dict[str, np.ndarray]
) -> tuple[list[Node], set[str]]:
    """Write a quantised file in floating point; thresholds are added to the constants.

    Returns:
      The nodes, and the names of the thresholds.

    Raises:
      QuantisedFileError: with the node.
    """
    makers = {output: node for node in nodes for output in node.outputs}
    done, thetas = [], set()
    for node in nodes:
        if node.operator == "QuantizeLinear":
            if node.inputs[0] in constants:  # weights, on their grid from training on
                constants[node.outputs[0]] = _codes(node, constants)
        elif node.operator == "DequantizeLinear":
            if node.inputs[0] in constants:
                constants[node.outputs[0]] = _numbers(node, constants)
            else:
                coded = makers.get(node.inputs[0])
                if coded is None or coded.operator != "QuantizeLinear":
                    raise QuantisedFileError(
                        f"DequantizeLinear in {node.scope}: of weights or of what a "
                        "QuantizeLinear made, not of other integers"
                    )
                made, of_neurons = _as_qcfs(node, coded, makers, constants)
                constants |= of_neurons
                thetas |= of_neurons.keys()
                done.append(made)
        else:
            done.append(node)
    left = {name for node in done for name in node.inputs}
    for node in nodes:
        coded = node.operator == "QuantizeLinear" and node.inputs[0] not in constants
        if coded and left & set(node.outputs):
            raise QuantisedFileError(
                f"QuantizeLinear in {node.scope}: integers are used by more than "
                "DequantizeLinear; export in the QDQ format"
            )
    return done, thetas


def _grid(node: Node, constants: Mapping[str, np.ndarray]) -> _Grid:
    names = [*node.inputs, ""]
    if node.attributes.get("block_size"):
        raise QuantisedFileError(
            f"{node.operator} in {node.scope}: scales of blocks have no JAX form; "
            "quantise by tensor or by channel"
        )
    if any(name and name not in constants for name in names[1:3]):
        raise QuantisedFileError(
            f"{node.operator} in {node.scope}: its scale depends on the input; "
            "quantise statically, with scales from calibration"
        )
    scale = np.asarray(constants[names[1]], np.float32)
    zero = constants[names[2]] if names[2] else np.zeros((), np.uint8)
    if scale.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(())
    axis = node.attributes.get("axis", 1)
    assert isinstance(axis, int), "the file says so"
    return _Grid(scale, zero, axis)


def _range(node: Node, zero: np.ndarray) -> tuple[int, int]:
    try:
        info = _INTEGERS.get(zero.dtype.name) or np.iinfo(zero.dtype)
    except ValueError:
        raise QuantisedFileError(
            f"{node.operator} in {node.scope}: {zero.dtype} is no type of integers"
        ) from None
    return (info.min, info.max) if isinstance(info, np.iinfo) else info


# Types that NumPy does not have.
_INTEGERS = {"int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3)}


def _codes(node: Node, constants) -> np.ndarray:
    grid = _grid(node, constants)
    x = constants[node.inputs[0]]
    zero = grid.shaped(grid.zero.astype(np.int64), x.ndim)
    codes = np.round(x / grid.shaped(grid.scale, x.ndim)) + zero
    return np.clip(codes, *_range(node, grid.zero)).astype(np.int64)


def _numbers(node: Node, constants) -> np.ndarray:
    grid = _grid(node, constants)
    codes = constants[node.inputs[0]].astype(np.int64)
    zero = grid.shaped(grid.zero.astype(np.int64), codes.ndim)
    return (codes - zero).astype(np.float32) * grid.shaped(grid.scale, codes.ndim)


def _as_qcfs(
    node: Node,
    coded: Node,
    makers: Mapping[str, Node],
    constants: Mapping[str, np.ndarray],
) -> tuple[Node, dict[str, np.ndarray]]:
    """Make a QCFS, or a pair, of what a pair of nodes does; with its thresholds."""
    grid, again = _grid(coded, constants), _grid(node, constants)
    if not (
        np.array_equal(grid.scale, again.scale)
        and np.array_equal(grid.zero, again.zero)
    ):
        raise QuantisedFileError(
            f"DequantizeLinear in {node.scope}: another scale or zero point than that "
            "of its QuantizeLinear"
        )
    if np.ptp(grid.zero.astype(np.int64)):
        raise QuantisedFileError(
            f"QuantizeLinear in {coded.scope}: a zero point for each channel has no "
            "JAX form; give all channels the same"
        )
    low, high = _range(coded, grid.zero)
    zero = int(grid.zero.reshape(-1)[0])
    levels, levels_off = high - zero, zero - low
    if levels_off == levels + 1:  # the code -128 has no partner
        levels_off = levels
    scope, source = coded.scope, coded.inputs[0]
    before = makers.get(source)
    if before is not None and not levels_off and before.operator in _RECTIFIERS:
        scope, source = before.scope, before.inputs[0]
    thetas, names = {}, []
    for count, name in ((levels, "theta"), (levels_off, "theta_off")):
        names.append(f"{node.outputs[0]}.{name}" if count else "")
        if count:
            thetas[names[-1]] = grid.scale * np.float32(count)
    attributes: dict[str, Attribute] = {
        "levels": levels,
        "levels_off": levels_off,
        "axis": grid.axis,
    }
    made = Node("QCFS", scope, [source, *names], node.outputs, attributes)
    return made, thetas
