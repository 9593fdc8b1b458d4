"""SystemVerilog of the layers of a network in integers, each with a testbench.

`write` makes a folder for each layer: the circuit, its memories, and test vectors that
Verilator runs. The circuits are bit-serial. Bits of codes come in one step at a time,
and no circuit has a multiplier, the first layer included: it takes the bits of pixels.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.exports.verilog_layers import Design, design, hex_words
from bitsnn_jax.exports.verilog_routes import VerilogError
from bitsnn_jax.exports.verilog_text import (
    Expected,
    bench_text,
    layer_text,
    makefile_text,
    readme_text,
)
from bitsnn_jax.integers.execution import value_of
from bitsnn_jax.integers.graph import batched, collected
from bitsnn_jax.integers.maxima import largest_codes
from bitsnn_jax.integers.network import IntegerNetwork
from bitsnn_jax.integers.operations import Paths, term_paths

MODULES = ("neurons", "synapses")
EXAMPLES = 4  # of the test vectors, at most


def write(
    network: IntegerNetwork, vectors: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Write the layers of a network that fit, in an empty folder.

    Args:
      network: of `fixed_point`.
      vectors: test vectors; without them, random inputs are the test.
      folder: gets README.md, a Makefile, the two modules that all layers share, and a
        folder for each layer.

    Raises:
      VerilogError: no layer fits; in one line that names the first and says why.
    """
    designs, unfit = [], []
    for node in network.nodes[1:]:
        try:
            designs.append(design(network, node))
        except VerilogError as error:
            unfit.append(str(error))
    if not designs:
        raise VerilogError(unfit[0] if unfit else "a network without layers")
    values = values_of(network, inputs_of(network, vectors))
    paths = term_paths(network)
    names = module_names([made.node.name for made in designs])
    for made, name in zip(designs, names, strict=True):
        write_layer(made, name, expected(made, values, paths), folder / name)
    for module in MODULES:
        text = Path(__file__).with_name(f"verilog_{module}.sv").read_text()
        (folder / f"{module}.sv").write_text(text)
    (folder / "Makefile").write_text(makefile_text(names))
    (folder / "README.md").write_text(readme_text(designs, names, unfit))


def write_layer(made: Design, name: str, test: Expected, folder: Path) -> None:
    """Write the circuit of a layer, its memories and its testbench."""
    folder.mkdir(parents=True)
    files = made.memories() | {
        "layer.sv": layer_text(made, name),
        "testbench.sv": bench_text(made, name, test),
        "expected.hex": hex_words(test.answer, made.out_bits),
        **{f"spikes_{k}.hex": hex_words(bits, 1) for k, bits in enumerate(test.sent)},
    }
    for file, text in files.items():
        (folder / file).write_text(text)


def inputs_of(network: IntegerNetwork, vectors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the inputs of some test vectors, or draw some."""
    if "input" in vectors:
        return np.asarray(vectors["input"][:EXAMPLES])
    tops = network.full(network.nodes[0].name)
    shape = (EXAMPLES, *tops.shape[1:])
    return np.random.default_rng(0).integers(0, tops + 1, shape)


def values_of(network: IntegerNetwork, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Compute what every node sends: codes, numbers, or the output. [n, *shape]."""

    def one(x):
        values = {"input": x}
        for node in network.nodes[1:]:
            if node.kind == "maximum":
                values[node.name] = largest_codes(node, values)
            else:
                z = collected(node, values, jnp.int32)
                values[node.name] = value_of(node, z, network.steps)
        return values

    found = jax.jit(batched(one))(jnp.asarray(inputs, jnp.int32))
    return {name: np.asarray(value)[:, 0] for name, value in found.items()}


def expected(made: Design, values: Mapping[str, np.ndarray], paths: Paths) -> Expected:
    """Write down what a layer is sent, what it must answer, and how much it adds.

    Each spike adds a weight once for each path to the layer, as `operations.count`
    counts; so does each bit of a pixel.
    """
    sent, additions = [], 0
    for given, reached in zip(made.inputs, paths[made.node.name], strict=True):
        bits = planes(values[given.source], given.planes)
        sent.append(bits.reshape(-1, given.routes.channels))
        additions += int((bits.sum((0, 1), dtype=np.int64) * reached[0]).sum())
    answer = values[made.node.name]
    if made.has_spikes:
        answer = planes(answer, made.steps)
    return Expected(tuple(sent), answer.reshape(-1, made.lanes), additions)


def planes(values: np.ndarray, steps: int) -> np.ndarray:
    """Split integers into bits, [n, steps, ...], the most significant first.

    >>> planes(np.array([[5, -1]]), 4).tolist()
    [[[0, 1], [1, 1], [0, 1], [1, 1]]]
    """
    places = np.arange(steps)[::-1].reshape(1, -1, *[1] * (values.ndim - 1))
    return (values[:, None] >> places) & 1


def module_names(names: list[str]) -> list[str]:
    """Turn names of layers into names of modules, all different and no keywords.

    >>> module_names(["a/1", "a_1", "output"])
    ['layer_a_1', 'layer_a_1_2', 'layer_output']
    """
    found: list[str] = []
    for name in names:
        plain = "layer_" + re.sub(r"\W", "_", name, flags=re.ASCII)
        made, n = plain, 2
        while made in found:
            made, n = f"{plain}_{n}", n + 1
        found.append(made)
    return found
