"""`compare.py --direct`: rows of networks that were trained through time."""

import json
import shutil

import jax
import numpy as np
import pytest
from commands import check_line, run

import compare as command
from bitsnn_jax.comparators.structure import structure
from bitsnn_jax.config import Config, Direct, Model
from bitsnn_jax.direct import METHODS, trains
from bitsnn_jax.integers.energy import profile
from bitsnn_jax.jobs.compare import METHODS as CONVERSIONS
from bitsnn_jax.jobs.compare_direct import DirectCase, _method
from bitsnn_jax.jobs.evaluation import evaluate
from bitsnn_jax.runs.checkpoint import CheckpointError, Checkpoints, load_run
from bitsnn_jax.runs.loading import load_spiking, with_qcfs
from bitsnn_jax.runs.provenance import run_metadata
from bitsnn_jax.tasks import task_of
from bitsnn_jax.tracing.fan_out import fan_out
from bitsnn_jax.training.sparsity import synaptic_weights

LIMIT, STEPS, SHAPE = 12, 3, (8, 8, 1)


def spiking(name="tet", *, model="small", steps=STEPS, seed=0, surrogate="", **options):
    return Config(
        name=name,
        seed=seed,
        steps=steps,
        model=Model(name=model, activation="spiking", **options),
        direct=Direct(method=name, surrogate=surrogate),
    )


def test_operations_of_gates_are_those_of_sums():
    """SEW's AND and IAND multiply spikes; a product of its own would end the count."""
    counts = []
    for name in ("sew_add", "sew_and", "sew_iand"):
        config = spiking(name, model="resnet20", width=0.1)
        program, shapes, x = with_qcfs(config, SHAPE, task_of(config))
        counts.append(structure(program, shapes, x))
    assert counts[0].products == 0 and counts[1:] == [counts[0]] * 2


