"""Networks that find boxes: a tree of outputs, AP for accuracy, pictures."""

import dataclasses
import json
import re
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from bitsnn_jax import data
from bitsnn_jax.config import Config, Model
from bitsnn_jax.jobs import compare as comparing
from bitsnn_jax.jobs.compare import CompareOptions
from bitsnn_jax.jobs.convert import ConvertOptions, convert_source
from bitsnn_jax.jobs.integers import IntegerOptions
from bitsnn_jax.jobs.sources import Network
from bitsnn_jax.numerics.layers import QCFS
from bitsnn_jax.reports.comparison_page import write_comparison
from bitsnn_jax.results.conversion import ConversionResult
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.tasks import TASKS, Deviation, Distance, Task
from bitsnn_jax.tasks.task import Numbers

SIDE = 6


@dataclasses.dataclass(frozen=True)
class Squares:
    """Grey pictures with one bright square of two pixels a side."""

    images: np.ndarray
    places: np.ndarray
    input_shape: tuple[int, ...] = (SIDE, SIDE, 1)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "place": self.places[index]}

    def first(self, limit):
        return Squares(self.images[:limit], self.places[:limit])


def squares(count, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (count, SIDE, SIDE, 1)).astype(np.uint8)
    places = rng.integers(0, SIDE - 1, (count, 2))
    for image, (row, column) in zip(images, places, strict=True):
        image[row : row + 2, column : column + 2] += 180
    return Squares(images, places.astype(np.float32))


class Finder(nn.Module):
    """The upper left end of the square, and how sure that is, in a tree of outputs."""

    levels: int

    @nn.compact
    def __call__(self, x, *, train):
        act = {"levels": self.levels, "theta_init": 1.5}
        x = QCFS(**act, name="act1")(nn.Conv(4, (3, 3), name="conv")(x))
        x = QCFS(**act, name="act2")(nn.Dense(6, name="dense")(x.mean((1, 2))))
        place, sure = nn.Dense(2, name="place")(x), nn.Dense(2, name="sure")(x)
        return {"boxes": (place,), "classes": (sure[:, :1], sure[:, 1:])}


class FindSquares(Task):
    """As the real detection, of one box a picture."""

    noun, sources, models = "pictures", {"squares"}, {"finder"}
    score, answers = "AP", "detections"

    def load(self, settings, split):
        return squares(40 if split == "train" else 11, len(split))

    def train_batches(self, settings, examples, **order):
        raise NotImplementedError

    def eval_batches(self, settings, examples, *, batch_size=None, **order):
        size = batch_size or settings.eval_batch_size
        return data.in_order(examples, examples.__getitem__, batch_size=size, **order)

    def build(self, config, input_shape, *, axis_name=None):
        return Finder(config.model.levels)

    def inputs(self, batch):
        return batch["image"] / jnp.float32(255)

    def numbers(self, config, examples):
        return Numbers("image", 255, np.float32, lambda pixels: pixels / 255)

    def loss(self, outputs, batch, settings=None):
        raise NotImplementedError

    def counts(self, outputs, batch):
        gap = jnp.abs(jnp.asarray(outputs["boxes"][0]) - batch["place"]).max(-1)
        return {"near": gap < 2}

    def measures(self, counts, examples):
        return {"near": counts["near"] / examples}

    def evidence(self, outputs, batch):
        found = self.predictions(outputs)
        return {"found": found["boxes"], "truth": batch["place"]}

    def judge(self, evidence):
        # No mean of examples: a median of errors.
        gap = np.abs(evidence["found"] - evidence["truth"]).max(-1)
        return {"AP": 1 / (1 + np.median(gap)), "AP50": 1 / (1 + np.max(gap))}

    def predictions(self, outputs):
        sure, other = (jnp.asarray(each[:, 0]) for each in outputs["classes"])
        return {
            "boxes": jnp.asarray(outputs["boxes"][0]),
            "scores": jax.nn.sigmoid(sure),
            "classes": (other > 0).astype(jnp.int32),
        }

    def deviation(self, one, other):
        boxes = np.abs(one["boxes"] - other["boxes"]).max(-1)
        scores = np.abs(one["scores"] - other["scores"])
        return Deviation(
            one["classes"] != other["classes"],
            (Distance("boxes", boxes, "pixels"), Distance("scores", scores)),
        )

    def shown(self, settings, examples, index):
        batch = {name: np.asarray(x)[None] for name, x in examples[index].items()}
        truth = [{"box": _box(examples.places[index]), "category": "square"}]
        pixels = np.squeeze(examples.images[index])
        facts = {"image": pixels.tolist(), "truth": truth}
        return batch | {"mask": np.ones(1, bool)}, facts

    def answer(self, outputs):
        found = self.predictions(outputs)
        box, score = _box(found["boxes"][0]), float(found["scores"][0])
        return {"found": [{"box": box, "category": "<b>", "score": score}]}


def _box(place):
    row, column = map(float, place)
    return [column, row, column + 2, row + 2]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(TASKS, "squares", FindSquares())


def settings():
    config = Config(name="finder", task="squares", model=Model(name="finder"), steps=3)
    config.model.activation, config.model.levels = "qcfs", 7
    config.data.name, config.data.eval_batch_size = "squares", 8
    return config


def variables():
    model, rng = Finder(7), np.random.default_rng(0)
    image = jnp.zeros((1, SIDE, SIDE, 1))
    drawn = model.init(jax.random.key(0), image, train=False)
    return jax.tree.map(
        lambda a: a if a.ndim == 0 else rng.normal(0, 1, a.shape).astype("f4"), drawn
    )


