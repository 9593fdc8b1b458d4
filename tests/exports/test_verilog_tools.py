"""Circuits in the tools of hardware: Verilator runs them, yosys takes them apart."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from test_verilog import designs, small_network

import export
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.exports.verilog_writer import module_names

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Export a network by the command of docs/integers.md."""
    folder, network = tmp_path_factory.mktemp("verilog"), small_network()
    shape = (2, *network.nodes[0].shape[1:])
    images = np.random.default_rng(0).integers(0, network.white + 1, shape)
    bundle_writer.save(network, folder / "fixed_point", vectors=images)
    export.main(["--ckpt", str(folder / "fixed_point"), "--to", "verilog"])
    return folder / "verilog"


def make(folder, *targets):
    command = ["make", "-j2", "-k", *targets]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False
    )


def cycles(done, name):
    return int(re.search(rf"{name}: .* (\d+) cycles", done.stdout)[1])


@pytest.mark.skipif(not shutil.which("verilator"), reason="needs Verilator 5")
def test_every_layer_sends_its_spikes_in_verilator_and_a_wrong_weight_is_found(folder):
    done = make(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    names = module_names([node.name for node in small_network().nodes[1:]])
    assert sorted(re.findall(r"^(\w+): \d+ words agree", done.stdout, re.M)) == (
        sorted(names)
    )
    stalled = make(folder, "FLAGS=+stalls", "layer_several", "layer_output")
    assert len(re.findall("words agree", stalled.stdout)) == 2
    assert cycles(stalled, "layer_several") > cycles(done, "layer_several")
    # Memories are read when a simulation starts, so nothing is compiled again.
    rows = folder / "layer_output" / "rows_1.hex"
    weights = rows.read_text()
    rows.write_text(weights.replace(weights[:6], "7f7f7f"))
    failed = make(folder, "layer_output")
    assert failed.returncode != 0
    assert re.search(r"word 0: expected \w+, got \w+", failed.stdout)


@pytest.mark.skipif(not shutil.which("yosys"), reason="needs yosys")
def test_a_layer_has_one_adder_for_each_neuron_and_no_multiplier(folder):
    for made in designs():
        name = "layer_" + made.node.name.replace("/", "_")
        done = make(folder, f"{name}/cells")
        assert done.returncode == 0, done.stderr
        cells = (folder / name / "cells").read_text()
        assert "$mul" not in cells
        assert "$div" not in cells and "$mod" not in cells
        adders = dict(re.findall(r"\$add_(\d+) +(\d+)", cells))
        assert int(adders[str(made.width + 1)]) == made.lanes
