"""`compare.py`: rows that are right, goes on after a stop, and what it refuses."""

import csv
import dataclasses
import json
import re

import jax
import msgspec
import numpy as np
import pytest
from networks import Pooling, Residual, build, lowered

import compare
from bitsnn_jax import config, data
from bitsnn_jax.comparators import METHODS, StepNeuron, simulate
from bitsnn_jax.comparators.structure import structure
from bitsnn_jax.integers import operations
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.jobs import compare_networks
from bitsnn_jax.jobs.compare import CompareOptions
from bitsnn_jax.jobs.compare import compare as compare_methods
from bitsnn_jax.jobs.integers import lower_pixels
from bitsnn_jax.jobs.sources import RunSource
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import commit, machine, run_metadata
from bitsnn_jax.training import train_and_evaluate

LIMIT = 60
TIMES = ("milliseconds", "ann_passes")


def run_job(ckpt, *, limit=None, **options):
    """What the job finds, as the plain values that it writes."""
    results = compare_methods(RunSource(ckpt, limit=limit), CompareOptions(**options))
    return msgspec.json.decode(msgspec.json.encode(results))


def small(**model):
    return config.Config(
        name="small",
        model=config.Model(name="small", theta_init=4.0, **model),
        optimizer=config.Optimizer(learning_rate=0.1, epochs=1),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    train_and_evaluate(small(), folder)
    train_and_evaluate(small(activation="relu"), folder.with_name("small_relu"))
    return folder


@pytest.fixture(scope="module")
def compared(trained):
    out = trained / "compare"
    arguments = ["--ckpt", str(trained), "--methods", "qcfs", "--steps", "4", "2"]
    compare.main([*arguments, "--limit", str(LIMIT)])
    return json.loads((out / "compare.json").read_text())


def test_rows_are_those_of_a_simulation_of_all_images_at_once(trained, compared):
    apply_fn, run = load_ann(trained)
    test = data.load(run.config.data, "test").first(LIMIT)
    [batch] = data.eval_batches(run.config.data, test, batch_size=LIMIT)
    snn = jax.jit(simulate(apply_fn, METHODS["qcfs"].neuron(4), steps=4))
    found = snn(run.variables, data.normalise(batch["image"], test))
    assert [row["steps"] for row in compared["rows"]] == [2, 4]
    for row in compared["rows"]:
        t = row["steps"]
        guesses = np.argmax(found.outputs[t - 1], -1)
        assert row["accuracy"] == pytest.approx(np.mean(guesses == batch["label"]))
        spikes = sum(float(s[:t].sum()) for s in found.spikes.values())
        neurons = compared["neurons"] * LIMIT
        assert row["spikes_per_neuron"] == pytest.approx(spikes / neurons, rel=1e-5)
        assert row["window"] == row["until_output"] == t


def test_each_row_names_the_commit_and_the_machine_that_it_is_from(trained, compared):
    where = {"commit": commit(), "machine": machine()}
    with open(trained / "compare" / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(compared["rows"])
    for row, written in zip(compared["rows"], rows, strict=True):
        assert {name: row[name] for name in where} == where
        assert {name: written[name] for name in where} == where
    assert where["machine"]


def test_a_second_call_computes_what_is_missing(trained, compared, monkeypatch):
    out = trained / "compare"
    before = {(r["method"], r["steps"]): r for r in compared["rows"]}
    options = {"limit": LIMIT, "out": out}
    after = run_job(trained, methods=["qcfs"], steps=[1, 2, 4], **options)
    assert [row["steps"] for row in after["rows"]] == [1, 2, 4]
    for row in after["rows"][1:]:
        assert row == before[row["method"], row["steps"]]
    with pytest.raises(ValueError, match="of other networks or images"):
        run_job(trained, methods=["qcfs"], steps=[1], limit=LIMIT - 1, out=out)


def test_the_network_in_integers_is_counted_as_its_operations_are(trained, tmp_path):
    names = ["integers_one_shot", "integers_stepped"]
    options = {"limit": LIMIT, "out": tmp_path}
    found = run_job(trained, methods=names, steps=[2], **options)
    assert [row["method"] for row in found["rows"]] == names
    network = RunSource(trained, limit=LIMIT).load()
    pixels = network.examples.images
    graph = lower_pixels(network.apply_fn, network.variables, network.examples)
    integers = fixed_point(graph, steps=2)
    result = jax.jit(one_shot(integers))(pixels)
    counted = operations.count(integers, result.codes, examples=LIMIT)
    guesses = np.argmax(np.asarray(result.outputs["output"]), -1)
    for row in found["rows"]:
        assert row["accuracy"] == np.mean(guesses == network.examples.labels)
        assert row["spikes_per_neuron"] == pytest.approx(counted.spikes_per_neuron)
        total = counted.total("synaptic_operations") / LIMIT
        assert row["synaptic_operations"] == pytest.approx(total)
        assert row["milliseconds"] > 0 and row["ann_passes"] > 0


@pytest.mark.slow
def test_methods_of_another_network_go_into_the_same_folder(trained, tmp_path):
    options = {"steps": [2], "limit": LIMIT, "out": tmp_path}
    first = run_job(trained, methods=["qcfs"], **options)
    relu = run_job(trained, methods=["snm"], seeds=[0, 1], **options)
    last = run_job(trained, methods=["qcfs", "bos"], **options)
    assert set(first["networks"]) == {"qcfs"}
    assert set(relu["networks"]) == set(last["networks"]) == {"qcfs", "relu"}
    found = [(row["method"], row["seed"]) for row in last["rows"]]
    assert found == [("qcfs", 0), ("bos", 0), ("snm", 0), ("snm", 1)]
    assert last["rows"][0] == first["rows"][0]
    assert list(last["methods"]) == ["qcfs", "bos", "snm"]
    with pytest.raises(ValueError, match="of other networks or images"):
        run_job(
            trained,
            methods=["snm"],
            sources={"relu": str(other_relu(trained))},
            **options,
        )


def test_a_method_that_is_no_longer_known_comes_last(trained, tmp_path):
    options = {"steps": [2], "limit": LIMIT, "out": tmp_path}
    before = run_job(trained, methods=["qcfs"], **options)
    before["methods"] = {"eager": before["methods"]["qcfs"]}
    before["rows"][0]["method"] = "eager"
    (tmp_path / "compare.json").write_text(json.dumps(before))
    found = run_job(trained, methods=["bos"], **options)
    assert list(found["methods"]) == ["bos", "eager"]
    assert [row["method"] for row in found["rows"]] == ["bos", "eager"]


def other_relu(trained):
    """Another network, which has the accuracy of another."""
    folder = trained.with_name("other_relu")
    if not folder.exists():
        settings = small(activation="relu")
        settings.optimizer.learning_rate = 1e-6
        train_and_evaluate(settings, folder)
    return folder


@pytest.mark.parametrize("name", ["bos", pytest.param("srp", marks=pytest.mark.slow)])
def test_rows_on_the_way_are_those_of_calls_of_their_own(trained, tmp_path, name):
    options = {"methods": [name], "limit": LIMIT}
    at_once = run_job(trained, steps=[1, 3, 6], out=tmp_path / "a", **options)
    for row in at_once["rows"]:
        out = tmp_path / str(row["steps"])
        [alone] = run_job(trained, steps=[row["steps"]], out=out, **options)["rows"]
        for field in row.keys() - {"method", "run", *TIMES, "commit", "machine"}:
            assert alone[field] == pytest.approx(row[field], rel=1e-6), field


def test_any_batch_gives_the_same_rows(trained, compared, tmp_path):
    options = {"methods": ["qcfs"], "steps": [2, 4], "limit": LIMIT}
    after = run_job(trained, batch=7, out=tmp_path, **options)
    for row, before in zip(after["rows"], compared["rows"], strict=True):
        assert row["accuracy"] == before["accuracy"]
        spikes = row["spikes_per_neuron"]
        assert spikes == pytest.approx(before["spikes_per_neuron"], rel=1e-6)
    with pytest.raises(ValueError, match="of other networks or images"):
        run_job(trained, batch=6, out=tmp_path, **options)


def test_a_method_that_fails_is_written_down_and_the_rest_go_on(
    trained, tmp_path, monkeypatch
):
    def broken(layer, state, current, t):
        raise ValueError("no such neuron")

    bad = METHODS["qcfs"].__class__(
        name="bad",
        title="bad",
        source="none",
        neuron=lambda steps: StepNeuron(lambda layer: layer.theta, broken),
    )
    never = METHODS["qcfs"].__class__(
        name="never",
        title="never",
        source="none",
        neuron=METHODS["qcfs"].neuron,
        can=lambda steps: "" if steps == 3 else "three steps only",
    )
    methods = {"bad": bad, "never": never, "qcfs": METHODS["qcfs"]}
    monkeypatch.setattr("bitsnn_jax.jobs.compare.METHODS", methods)
    options = {"steps": [1, 3], "limit": 20, "out": tmp_path}
    results = run_job(trained, **options)
    assert results["failed"] == [
        {"method": "bad", "steps": None, "error": "no such neuron"},
        {"method": "never", "steps": 1, "error": "three steps only"},
    ]
    found = [(row["method"], row["steps"]) for row in results["rows"]]
    assert found == [("never", 3), ("qcfs", 1), ("qcfs", 3)]
    assert json.loads((tmp_path / "compare.json").read_text()) == results


def test_a_method_may_change_the_variables(trained, tmp_path, monkeypatch):
    def silenced(network, batches, steps):
        return network._replace(
            variables=jax.tree.map(np.zeros_like, network.variables)
        )

    method = dataclasses.replace(METHODS["qcfs"], prepare=silenced)
    monkeypatch.setattr("bitsnn_jax.jobs.compare.METHODS", {"qcfs": method})
    results = run_job(trained, steps=[2], limit=LIMIT, out=tmp_path)
    [row] = results["rows"]
    assert row["spikes_per_neuron"] == 0 < results["networks"]["qcfs"]["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "qcsf"], "methods must be of bit_serial, .*qcfs, .*; got qcsf"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--limit", "0"], "limit must be at least 1"),
        (["--batch", "0"], "batch must be at least 1"),
        (
            ["--relu", "runs/nowhere", "--methods", "snm"],
            "nowhere is missing: train it",
        ),
        (
            ["--clipped_relu", "RUN_relu", "--methods", "opi"],
            "model.activation must be",
        ),
    ],
)
def test_bad_input_is_one_line(trained, tmp_path, capsys, arguments, message):
    arguments = [a.replace("RUN", str(trained)) for a in arguments]
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        compare.main(["--ckpt", str(trained), "--out", str(out), *arguments])
    assert stopped.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line), line
    assert not out.exists()


