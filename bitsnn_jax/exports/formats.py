"""The formats that a network in integers leaves in: one table.

Each row writes a folder. A library that a format needs is imported when it is written,
so that all others work without it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bitsnn_jax.exports import check
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.network import IntegerNetwork

Vectors = Mapping[str, np.ndarray]  # as `bundle_reader` describes them


class Format(NamedTuple):
    """A row of the table.

    Attributes:
      title: what it is, in a few words.
      extra: of this package, that brings the libraries it needs; "" for none.
      write: takes a network, its test vectors (which may be none) and an empty folder,
        and writes files there.
    """

    title: str
    extra: str
    write: Callable[[IntegerNetwork, Vectors, Path], None]


def _nir(network: IntegerNetwork, vectors: Vectors, folder: Path) -> None:
    from bitsnn_jax.exports import nir_writer

    nir_writer.write(folder / "network.nir", network)


def _nir_stock(network: IntegerNetwork, vectors: Vectors, folder: Path) -> None:
    from bitsnn_jax.exports import nir_stock

    nir_stock.write(network, vectors, folder)


def _onnx(network: IntegerNetwork, vectors: Vectors, folder: Path) -> None:
    from bitsnn_jax.exports import onnx_writer

    onnx_writer.write(network, vectors, folder)


def _qonnx(network: IntegerNetwork, vectors: Vectors, folder: Path) -> None:
    from bitsnn_jax.exports import qonnx_writer

    qonnx_writer.write(network, vectors, folder)


def _stablehlo(network: IntegerNetwork, vectors: Vectors, folder: Path) -> None:
    from bitsnn_jax.exports import stablehlo

    integers = np.min_scalar_type(network.white)
    example = np.zeros(network.nodes[0].shape, integers)
    for name, run in (("one_shot", one_shot), ("stepped", stepped)):
        path = folder / f"{name}.stablehlo"
        stablehlo.write(path, run(network), example, steps=network.steps)
    check.complete(folder, vectors)


def _verilog(network: IntegerNetwork, vectors: Vectors, folder: Path) -> None:
    from bitsnn_jax.exports import verilog_writer

    verilog_writer.write(network, vectors, folder)


FORMATS: dict[str, Format] = {
    "nir": Format("NIR with nodes of our own for neurons", "nir", _nir),
    "nir_stock": Format("NIR with nodes that its readers know", "nir", _nir_stock),
    "onnx": Format("ONNX in integers, with a check of the runtime", "onnx", _onnx),
    "qonnx": Format("QONNX, which flows for FPGAs read", "qonnx", _qonnx),
    "stablehlo": Format("StableHLO, which JAX runs", "stablehlo", _stablehlo),
    "verilog": Format("SystemVerilog of each layer, with testbenches", "", _verilog),
}
