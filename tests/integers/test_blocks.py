"""Blocks that people bring: the same network in integers, spike by spike."""

import jax
import numpy as np
import pytest
from blocks import BLOCKS, EfficientNetBlock, lowered_block

from bitsnn_jax import referee
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers.execution import stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.operations import COUNTS, count
from bitsnn_jax.numerics.codings import CODINGS

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)


# The first has a gate, pairs, and a product that meets a sum.
BLOCKS_HERE = [EfficientNetBlock]
BLOCKS_HERE += [
    pytest.param(block, marks=pytest.mark.slow)
    for block in BLOCKS
    if block is not EfficientNetBlock
]


@pytest.mark.parametrize("block", BLOCKS_HERE)
def test_the_referee_agrees_on_every_spike_and_count_of_a_block(block, tmp_path):
    network = fixed_point(lowered_block(block), steps=4)
    bundle_writer.save(network, tmp_path / "net", vectors=IMAGES)  # one-shot codes
    spiking = jax.jit(stepped(network))(IMAGES)
    vectors = bundle_writer.load_vectors(tmp_path / "net")
    for name, codes in spiking.codes.items():
        np.testing.assert_array_equal(vectors[f"codes/{name}"], codes)
    read = referee.read(tmp_path / "net")
    for coding in CODINGS:
        counts, agreed, difference = referee.compare(read._replace(coding=coding))
        assert agreed > 0 and not difference
        formula = count(network, spiking.codes, examples=len(IMAGES), coding=coding)
        for node in formula.nodes:
            for field in set(COUNTS) - {"code_multiply_accumulates"}:
                where = f"{field} of {node.name}, {coding}"
                assert getattr(counts[node.name], field) == getattr(node, field), where