def test_a_network_to_start_from_is_the_same_but_for_its_activations():
    shape = (8, 8, 1)

    def of(**model):
        changed = small(**model)
        return Run(changed, {}, 0, run_metadata(changed, shape))

    def check(main, run, activation="relu"):
        compare_networks._check_same(main, run, activation, "other")

    main = of(per_channel=True)
    check(main, of(activation="relu", levels=7, dtype="bfloat16"))
    check(main, of(activation="clipped_relu", per_channel=True), "clipped_relu")
    for field, value in {"pool": "max", "num_classes": 7, "width": 2.0}.items():
        with pytest.raises(ValueError, match=f"other: model.{field} must be"):
            check(main, of(activation="relu", **{field: value}))
    with pytest.raises(ValueError, match="model.per_channel must be True, is False"):
        check(main, of(activation="clipped_relu"), "clipped_relu")


@pytest.mark.parametrize("below", ["", "further"])
def test_a_file_in_the_place_of_the_folder_is_left_alone(
    trained, tmp_path, capsys, below
):
    file = tmp_path / "notes"
    file.write_text("mine")
    arguments = ["--ckpt", str(trained), "--out", str(file / below)]
    with pytest.raises(SystemExit) as stopped:
        compare.main([*arguments, "--methods", "qcfs", "--limit", "20"])
    assert stopped.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "must be a folder, and a file has this name" in line
    assert file.read_text() == "mine"


def test_a_network_of_relu_is_no_checkpoint_to_compare_on(trained, tmp_path):
    relu = trained.with_name("small_relu")
    with pytest.raises(ValueError, match="give this one as --relu$"):
        run_job(relu, out=tmp_path)


@pytest.mark.parametrize("network, depth", [(Residual, 4), (Pooling, 4)])
def test_structure_counts_what_the_layer_graph_has(network, depth):
    apply_fn, variables, x = build(network)
    found = structure(apply_fn, variables, x[:1])
    layers = [node for node in lowered(network).nodes if node.kind == "neurons"]
    assert found.neurons == sum(int(np.prod(node.shape)) for node in layers)
    assert found.depth == depth
