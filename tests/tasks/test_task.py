"""A second task, written here: the loop, checkpoints and evaluation are the same."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import convert, data, spiking
from bitsnn_jax.config import Config
from bitsnn_jax.jobs.evaluation import evaluate, without_spikes
from bitsnn_jax.numerics.layers import QCFS
from bitsnn_jax.runs.checkpoint import load_run
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.tasks import TASKS, Task, task_of
from bitsnn_jax.training import milestones, train_and_evaluate
from bitsnn_jax.training.validation import validate

ROOT = Path(__file__).parents[2]
WORDS, LENGTH = 5, 6


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Words that are numbers, of which the first `lengths` count."""

    words: np.ndarray
    lengths: np.ndarray
    input_shape: tuple[int, ...] = (LENGTH,)

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        counts = np.arange(LENGTH) < self.lengths[index]
        sum_of = np.float32((self.words[index] * counts).sum())
        return {"words": self.words[index], "counts": counts, "sum": sum_of}

    def first(self, limit):
        return Sentences(self.words[:limit], self.lengths[:limit])


class Summing(nn.Module):
    """Value of each word, spikes of all, sum."""

    levels: int

    @nn.compact
    def __call__(self, inputs, *, train):
        words, counts = inputs
        x = nn.Embed(WORDS, 8)(words) * counts[..., None]
        x = QCFS(levels=self.levels, theta_init=2.0, name="act")(x)
        return {"sum": nn.Dense(1)(x).sum(1)[:, 0]}


class SumOfWords(Task):
    """Two inputs, a dictionary of outputs, a score below 0 that is no mean.

    Half of all errors are smaller than its size.
    """

    noun, sources, models, score = "sentences", {"random"}, {"summing"}, "median"

    def load(self, settings, split):
        size = {"train": 200, "validation": 50, "test": 54}[split]
        rng = np.random.default_rng(size)
        words = rng.integers(0, WORDS, (size, LENGTH), dtype=np.int32)
        return Sentences(words, rng.integers(1, LENGTH + 1, size))

    def train_batches(self, settings, examples, **order):
        return data.shuffled(examples, batch_size=settings.batch_size, **order)

    def eval_batches(self, settings, examples, *, batch_size=None, **order):
        size = batch_size or settings.eval_batch_size
        return data.in_order(examples, examples.__getitem__, batch_size=size, **order)

    def build(self, config, input_shape, *, axis_name=None):
        return Summing(config.model.levels)

    def inputs(self, batch):
        return batch["words"], batch["counts"]

    def placeholder(self, input_shape):
        shape = (1, *input_shape)
        return tuple(jax.ShapeDtypeStruct(shape, kind) for kind in (np.int32, bool))

    def loss(self, outputs, batch, settings=None):
        return (outputs["sum"] - batch["sum"]) ** 2

    def counts(self, outputs, batch):
        error = jnp.abs(outputs["sum"] - batch["sum"])
        return {"error": error, "within": error[:, None] < jnp.array([1.0, 2.0])}

    def measures(self, counts, examples):
        near, nearer = (counts["within"] / examples)[::-1]
        return {"closeness": -counts["error"] / examples, "near": near, "one": nearer}

    def evidence(self, outputs, batch):
        return {"error": jnp.abs(outputs["sum"] - batch["sum"])}

    def judge(self, evidence):
        return {"median": -np.median(evidence["error"])}

    def predictions(self, outputs):
        return {"sum": jnp.round(outputs["sum"]), "large": outputs["sum"] > 9}

    def shown(self, settings, examples, index):
        batch = {name: np.asarray(x)[None] for name, x in examples[index].items()}
        return batch, {"words": examples.words[index].tolist()}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(TASKS, "sum_of_words", SumOfWords())


def settings(**fields):
    config = Config(name="sum", task="sum_of_words", log_every_steps=4, **fields)
    config.data.name, config.model.name = "random", "summing"
    config.data.batch_size, config.data.eval_batch_size = 40, 20
    config.optimizer.learning_rate, config.optimizer.epochs = 0.01, 3
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sum")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "sum_of_words", SumOfWords())
        return workdir, train_and_evaluate(settings(), workdir)


