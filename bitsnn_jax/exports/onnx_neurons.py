"""What becomes of the sum of a node: a code, in one go or spike by spike.

A spike of step t is carried as 2**(T-t), which is its weight in every layer that it
feeds: the shift of a charge is a multiplication by that. So a train of T values adds up
to the code.
"""

import math

import numpy as np

from bitsnn_jax.exports.onnx_builder import EXACT, TYPES, UNFLOORED, Builder, Value
from bitsnn_jax.exports.onnx_sums import broadcast
from bitsnn_jax.integers.network import IntegerNode
from bitsnn_jax.integers.tables import ALWAYS, NEVER


def clipped(builder: Builder, z: Value, top: int) -> Value:
    """Return clip(floor(z), 0, top). The floor is left to the cast to bytes, if any."""
    kind, first = _only(z)
    bounds = (builder.constant(n, TYPES[kind]) for n in (0, top))
    name = builder.add("Clip", builder.form(z, kind, first), *bounds)
    if kind != "f32":
        return Value(z.shape, 0, top, forms={(kind, first): builder.add("Floor", name)})
    return Value(z.shape, 0, top, forms={(UNFLOORED, first): name})


def floored(builder: Builder, z: Value, top: int) -> Value:
    """Return floor(z), which is within -top..top."""
    kind, first = _only(z)
    name = builder.add("Floor", builder.form(z, kind, first))
    return Value(z.shape, -top, top, forms={(kind, first): name})


def fired(builder: Builder, u: Value, steps: int) -> list[Value]:
    """Fire T steps by Eq. (10), where a code is worth 1: thresholds 2**(T-t)."""
    (kind, first), train = _only(u), []
    name = builder.form(u, kind, first)
    for place in reversed(range(steps)):
        threshold = builder.constant(2**place, TYPES[kind])
        spikes = builder.add("GreaterOrEqual", name, threshold)
        train.append(_spikes(builder, spikes, u, place, first))
        if place:
            sent = train[-1].forms["f32", first]
            sent = sent if kind == "f32" else builder.cast(sent, kind)
            name = builder.add("Sub", name, sent)
    return train


def looked_up(builder: Builder, node: IntegerNode, u: Value, steps: int) -> list[Value]:
    """Fire T steps by a table: rise[c - 1] <= u < fall[c - 1], see `tables`."""
    kind, first = _only(u)
    name, shape = builder.form(u, kind, first), node.rise.shape[1:]
    # Entry c of a channel stands at (c - 1) * channels + channel.
    channels = math.prod(shape)
    sides = [
        builder.constant(
            np.clip(side, -EXACT, EXACT) if kind == "f32" else side, TYPES[kind]
        )
        for side in (node.rise.reshape(-1), node.fall.reshape(-1))
    ]
    begins, ends = (node.rise != ALWAYS).any(), (node.fall != NEVER).any()
    place_of = broadcast(
        builder, np.arange(channels).reshape(shape) - channels, node.shape, first, "i32"
    )
    index, train = place_of, []
    zero = builder.add("Mul", builder.cast(name, "i32"), builder.constant(0, np.int32))
    for place in reversed(range(steps)):
        step = builder.constant(channels << place, np.int32)
        tried = builder.add("Add", index, step)
        if not train:  # of the shape of u, though no bit is known yet
            tried = builder.add("Add", tried, zero)
        entry = [builder.add("Gather", side, tried, axis=0) for side in sides]
        tests = []
        if begins or not ends:
            tests.append(builder.add("GreaterOrEqual", name, entry[0]))
        if ends:
            tests.append(builder.add("Less", name, entry[1]))
        spikes = tests[0] if len(tests) == 1 else builder.add("And", *tests)
        train.append(_spikes(builder, spikes, u, place, first))
        if place:
            index = builder.add("Where", spikes, tried, index)
    return train


def packed(builder: Builder, train: list[Value]) -> Value:
    """Return the code of a train."""
    first = train[0].is_first
    names = [builder.form(value, "f32", first) for value in train]
    name = names[0] if len(names) == 1 else builder.add("Sum", *names)
    top = 2 ** len(train) - 1
    return Value(train[0].shape, 0, top, forms={("f32", first): name})


def _spikes(builder, spikes, u, place, first):
    worth, none = (builder.constant(n, np.float32) for n in (2**place, 0))
    name = builder.add("Where", spikes, worth, none)
    return Value(u.shape, 0, 2**place, 2**place, forms={("f32", first): name})


def _only(value: Value) -> tuple[str, bool]:
    """Return the form of a sum, the one that it was made in."""
    return next(iter(value.forms))
