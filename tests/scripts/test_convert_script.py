"""`convert.py`: what it writes, that it can be used alone, and what it refuses."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import convert
from bitsnn_jax import config, data
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers.execution import stepped
from bitsnn_jax.runs.checkpoint import CheckpointError, save_variables
from bitsnn_jax.runs.loading import load_ann, load_snn
from bitsnn_jax.training import train_and_evaluate


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small network after two epochs on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    train_and_evaluate(
        config.Config(
            name="small",
            model=config.Model(name="small", theta_init=4.0),
            optimizer=config.Optimizer(learning_rate=0.1, epochs=2),
        ),
        folder,
    )
    return folder


@pytest.fixture(scope="module")
def converted(trained):
    convert.main(["--ckpt", str(trained), "--steps", "4", "2", "--limit", "100"])
    return json.loads((trained / "snn" / "conversion.json").read_text())


def test_both_modes_do_what_the_ann_does(converted):
    assert [row["steps"] for row in converted["steps"]] == [2, 4]
    assert converted["examples"] == 100
    for row in converted["steps"]:
        assert row["certificate"]["float64"]["exact"]
        assert row["certificate"]["float64"]["examples"] == 100
        assert row["certificate"]["float64"]["predictions_differing"] == 0
        float32 = row["certificate"]["float32"]
        assert float32["exact"] == (float32["differing"] == 0)
        assert row["stepped"]["predictions_differing"] == 0
        for mode in ("fused", "stepped"):
            assert row[mode]["accuracy"] == row["ann_accuracy"]
            assert row[mode]["spikes_per_neuron"] > 0
    native = converted["steps"][1]
    assert native["ann_accuracy"] == converted["ann"]["accuracy"]


def test_layers_add_up_to_the_spiking_activity(converted):
    for row in converted["steps"]:
        spikes = sum(sum(c["spikes"]) * c["neurons"] for c in row["layers"])
        neurons = sum(layer["neurons"] for layer in row["layers"])
        # The total is divided in float32.
        assert spikes / neurons == pytest.approx(
            row["stepped"]["spikes_per_neuron"], rel=1e-6
        )
        assert {len(layer["spikes"]) for layer in row["layers"]} == {row["steps"]}


def test_the_spiking_network_can_be_used_alone(trained, converted, tmp_path):
    moved = shutil.copytree(trained / "snn" / "variables", tmp_path / "network")
    snn = load_snn(moved)
    examples = data.load(snn.config.data, "test")
    images = data.normalise(examples.images[:100], examples)
    logits, stats = jax.jit(snn.snn_fn)(snn.variables, images)
    accuracy = np.mean(np.argmax(logits, -1) == examples.labels[:100])
    assert snn.steps == 4
    assert accuracy == pytest.approx(converted["steps"][1]["stepped"]["accuracy"])
    assert stats.spikes_per_neuron == pytest.approx(
        converted["steps"][1]["stepped"]["spikes_per_neuron"]
    )


def test_the_report_and_its_pictures_are_there(trained, converted):
    report = trained / "snn" / "report"
    names = {path.name for path in report.iterdir()}
    assert {"index.html", "overview.png", "accuracy.png", "spike_raster.png"} <= names
    page = (report / "index.html").read_text()
    assert f"{converted['ann']['accuracy']:.2%}".replace("%", " %") in page


def test_other_folder_one_mode_no_certificate(trained, tmp_path):
    options = ["--mode", "fused", "--certificate", "none", "--out", str(tmp_path / "o")]
    convert.main(["--ckpt", str(trained), "--steps", "3", "--limit", "20", *options])
    results = json.loads((tmp_path / "o" / "conversion.json").read_text())
    [row] = results["steps"]
    assert "stepped" not in row and row["certificate"] == {} and row["fused"]
    assert load_snn(tmp_path / "o" / "variables").steps == 3


def test_signed_digits_are_the_same_codes_in_a_step_more(trained, converted, tmp_path):
    options = ["--mode", "stepped", "--certificate", "float64", "--out", str(tmp_path)]
    options += ["--fixed-point", "--rounding", "nearest", "--carriers", "int32"]
    options += ["--coding", "signed_digits", "--limit", "100", "--steps", "4"]
    convert.main(["--ckpt", str(trained), *options])
    results = json.loads((tmp_path / "conversion.json").read_text())
    [row], bits = results["steps"], converted["steps"][1]
    assert row["certificate"]["float64"]["exact"]
    assert row["stepped"]["accuracy"] == bits["stepped"]["accuracy"]
    fewer = row["stepped"]["spikes_per_neuron"]
    assert fewer < bits["stepped"]["spikes_per_neuron"]
    assert {len(layer["spikes"]) for layer in row["layers"]} == {5}
    [integers] = results["fixed_point"]["steps"]
    assert integers["differing"] == integers["outputs_differing"] == 0
    assert integers["spikes_per_neuron"] == pytest.approx(fewer, rel=0.05)

    raster, of_bits = (each["raster"]["layers"] for each in (results, converted))
    for ours, theirs in zip(raster, of_bits, strict=True):
        digits = np.array(ours["spikes"])
        codes = np.array(theirs["spikes"]) @ [8, 4, 2, 1]
        # Both ran in float32, where a membrane may land on the other side.
        assert np.abs(digits @ [16, 8, 4, 2, 1] - codes).max() <= 1
        assert not (digits[:, 1:] * digits[:, :-1]).any()

    snn = load_snn(tmp_path / "variables")
    image = np.zeros((1, 8, 8, 1), np.float32)
    spikes = jax.jit(snn.snn_fn)(snn.variables, image)[1].spikes
    assert {len(each) for each in spikes.values()} == {5}
    page = (tmp_path / "report" / "index.html").read_text()
    assert "signed digits" in page and "over all 5 steps" in page


def test_in_integers_nothing_differs_and_the_network_is_saved(trained, tmp_path):
    options = ["--mode", "fused", "--certificate", "none", "--out", str(tmp_path)]
    options += ["--fixed-point", "--carriers", "float32", "bfloat16", "int32"]
    options += ["--target", "speck", "loihi2"]
    convert.main(
        ["--ckpt", str(trained), "--steps", "2", "4", "--limit", "50", *options]
    )
    results = json.loads((tmp_path / "conversion.json").read_text())
    assert results["fixed_point"]["rounding"] == {"method": "gptq", "images": 1024}
    rows = zip(results["steps"], results["fixed_point"]["steps"], strict=True)
    for row, integers in rows:
        assert integers["differing"] == integers["outputs_differing"] == 0
        assert len(integers["executions"]) == 6
        # Rounding to 8 bits moves a prediction now and then.
        assert abs(integers["accuracy"] - row["ann_accuracy"]) <= 0.04
        spikes = row["fused"]["spikes_per_neuron"]
        assert integers["spikes_per_neuron"] == pytest.approx(spikes, rel=0.05)
    ann, *times = results["fixed_point"]["times"]
    assert (ann["name"], ann["ratio"]) == ("ANN", 1)
    assert [each["name"] for each in times] == integers["executions"]
    assert all(each["milliseconds_per_example"] > 0 for each in times)
    assert results["fixed_point"]["timed_at"] == 4
    for at, integers in zip(
        results["fixed_point"]["hardware"],
        results["fixed_point"]["steps"],
        strict=True,
    ):
        assert at["steps"] == integers["steps"]
        assert max(layer["bound"] for layer in at["layers"]) == integers["bound"]
        assert all(0 < layer["largest"] <= layer["bound"] for layer in at["layers"])
        assert [chip["name"] for chip in at["targets"]] == ["speck", "loihi2"]
    network = bundle_writer.load(tmp_path / "fixed_point")
    assert network.steps == 4
    vectors = bundle_writer.load_vectors(tmp_path / "fixed_point")
    result = stepped(network)(vectors["input"])
    np.testing.assert_array_equal(result.outputs["output"], vectors["outputs/output"])
    page = (tmp_path / "report" / "index.html").read_text()
    assert "In integers" in page and "bfloat16, stepped" in page
    assert "Hardware limits" in page and "Loihi 2" in page


BAD = {
    "bits": (
        ["--ckpt", "{run}", "--fixed-point", "9"],
        "--fixed-point must be at most 8, got 9",
    ),
    "no folder": (["--ckpt", "{tmp}/nowhere"], "is not a folder"),
    "no checkpoint": (["--ckpt", "{tmp}"], "holds no checkpoints"),
    "no ckpt": ([], "--ckpt"),
    "steps 0": (["--ckpt", "{run}", "--steps", "0"], "at least 1, got 0"),
    "steps -1": (["--ckpt", "{run}", "--steps", "-1"], "at least 1, got -1"),
    "steps 25": (["--ckpt", "{run}", "--steps", "4", "25"], "at most 24 for float32"),
    "steps 1.5": (["--ckpt", "{run}", "--steps", "1.5"], "invalid int value: '1.5'"),
    "limit 0": (["--ckpt", "{run}", "--limit", "0"], "limit must be at least 1"),
    "mode": (["--ckpt", "{run}", "--mode", "slow"], "invalid choice: 'slow'"),
    "unknown flag": (["--ckpt", "{run}", "--stpes", "4"], "unrecognized arguments"),
    "not writable": (["--ckpt", "{run}", "--out", "{file}/out"], "{file}"),
}


@pytest.mark.parametrize("options, words", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_leaves_nothing(
    options, words, trained, tmp_path, capsys
):
    file = tmp_path / "file"
    file.write_text("")
    names = {"tmp": tmp_path, "run": trained, "file": file}
    before = sorted(trained.rglob("*")), sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        convert.main([option.format(**names) for option in options])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert words.format(**names) in error
    assert (sorted(trained.rglob("*")), sorted(tmp_path.rglob("*"))) == before


def test_a_truncated_checkpoint_is_one_line(trained, tmp_path):
    skip = shutil.ignore_patterns("snn")
    copy = shutil.copytree(trained, tmp_path / "damaged", ignore=skip)
    for path in (copy / "checkpoints").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    # A process of its own: what else it says at its end counts too.
    command = [sys.executable, "convert.py", "--ckpt", str(copy)]
    stopped = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert stopped.returncode == 2
    assert stopped.stderr.startswith("error: ") and stopped.stderr.count("\n") == 1
    assert not (copy / "snn").exists()


def test_a_network_of_relu_is_nothing_to_convert(tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        convert.main(["--ckpt", "vgg_fashion_mnist_relu", "--out", str(out)])
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "vgg_fashion_mnist_relu was trained with relu: expected a network" in line
    assert not out.exists()


def test_the_checkpoint_of_an_ann_is_no_spiking_network(trained, tmp_path):
    _, run = load_ann(trained)
    save_variables(tmp_path / "ann", run.variables, run.metadata)
    with pytest.raises(CheckpointError, match="is no spiking network"):
        load_snn(tmp_path / "ann")
