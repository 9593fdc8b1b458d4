"""Ties for each T: what is said of them, and what `convert.py` writes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from msgspec import to_builtins

import convert
from bitsnn_jax import config, qcfs
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers.graph import Scale
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.jobs.ties import tied_for
from bitsnn_jax.training import train_and_evaluate

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4))


def graph(skips):
    """Two layers, and a skip connection from one to the other if there are skips."""

    def apply_fn(w, x):
        first = qcfs((x / 128 - 1) @ w, jnp.float32(1.5))
        return qcfs(first @ w + skips * first, jnp.linspace(1.0, 2.0, 4)) @ w

    weights = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    return lower(apply_fn, weights, jnp.zeros((1, 4)))


def test_each_steps_has_its_ties_and_one_line_says_how_many(capsys):
    graphs, (two, six, again) = tied_for(graph(1), PIXELS, [2, 6, 2])
    assert capsys.readouterr().out == "thresholds of 2 layers are tied, in 1 chain\n"
    assert two == again and two != six and graphs[0] is graphs[2]
    [[first, second]] = to_builtins(six)["chains"]
    assert first["trained"] == 1.5 and second["trained"]["channels"] == 4
    assert first["theta"] == graphs[1]["neuron"].theta.item()
    assert second["theta"]["max"] == graphs[1]["neuron@2"].theta.max()


def test_without_skips_one_line_says_that_nothing_is_tied(capsys):
    plain = graph(0)
    [same], [ties] = tied_for(plain, None, [4])
    assert all(a is b for a, b in zip(plain.nodes, same.nodes, strict=True))
    assert ties.chains == () and ties.untied == ()
    said = "no thresholds are tied: no skip connection brings codes to neurons\n"
    assert capsys.readouterr().out == said


@pytest.mark.slow
def test_what_convert_writes_has_powers_of_two_along_skips(tmp_path):
    """Also after fine-tuning, which is for one T and has its thresholds at all."""
    folder = tmp_path / "run"
    settings = config.Config(
        name="run",
        model=config.Model(name="resnet20", theta_init=2.0),
        optimizer=config.Optimizer(learning_rate=0.1, epochs=1),
    )
    train_and_evaluate(settings, folder)
    command = ["--ckpt", str(folder), "--steps", "2", "4", "--limit", "30"]
    command += ["--mode", "fused", "--certificate", "none", "--fixed-point"]
    found = {}
    for name, more in {
        "plain": [],
        "tied": ["--tie-skips"],
        "tuned": ["--tie-skips", "--qat_epochs", "1"],
    }.items():
        out = tmp_path / name
        convert.main([*command, "--out", str(out), *more])
        rows = json.loads((out / "conversion.json").read_text())["fixed_point"]["steps"]
        assert all(r["differing"] == r["outputs_differing"] == 0 for r in rows)
        terms = [
            t for n in bundle_writer.load(out / "fixed_point").nodes for t in n.terms
        ]
        scales = [t.weight.factor for t in terms if isinstance(t.weight, Scale)]
        is_tied = all((s & (s - 1) == 0).all() for s in scales)
        assert is_tied == (name != "plain")
        found[name] = [row.get("ties") for row in rows]
    assert found["plain"] == [None, None]
    assert [len(chain) for chain in found["tied"][0]["chains"]] == [4, 3, 3]
    assert (
        found["tied"][0] != found["tied"][1] == found["tuned"][0] == found["tuned"][1]
    )