def write_run(folder, config):
    """A run that is over before its first step, with weights at random."""
    model = task_of(config).build(config, SHAPE)
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, *SHAPE)), train=False)
    )
    rng = np.random.default_rng(config.seed)

    def drawn(path, leaf):
        if path[-1].key in ("theta", "var", "scale"):
            return np.ones(leaf.shape, leaf.dtype)
        spread = 1.5 * np.prod(leaf.shape[:-1]) ** -0.5
        return (spread * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(drawn, variables)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(
            0,
            variables={"batch_stats": {}, **variables},
            optimizer={"count": np.zeros((), np.int32)},
            progress={},
            metadata=run_metadata(config, SHAPE),
        )
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders: one of QCFS, and one trained directly."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "qcfs", Config(model=Model(name="small", theta_init=1.0)))
    write_run(folder / "tet", spiking())
    return folder


@pytest.fixture(scope="module")
def compared(runs):
    return compare(runs, "tet")


def compare(runs, *names, rounds=0):
    """What is in `compare.json`; one method of conversion is there as well."""
    words = ["--ckpt", f"{runs}/qcfs", "--methods", "bit_serial", "--steps", "2"]
    words += ["--limit", f"{LIMIT}", "--training_rounds", f"{rounds}"]
    command.main([*words, "--direct", *(f"{runs}/{name}" for name in names)])
    return json.loads((runs / "qcfs" / "compare" / "compare.json").read_text())


def seen(folder):
    """A run, its network, the test examples in one batch, and what it is shown."""
    found = load_run(folder)
    task = task_of(found.config)
    test = task.load(found.config.data, "test").first(LIMIT)
    task = task.on(test)
    [batch] = task.eval_batches(found.config.data, test, batch_size=LIMIT)
    model = task.build(found.config, SHAPE)
    return found, model, test, batch, task.inputs(batch)


def reached(side):
    """How many pixels a 3x3 convolution with zeros around feeds from each pixel."""
    along = np.array([sum(0 <= i + k < side for k in (-1, 0, 1)) for i in range(side)])
    return np.outer(along, along)[..., None]


def test_a_row_counts_every_spike_and_every_synapse(runs, compared):
    found, model, _, batch, x = seen(runs / "tet")
    outputs, sown = model.apply(
        found.variables, x, train=False, mutable=["activations"]
    )
    sent = {path: np.asarray(s, float).sum((0, 1)) for path, s in trains(sown).items()}
    [row] = [row for row in compared["rows"] if row["method"] == "tet"]
    assert (row["steps"], row["window"], row["until_output"]) == (STEPS,) * 3
    guesses = np.argmax(outputs, -1)
    assert row["accuracy"] == pytest.approx(np.mean(guesses == batch["label"]))
    spikes = sum(s.sum() for s in sent.values()) / LIMIT
    neurons = 64 * 8 + 64 * 16 + 16 * 16
    assert 0 < spikes < STEPS * neurons
    assert row["spikes_per_neuron"] == pytest.approx(spikes / neurons)
    synapses = {  # 16 channels behind both convolutions, 10 classes behind the last
        "act_1": 16 * reached(8),
        "act_2": 16 * np.kron(reached(4)[..., 0], np.ones((2, 2)))[..., None],
        "act_3": 10,
    }
    operations = sum((s * synapses[path]).sum() for path, s in sent.items()) / LIMIT
    assert row["synaptic_operations"] == pytest.approx(operations)
    products = 8 * reached(8).sum()  # of the image, once
    about = compared["trained"][row["run"]]
    assert (about["neurons"], about["multiply_accumulates"]) == (neurons, products)
    mixed = profile("mixed")
    each_step = STEPS * neurons * (mixed.add + mixed.compare)
    energy = (operations + spikes) * mixed.add + each_step
    energy += products * (mixed.multiply + mixed.add)
    assert row["nanojoules"] == pytest.approx(1e-3 * energy, rel=1e-3)


@pytest.mark.slow
def test_neurons_of_a_converted_network_cost_what_its_conversion_does(tmp_path):
    """Both runs have the same weights, drawn at random."""
    write_run(tmp_path / "qcfs", Config(model=Model(name="small", theta_init=1.0)))
    write_run(tmp_path / "bits", spiking("bit_serial", steps=2))
    converted, direct = compare(tmp_path, "bits")["rows"]
    assert (converted["method"], direct["method"]) == ("bit_serial", METHOD)
    for field in ("window", "until_output", "accuracy", "agreement"):
        assert converted[field] == direct[field], field
    for field in ("spikes_per_neuron", "synaptic_operations", "nanojoules"):
        assert converted[field] == pytest.approx(direct[field], rel=1e-6), field


METHOD = "direct_bit_serial"  # the other one is the conversion


def test_a_run_is_evaluated_on_all_devices_as_in_one_batch(runs, compared):
    found, _, test, _, _ = seen(runs / "tet")
    network = load_spiking(runs / "tet")
    assert network.steps == STEPS
    task = task_of(found.config)
    evaluation = evaluate(
        network.snn_fn, network.variables, found.config.data, test, task=task, repeats=1
    )
    [row] = [row for row in compared["rows"] if row["method"] == "tet"]
    assert evaluation.accuracy == pytest.approx(row["accuracy"])
    spikes = float(evaluation.stats.spikes_per_neuron)
    assert spikes == pytest.approx(row["spikes_per_neuron"])
    with pytest.raises(CheckpointError, match="expected a run with a direct.method"):
        load_spiking(runs / "qcfs")


@pytest.mark.slow
def test_rows_are_reused_and_another_run_is_not_taken_for_the_first(
    runs, compared, monkeypatch
):
    monkeypatch.setattr(DirectCase, "_measured", None)  # and not called
    assert compare(runs, "tet")["rows"] == compared["rows"]
    if not (runs / "copy").exists():
        shutil.copytree(runs / "tet", runs / "copy")
    before = (runs / "qcfs" / "compare" / "compare.json").read_bytes()
    with pytest.raises(SystemExit):
        compare(runs, "copy")
    assert (runs / "qcfs" / "compare" / "compare.json").read_bytes() == before


@pytest.mark.parametrize(
    ("config", "name", "title"),
    [
        (spiking(), "tet", "TET"),
        (spiking(seed=4, steps=9), "tet", "TET"),
        (spiking(width=2.0), "tet_x2", "TET, width 2"),
        (
            spiking(model="resnet20", surrogate="arctan"),
            "tet_resnet20_arctan",
            "TET, resnet20, arctan",
        ),
        (spiking(model="vgg16", width=0.5), "tet_vgg16_x0.5", "TET, vgg16, width 0.5"),
        (spiking("spikformer", model="spikformer_small"), "spikformer", "Spikformer"),
    ],
)
def test_a_method_is_named_with_what_is_not_as_in_the_comparison(config, name, title):
    method = _method(config, Config(model=Model(name="small")))
    assert (method.name, method.title) == (name, title)


def test_no_method_has_the_name_of_a_conversion():
    for name in METHODS:
        method = _method(spiking(name=name), Config(model=Model(name="small")))
        assert method.name not in CONVERSIONS


@pytest.mark.parametrize(
    "name",
    [
        "small",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("resnet20", "plif_net", "spikformer_small", "sdt_v2_small")
        ),
    ],
)
def test_synapses_are_counted_at_the_neurons_that_spike(name):
    config = spiking(name="stbp", model=name, width=0.25)
    task = task_of(config)
    program, shapes, x = with_qcfs(config, SHAPE, task)
    synapses = jax.eval_shape(lambda: fan_out(program, shapes, x, nonspiking="decode"))

    def sent(x):
        model = task.build(config, SHAPE)
        variables = model.init(jax.random.key(0), x, train=False)
        kept = {k: v for k, v in variables.items() if k != "activations"}
        return trains(model.apply(kept, x, train=False, mutable=["activations"])[1])

    spikes = jax.eval_shape(sent, x)
    assert {p: s.shape[1:] for p, s in spikes.items()} == {
        p: s.shape for p, s in synapses.items()
    }
    if name == "small":  # as `loss.spike_weights=fan_out` asks for them
        weights = synaptic_weights(program, shapes, x)
        assert {p: w.shape for p, w in weights.items()} == {
            p: s.shape for p, s in synapses.items()
        }