def test_another_task_trains_in_the_same_loop(trained):
    workdir, result = trained
    assert json.loads((workdir / "result.json").read_text()) == result
    assert set(result["test"]) == {
        "loss",
        "closeness",
        "median",
        "near",
        "one",
        "spikes_per_neuron",
    }
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    scores = [row["median"] for row in rows if row["split"] == "validation"]
    assert result["validation_median"] == max(scores) < 0
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert losses[-1] < losses[0] / 2


def test_its_checkpoints_resume_to_the_same_bits(trained, tmp_path, monkeypatch):
    workdir, result = trained

    class Killed(milestones.Milestones):
        def reached(self, step, *rest):
            super().reached(step, *rest)
            if step == 7:
                raise KeyboardInterrupt

    config = settings(checkpoint_every_steps=7)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bitsnn_jax.training.loop.Milestones", Killed)
        train_and_evaluate(config, tmp_path)
    resumed = train_and_evaluate(config, tmp_path)
    assert resumed["test"] == result["test"]
    one, other = (load_run(folder).variables for folder in (workdir, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_its_networks_are_evaluated_and_compared_as_any(trained):
    workdir, result = trained
    apply_fn, run = load_ann(workdir)
    task, config = task_of(run.config), run.config
    test = task.load(config.data, "test")
    measure = partial(
        evaluate, settings=config.data, examples=test, task=task, repeats=1
    )
    ann = measure(without_spikes(apply_fn), run.variables)
    sentence = task.placeholder(test.input_shape)
    converted = convert(apply_fn, run.variables, sentence, steps=4).variables
    snn = measure(spiking(apply_fn, steps=4), converted)
    assert len(ann.predictions["large"]) == len(test) == 54
    outputs = apply_fn(
        run.variables, (test.words, np.arange(6) < test.lengths[:, None])
    )
    sums = [test[i]["sum"] for i in range(54)]
    # The last batch is not full: its padding is no evidence.
    half = np.median(np.abs(outputs["sum"] - np.array(sums)))
    assert ann.measures["median"] == pytest.approx(-half, rel=1e-5)
    for name, value in ann.measures.items():
        # float32 sums of 54 errors of order one, in another order.
        assert value == pytest.approx(result["test"][name], rel=1e-5)
    assert task.deviation(ann.predictions, snn.predictions).total == 0
    changed = ann.predictions | {"large": ~ann.predictions["large"]}
    assert task.deviation(ann.predictions, changed).total == 54


def test_names_are_those_of_the_task():
    config = settings()
    validate(config)
    config.data.name = "digits"
    with pytest.raises(ValueError, match="data.name must be one of random, got 'digi"):
        validate(config)
    with pytest.raises(
        ValueError, match="task must be one of detection, im.*; got 'no'"
    ):
        validate(Config(task="no"))


def test_pixels_need_the_data_set_that_they_are_from():
    task, test = TASKS["image_classification"], data.load(Config().data, "test")
    pixels = {"image": test.images[:2]}
    with pytest.raises(ValueError, match=r"got pixels, as uint8: take task\.on\("):
        task.inputs(pixels)
    images = task.on(test).inputs(pixels)
    np.testing.assert_array_equal(images, data.normalise(test.images[:2], test))
    assert task.on(test).inputs({"image": images}) is images
    # One compiled program for the splits of a set, which have one scale.
    assert {task.on(data.load(Config().data, "train"))} == {task.on(test.first(1))}


def test_training_knows_no_task():
    """`validation` lists the ranges of all fields, those of images among them."""
    for file in (ROOT / "bitsnn_jax" / "training").glob("*.py"):
        if file.name != "validation.py":
            for word in ("image", "label", "logits"):
                assert word not in file.read_text(), (file.name, word)
