"""Sentences: measures of GLUE, wrong vocabularies, and training as of images."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sentences import write_sst2, write_vocabulary

from bitsnn_jax.config import Config, Model, Optimizer, from_dict, to_dict
from bitsnn_jax.jobs.evaluation import evaluate, without_spikes
from bitsnn_jax.runs.checkpoint import load_run
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.tasks import TASKS
from bitsnn_jax.training import milestones, train_and_evaluate
from bitsnn_jax.training.setup import set_up

SENTENCES = TASKS["sentence_classification"]


def settings(directory, **fields):
    return Config(
        name="tiny",
        task="sentence_classification",
        data=write_sst2(directory),
        model=Model(name="bert_tiny", num_classes=2, activation="gelu", norm="layer"),
        optimizer=Optimizer(
            name="adamw", schedule="linear", learning_rate=3e-3, epochs=3
        ),
        **fields,
    )


class Measured:
    """A data set of which a measure is asked for."""

    def __init__(self, *measures):
        self.measures = measures


def judged(task, answers, labels):
    logits = jnp.eye(2)[jnp.array(answers)]
    counts = task.counts(logits, {"label": jnp.array(labels)})
    sums = {name: np.asarray(x, np.float64).sum(0) for name, x in counts.items()}
    return task.measures(sums, len(labels))


def test_f1_and_matthews_are_quotients_of_counts():
    task = SENTENCES.on(Measured("f1", "matthews"))
    # Right ones: 3 of class 1, 1 of class 0; wrong ones: 2 answered 1, 1 answered 0.
    found = judged(task, [1, 1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0, 1])
    want = {"accuracy": 4 / 7, "f1": 6 / 9, "matthews": 1 / np.sqrt(5 * 4 * 3 * 2)}
    assert found == pytest.approx(want)
    assert judged(task, [0, 0], [0, 0]) == {"accuracy": 1, "f1": 0, "matthews": 0}


def test_the_score_is_that_of_the_data_set():
    assert SENTENCES.on(Measured("f1")).score == "accuracy"
    assert SENTENCES.on(Measured("matthews")).score == "matthews"
    assert judged(SENTENCES, [1, 0], [1, 1]) == {"accuracy": 0.5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("float")
    config = settings(folder)
    return config, folder / "run", train_and_evaluate(config, folder / "run")


@pytest.mark.slow
def test_a_network_of_words_learns_what_the_words_say(trained):
    _, workdir, result = trained
    assert result["test"]["accuracy"] == 1
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    assert {"train", "validation"} == {row["split"] for row in rows}


class Killed(milestones.Milestones):
    def reached(self, step, *rest):
        super().reached(step, *rest)
        if step == 7:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_taught_network_with_codes_resumes_to_the_same_bits(
    trained, tmp_path, monkeypatch
):
    config, teacher, _ = trained
    config = from_dict(to_dict(config))
    config.model.activation, config.model.dropout = "qcfs", 0.1
    config.start_from = config.loss.teacher = str(teacher)
    config.loss.distillation, config.loss.temperature = 0.5, 2.0
    config.checkpoint_every_steps = 7
    whole = train_and_evaluate(config, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bitsnn_jax.training.loop.Milestones", Killed)
        train_and_evaluate(config, tmp_path / "killed")
    resumed = train_and_evaluate(config, tmp_path / "killed")
    assert resumed["test"] == whole["test"]
    assert resumed["teacher"] == {"run": "tiny", "step": load_run(teacher).step}
    one, other = (load_run(tmp_path / name) for name in ("whole", "killed"))
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)
    apply_fn, run = load_ann(tmp_path / "whole")
    test = SENTENCES.load(config.data, "test")
    found = evaluate(
        without_spikes(apply_fn), run.variables, config.data, test, task=SENTENCES
    )
    assert found.accuracy == whole["test"]["accuracy"]


def test_the_report_has_the_words(tmp_path):
    config = settings(tmp_path)
    test = SENTENCES.load(config.data, "test")
    batch, facts = SENTENCES.shown(config.data, test, 1)
    want = ["[CLS]", "a", "good", "film", "w1", "[SEP]"]
    assert facts == {"label": 1, "words": want}
    assert batch["tokens"].shape == (1, 3, 8) and batch["mask"].all()
    assert SENTENCES.answer(np.array([[1.0, 3.0]])) == {
        "prediction": 1,
        "logits": [1.0, 3.0],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vocabulary": 30},
            "data.vocabulary must have the 128 lines that .*bert_tiny",
        ),
        ({"max_length": 65}, "may have 64 tokens, got 65: set data.max_length"),
        ({"num_classes": 3}, "model.num_classes must be 2, the classes of .*sst2"),
        ({"teacher": "no"}, "loss.teacher: no is not a folder: expected the folder of"),
        ({"crop": 2}, "data.crop must be 0 for sentences, got 2"),
    ],
)
def test_what_does_not_fit_the_network_is_named_before_anything_is_written(
    tmp_path, change, message
):
    config = settings(tmp_path)
    [(field, value)] = change.items()
    if field == "vocabulary":
        value = write_vocabulary(tmp_path, lines=value)
    if field == "teacher":
        config.loss.distillation = 0.5
    parts = {"num_classes": config.model, "teacher": config.loss}
    setattr(parts.get(field, config.data), field, value)
    with pytest.raises(ValueError, match=message) as error:
        set_up(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
