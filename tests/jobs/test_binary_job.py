"""Trained binary networks, measured; and what the commands say of them."""

import jax
import numpy as np
import pytest
from commands import check_line, run

from bitsnn_jax.config import Binary, Config, Data, Model
from bitsnn_jax.data import load
from bitsnn_jax.integers.energy import profile, profiles
from bitsnn_jax.jobs.binary import agreement, compute_joules, operations
from bitsnn_jax.runs.checkpoint import Checkpoints, load_run
from bitsnn_jax.runs.provenance import run_metadata
from bitsnn_jax.tasks import task_of

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of xnor that was never trained, on the digits."""
    config = Config(
        data=Data(eval_batch_size=6),
        model=Model(name="small", activation="binary", width=0.25, pool="max"),
        binary=Binary(method="xnor"),
    )
    model = task_of(config).build(config, SHAPE)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, *SHAPE), "f4"), train=False)
    )
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: (
            abs(rng.normal(size=leaf.shape)).astype("f4") - 0.1 * (leaf.ndim > 1)
        ),
        shapes,
    )
    place = tmp_path_factory.mktemp("runs") / "xnor"
    with Checkpoints(place) as checkpoints:
        checkpoints.save(
            0,
            variables=variables,
            optimizer={"count": np.zeros((), np.int32)},
            progress={},
            metadata=run_metadata(config, SHAPE),
        )
    return place


@pytest.mark.slow  # each operation is compiled by itself
def test_all_logits_of_all_examples_are_compared(folder):
    found, test = load_run(folder), load(load_run(folder).config.data, "test").first(10)
    assert agreement(found, test) == (10 * 10, 0)  # the last batch has padding


def test_operations_are_counted_of_all_examples_and_no_padding(folder):
    found, test = load_run(folder), load(load_run(folder).config.data, "test")
    counts = operations(found, test.first(101))
    # 22 pixels a row of windows on 8 pixels, 10 on 4; 2, 4 and 4 channels.
    assert counts["binary_products"] == 101 * (22**2 * 2 * 4 + 10**2 * 4 * 4)


def test_energy_is_that_of_all_kinds():
    counts = {
        "binary_products": 1000,
        "multiply_accumulates": 10,
        "synaptic_operations": 20,
        "bias_additions": 30,
        "compares": 40,
    }
    # add 0.03, multiply 0.2, compare 0.03, and 1.5 full adders of 8 in an addition
    expected = 1000 * 1.5 * 0.03 / 8 + 10 * 0.23 + 50 * 0.03 + 40 * 0.03
    found = compute_joules(counts, profile("paper_8"), examples=2)
    assert found == pytest.approx(expected * 1e-12 / 2, rel=1e-12, abs=0)


def test_a_binary_product_is_one_and_a_half_full_adders_in_every_profile():
    for each in profiles().values():
        adder = each.add / each.membrane_bits
        assert each.binary_product == pytest.approx(1.5 * adder, rel=1e-12, abs=0)


WRONG = [
    ("convert", "--ckpt {run}", "is a binary network (xnor): it has no codes that co"),
    ("compare", "--ckpt {run}", "is a binary network (xnor)"),
    ("export", "--ckpt {run} --to nir", "is a binary network (xnor)"),
]


@pytest.mark.parametrize(("command", "words", "line"), WRONG)
def test_a_command_for_spiking_networks_says_that_it_is_none(
    command, words, line, folder, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    words = words.format(run=folder).split()
    status = run(command, [*words, "--out=new"], monkeypatch)
    check_line(status, capfd.readouterr(), line)
    assert not any(tmp_path.iterdir())
