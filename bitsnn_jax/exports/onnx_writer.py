"""A network in integers as ONNX, which onnxruntime and others run bit for bit.

`export_onnx` makes the model. `write` makes a folder: both models, test vectors, and a
script that compares them on the machine that is to run them.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from bitsnn_jax.exports import check
from bitsnn_jax.exports.onnx_builder import Builder, OnnxError, Value
from bitsnn_jax.exports.onnx_bytes import in_bytes
from bitsnn_jax.exports.onnx_neurons import clipped, fired, floored, looked_up, packed
from bitsnn_jax.exports.onnx_operations import applied
from bitsnn_jax.exports.onnx_rows import by_rows
from bitsnn_jax.exports.onnx_skips import with_skip_behind
from bitsnn_jax.exports.onnx_sums import Part, Sums
from bitsnn_jax.integers.execution import bias_part
from bitsnn_jax.integers.graph import ROWS, Held
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode

Mode = Literal["one_shot", "stepped"]


def export_onnx(
    network: IntegerNetwork, *, mode: Mode = "one_shot", codes: bool = True
) -> Any:
    """Write a network in integers as an ONNX model.

    The model takes "input", integers [n, ...] for any n, and returns what
    `execution.one_shot` or `execution.stepped` do: the int32 sums of each output node,
    under its name, and "code_NAME" of each layer of neurons, channels last.

    Args:
      network: of `fixed_point`.
      mode: "one_shot" computes codes in one pass. "stepped" simulates every spike; its
        T steps are written one after the other.
      codes: whether codes are outputs too.

    Returns:
      An `onnx.ModelProto`, checked by `onnx.checker`.

    Raises:
      OnnxError: unknown mode; a layer that ONNX cannot compute exactly, by name; a
        model beyond 2 GB.
      ImportError: onnx is not installed.
    """
    if mode not in get_args(Mode):
        raise OnnxError(
            f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}"
        )
    writer = _OneShot(network) if mode == "one_shot" else _Stepped(network)
    for node in network.nodes[1:]:
        try:
            writer.node(node)
        except OnnxError as error:
            raise OnnxError(f"{node.name}: {error}") from None
        if codes and node.kind == "neurons":
            writer.code_output(node)
    facts = {
        "bitsnn": "1",
        "mode": mode,
        "steps": str(network.steps),
        "white": str(network.white),
    }
    kind, image = unsigned(network.white), network.nodes[0]
    return writer.builder.model(kind, image.shape, facts)


def unsigned(top: int) -> str:
    """Return the smallest unsigned type that holds 0..top."""
    return "u8" if top < 2**8 else "u16" if top < 2**16 else "u32"


class _Writer:
    """Writes nodes, one after the other; knows the values that they have."""

    def __init__(self, network: IntegerNetwork):
        self.network, self.builder = network, Builder()
        self.top = 2**network.steps - 1
        image, white = network.nodes[0], network.white
        forms = {(unsigned(white), False): "input"}
        self.values = {image.name: Value(image.shape, 0, white, forms=forms)}

    def node(self, node: IntegerNode) -> None:
        """Write a node that is not the input."""
        if node.kind == "maximum":
            self.values[node.name] = self._maximum(node)
        elif node.kind == "neurons":
            self.values[node.name] = self.neurons(node)
        elif node.kind == "sum":
            top = self.network.top(node.name)
            self.values[node.name] = floored(self.builder, self.sums(node), top)
        elif node.kind in ROWS:
            self.values[node.name] = by_rows(self.builder, node, self.sums(node))
        else:
            z = self.sums(node)
            made = self.builder.form(z, "i32")
            self.builder.output(node.name, made, "i32", node.shape)

    def code_output(self, node: IntegerNode) -> None:
        """Make the codes of a layer an output."""
        kind = unsigned(self.top)
        made = self.builder.form(self.values[node.name], kind)
        self.builder.output(f"code_{node.name}", made, kind, node.shape)

    def neurons(self, node: IntegerNode) -> Value:
        raise NotImplementedError

    def sums(self, node: IntegerNode) -> Value:
        raise NotImplementedError

    def _maximum(self, node: IntegerNode) -> Value:
        terms = [
            applied(self.builder, [*t.before, *t.after], self.values[t.source])
            for t in node.terms
        ]

        def larger(one: Value, other: Value) -> Value:
            first = one.is_first or other.is_first
            kind = "u8" if self.top < 256 else "f32"
            names = [self.builder.form(v, kind, first) for v in (one, other)]
            name = self.builder.add("Max", *names)
            return Value(node.shape, 0, self.top, forms={(kind, first): name})

        return functools.reduce(larger, terms)

    def _part(self, term: Any, value: Value) -> Part:
        weight = term.weight
        held = self.values[weight.source] if isinstance(weight, Held) else None
        return Part(term, value, held)


class _OneShot(_Writer):
    """One pass, with codes."""

    def neurons(self, node: IntegerNode) -> Value:
        if node.has_table:
            train = looked_up(self.builder, node, self.sums(node), self.network.steps)
            return packed(self.builder, train)
        given = self.builder, node, self.values, self.top
        made = with_skip_behind(*given) or in_bytes(*given)
        return made or clipped(self.builder, self.sums(node), self.top)

    def sums(self, node: IntegerNode) -> Value:
        """Return (sum of terms + bias + half) 2**-f."""
        parts = [self._part(t, self.values[t.source]) for t in node.terms]
        bias = node.bias.astype(np.int64) + node.half
        return Sums(self.builder, node).add(parts, bias)


class _Stepped(_Writer):
    """Every spike: T steps of charges, then T steps of firing."""

    def __init__(self, network: IntegerNetwork):
        super().__init__(network)
        self.trains: dict[str, list[Value]] = {}

    def node(self, node: IntegerNode) -> None:
        super().node(node)
        if node.kind == "maximum":  # it sends the bits of its code
            code, first = self.values[node.name], self.values[node.name].is_first
            forms = {("f32", first): self.builder.form(code, "f32", first)}
            code = Value(node.shape, 0, self.top, forms=forms)
            self.trains[node.name] = fired(self.builder, code, self.network.steps)

    def neurons(self, node: IntegerNode) -> Value:
        z, steps = self.sums(node), self.network.steps
        if node.has_table:
            train = looked_up(self.builder, node, z, steps)
        else:
            train = fired(self.builder, z, steps)
        self.trains[node.name] = train
        return packed(self.builder, train)

    def sums(self, node: IntegerNode) -> Value:
        """Charge the membrane: what has no time, then the spikes of each step."""
        steps, sums = self.network.steps, Sums(self.builder, node)
        timed = [t for t in node.terms if t.source in self.trains]
        once = [t for t in node.terms if t.source not in self.trains]
        # The half step may come at any time before the layer fires, and where no spike
        # comes the parts of the bias may come together.
        start, half = [self._part(t, self.values[t.source]) for t in once], node.half
        bias = node.bias.astype(np.int64)
        if not timed:
            return sums.add(start, bias + half)
        charges = [sums.add(start, half)] if start else []
        for t in range(steps):
            parts = [self._part(term, self.trains[term.source][t]) for term in timed]
            more = half if not charges else 0
            charges.append(sums.add(parts, bias_part(bias, t, steps) + more))
        return functools.reduce(functools.partial(sums.joined, "Add"), charges)


def write(
    network: IntegerNetwork, vectors: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Write `one_shot.onnx` and `stepped.onnx`, test vectors, and `check.py`.

    `python check.py` needs NumPy and onnxruntime only. It compares every code and every
    logit on the machine that is to run the models.

    Args:
      network: of `fixed_point`.
      vectors: as in `bundle_writer.load_vectors`; may be none.
      folder: an empty one.

    Raises:
      OnnxError: as `export_onnx`.
    """
    models = {
        f"{mode}.onnx": export_onnx(network, mode=mode) for mode in get_args(Mode)
    }
    for name, model in models.items():
        (folder / name).write_bytes(model.SerializeToString())
    check.complete(folder, vectors)