def apply_fn(variables, x):
    return Finder(7).apply(variables, x, train=False)


def network():
    return Network(
        apply_fn=apply_fn,
        variables=variables(),
        config=settings(),
        examples=squares(11, 4),
        metadata={"config": {}, "image_shape": (SIDE, SIDE, 1)},
    )


def convert(out, **options):
    source = SimpleNamespace(load=network, folder=out)
    convert_source(source, ConvertOptions(out=out, steps=[3], **options))
    return json.loads((out / "conversion.json").read_text())


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    out = tmp_path_factory.mktemp("boxes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "squares", FindSquares())
        convert(out, precisions=[])
    return out


def scores():
    """The scores of the network itself, in NumPy."""
    task, test = FindSquares(), squares(11, 4)
    batch = {"image": test.images, "place": test.places}
    outputs = apply_fn(variables(), task.inputs(batch))
    return task.judge(jax.tree.map(np.asarray, task.evidence(outputs, batch)))


def test_the_score_of_the_task_stands_where_accuracy_did(converted):
    found = json.loads((converted / "conversion.json").read_text())
    assert (found["measure"], found["answers"]) == ("AP", "detections")
    want = scores()
    assert found["ann"]["accuracy"] == pytest.approx(want["AP"], rel=1e-5)
    assert found["ann"]["measures"]["AP50"] == pytest.approx(want["AP50"], rel=1e-5)
    [row] = found["steps"]
    assert row["stepped"]["accuracy"] == pytest.approx(want["AP"], rel=1e-5)
    page = (converted / "report" / "index.html").read_text()
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", page, flags=re.S))
    assert "ccurac" not in text and "logits" not in text
    assert f"{100 * want['AP']:.1f}" in text and f"{100 * want['AP50']:.1f}" in text
    assert "11 of 11 pictures with equal detections" in text


@pytest.mark.slow
def test_boxes_are_certified_and_integers_judged_as_what_they_stand_for(tmp_path):
    options = {"integers": IntegerOptions(rounding="nearest"), "modes": ["fused"]}
    found = convert(tmp_path, precisions=["float64"], **options)
    proof = found["steps"][0]["certificate"]["float64"]
    assert proof["exact"] and proof["predictions_differing"] == 0
    assert all(0 <= each["largest"] < 1e-12 for each in proof["apart"])
    page = (tmp_path / "report" / "index.html").read_text()
    assert "11 of 11 pictures with equal detections" in page
    for integers, row in zip(
        found["fixed_point"]["steps"], found["steps"], strict=True
    ):
        assert integers["differing"] == integers["outputs_differing"] == 0
        # Off by the rounding of weights to 8 bits; without units by a factor.
        assert integers["accuracy"] == pytest.approx(row["ann_accuracy"], rel=0.05)


def test_how_far_boxes_and_scores_are_apart_is_told_as_measured(converted):
    found = json.loads((converted / "conversion.json").read_text())
    for row in found["steps"]:
        boxes, sure = row["stepped"]["apart"]
        assert (boxes["part"], boxes["unit"]) == ("boxes", "pixels")
        assert 0 <= boxes["largest"] < 1e-4 and 0 <= sure["largest"] < 1e-5
        assert row["stepped"]["predictions_differing"] == 0


def test_pictures_show_the_truth_and_what_each_network_finds(converted):
    found = msgspec.json.decode(
        (converted / "conversion.json").read_bytes(), type=ConversionResult
    )
    assert len(found.gallery) == 4
    for picture in found.gallery:
        assert list(picture.found) == ["ANN", "SNN, T = 3"]
        ann, snn = (picture.found[name][0] for name in ("ANN", "SNN, T = 3"))
        assert snn.box == pytest.approx(ann.box, abs=1e-4)
    page = (converted / "report" / "index.html").read_text()
    assert "<h2>Detections</h2>" in page and "<b>" not in page
    assert (converted / "report" / "boxes.png").exists()


@pytest.mark.slow
def test_methods_are_compared_in_the_score_of_the_task(tmp_path, capsys):
    run = Run(
        step=1,
        variables=variables(),
        config=settings(),
        metadata={"image_shape": (SIDE, SIDE, 1)},
    )
    source = SimpleNamespace(path="finder", limit=None, run=lambda: run)
    options = CompareOptions(
        out=tmp_path,
        methods=["bit_serial", "qcfs", "integers_one_shot"],
        steps=[3, 8],
        batch=4,
    )
    found = comparing.compare(source, options)
    rows = {(row.method, row.steps): row for row in found.rows}
    test = squares(11, len("test"))
    task, batch = FindSquares(), {"image": test.images, "place": test.places}
    outputs = apply_fn(variables(), task.inputs(batch))
    want = task.judge(jax.tree.map(np.asarray, task.evidence(outputs, batch)))["AP"]
    assert found.measure == "AP"
    assert found.networks["qcfs"].accuracy == pytest.approx(want, rel=1e-5)
    ours = rows["bit_serial", 3]
    assert ours.accuracy == pytest.approx(want, rel=1e-5) and ours.agreement == 1
    assert rows["integers_one_shot", 3].accuracy == pytest.approx(want, rel=0.05)
    assert rows["qcfs", 8].accuracy != rows["qcfs", 3].accuracy
    page = write_comparison(found, tmp_path).read_text()
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<style.*?</style>", "", page, flags=re.S))
    words = text + (tmp_path / "compare.md").read_text()
    assert not re.search("(?<!high-)accurac", words, re.I)  # apart from a paper's title
    assert f"{100 * want:.1f}" in text
    assert f"{'AP':>9}" in capsys.readouterr().out
