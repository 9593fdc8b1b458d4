"""Batches to calibrate with: whatever yields them, the network sees the same."""

import jax
import numpy as np
import pytest

from bitsnn_jax.conversion import batches as module
from bitsnn_jax.conversion.batches import kept

RNG = np.random.default_rng(0)
PARTS = [RNG.normal(size=(n, 3)).astype(np.float32) for n in (4, 4, 1)]  # a ragged last
LABELS = [np.zeros(len(part), int) for part in PARTS]


def network(w, x):
    return jax.nn.relu(x @ w)


class Tensor:
    """What is asked of a tensor of PyTorch."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def detach(self):
        return self

    cpu = float = detach

    def is_floating_point(self):
        return True

    def numpy(self):
        return self.array


class Loader:
    """Yields pairs of tensors and labels in another order each time."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        pairs = list(zip(map(Tensor, PARTS), map(Tensor, LABELS), strict=True))
        return iter(pairs[:: (-1) ** (self.passes + 1)])


@pytest.mark.parametrize(
    "batches",
    [
        PARTS,
        tuple(PARTS),
        iter(PARTS),
        (part for part in PARTS),
        zip(PARTS, LABELS, strict=True),
        [[part, label] for part, label in zip(PARTS, LABELS, strict=True)],
        [{"id": "a", "image": part, "label": 0} for part in PARTS],
        Loader(),
        [Tensor(part) for part in PARTS],
    ],
)
def test_batches_of_any_origin_are_the_same_list(batches):
    found = kept(batches, network, np.eye(3, dtype=np.float32))
    assert all(isinstance(batch, np.ndarray) for batch in found)
    for batch, part in zip(found, PARTS, strict=True):
        np.testing.assert_array_equal(batch, part)


def test_a_loader_is_gone_through_once():
    loader = Loader()
    kept(loader, network, np.eye(3, dtype=np.float32))
    assert loader.passes == 1


def test_what_the_network_takes_whole_stays_whole():
    pairs = [(part, 2 * part) for part in PARTS]
    found = kept(pairs, lambda w, x: network(w, x[0]) + x[1], np.eye(3))
    assert [type(batch) for batch in found] == [tuple] * 3


def test_an_endless_generator_ends_where_it_is_told_or_memory_does(monkeypatch):
    def endless():
        while True:
            yield PARTS[0]

    w = np.eye(3, dtype=np.float32)
    assert len(kept(endless(), network, w, max_batches=5)) == 5
    monkeypatch.setattr(module, "LIMIT", 3 * PARTS[0].nbytes)
    with pytest.warns(UserWarning, match="the first 3 batches fill .* max_batches=3"):
        assert len(kept(endless(), network, w)) == 3