WRONG = [
    ("convert", "--ckpt {tet}", "was trained directly (tet, T = 3): it is a spiking"),
    ("export", "--ckpt {tet} --to nir", "was trained directly (tet, T = 3)"),
    ("compare", "--ckpt {tet}", "has nothing to convert. Give a network trained with"),
    ("compare", "--ckpt {tet} --methods srp", "this one to compare.py as --direct"),
    ("compare", "--ckpt {qcfs} --methods tet", "got tet: give runs of tet as --direct"),
    (
        "compare",
        "--ckpt {qcfs} --direct {qcfs}",
        "was trained with qcfs: expected a ru",
    ),
    ("compare", "--ckpt {qcfs} --direct nosuch", "nosuch is not a folder"),
    ("compare", "--ckpt {qcfs} --direct {tet} {tet}/", "are both tet at T = 3 with se"),
    ("compare", "--ckpt {qcfs} --direct {ten}", "model.num_classes must be 10, is 7"),
]


@pytest.mark.parametrize(("command", "words", "line"), WRONG)
def test_a_wrong_command_is_one_line_and_writes_nothing(
    command, words, line, runs, tmp_path, monkeypatch, capfd
):
    if "{ten}" in words and not (runs / "ten").exists():
        write_run(runs / "ten", spiking(num_classes=7))
    monkeypatch.chdir(tmp_path)
    folders = {name: runs / name for name in ("qcfs", "tet", "ten")}
    words = words.format(**folders).split()
    status = run(command, [*words, *OUT[command]], monkeypatch)
    check_line(status, capfd.readouterr(), line)
    assert not any(tmp_path.iterdir())


OUT = {"convert": ["--out=new"], "export": ["--out=new"], "compare": ["--out=new"]}


@pytest.mark.slow
def test_steps_of_training_are_measured_once(runs, tmp_path):
    """In a process of its own; what they cost is not the matter of a test."""
    for name in ("qcfs", "tet"):
        shutil.copytree(
            runs / name, tmp_path / name, ignore=shutil.ignore_patterns("compare")
        )
    first = compare(tmp_path, "tet", rounds=1)["trained"]
    assert {each["method"] for each in first.values()} == {None, "tet"}
    ratios = {each["method"]: each["cost"]["qcfs_steps"] for each in first.values()}
    assert ratios[None] == 1 and ratios["tet"] > 0
    assert all(each["cost"]["megabytes"] > 0 for each in first.values())
    again = compare(tmp_path, "tet", rounds=3)["trained"]
    assert again == first
