"""Pictures with boxes: what is judged is what the files say, in their pixels."""

import contextlib
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from boxed_pictures import NAMES, write_boxes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bitsnn_jax import detection
from bitsnn_jax.config import Config, Model, Optimizer, from_dict, to_dict
from bitsnn_jax.runs.checkpoint import load_run
from bitsnn_jax.tasks import TASKS
from bitsnn_jax.training import milestones, train_and_evaluate
from bitsnn_jax.training.setup import set_up
from bitsnn_jax.training.validation import validate

DETECTION = TASKS["detection"]
SHAPES = ((16, 16), (8, 8), (4, 4))  # of three levels, of pictures of 32 pixels


def settings(directory, **fields):
    return Config(
        name="tiny",
        task="detection",
        data=write_boxes(directory, **fields),
        model=Model(name="retinanet_resnet20", num_classes=3, width=0.1),
        optimizer=Optimizer(learning_rate=0.01, epochs=2),
        log_every_steps=4,
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of 16 pixels that the network sees in twice their size."""
    config = settings(tmp_path_factory.mktemp("coco"), image_size=32)
    return config, DETECTION.load(config.data, "test")


def said(batch, *, wrong=0.0):
    """Return outputs that say the boxes of a batch, some of them a little wrong."""
    anchors = detection.anchors((32, 32), SHAPES)
    rng = np.random.default_rng(0)
    logits, offsets = [], []
    for boxes, classes, crowd in zip(
        *(batch[name] for name in ("boxes", "classes", "crowd")), strict=True
    ):
        found = np.asarray(detection.match(anchors, boxes, classes, crowd))
        matched = found >= 0
        target = np.where(matched[:, None], boxes[found], anchors)
        offset = np.array(detection.encode(anchors, target))
        offset += wrong * rng.normal(size=offset.shape)
        logit = np.full((len(anchors), 3), -9.0)
        logit[matched, classes[found[matched]]] = 9 - wrong * rng.random(matched.sum())
        logits.append(logit), offsets.append(offset)
    places = [9 * h * w for h, w in SHAPES]

    def levels(rows):
        parts = np.split(np.float32(rows), np.cumsum(places)[:-1], axis=1)
        return tuple(
            jnp.asarray(part.reshape(len(part), h, w, -1))
            for part, (h, w) in zip(parts, SHAPES, strict=True)
        )

    return {"boxes": levels(offsets), "classes": levels(logits)}


def whole(config, examples):
    task = DETECTION.on(examples)
    (batch,) = task.eval_batches(config.data, examples, batch_size=len(examples))
    return task, {name: np.asarray(x) for name, x in batch.items()}


def judged(task, outputs, batch):
    evidence = jax.device_get(task.evidence(outputs, batch))
    counts = {k: float(x.sum()) for k, x in task.counts(outputs, batch).items()}
    return task.judged(counts, len(batch["mask"]), evidence)


def test_outputs_that_say_the_boxes_are_right(pictures):
    task, batch = whole(*pictures)
    outputs = said(batch)
    found = judged(task, outputs, batch)
    assert found["AP"] == found["AP75"] == found["anchor_accuracy"] == 1
    assert float(task.loss(outputs, batch).max()) < 0.01
    other = jax.tree.map(jnp.zeros_like, outputs)
    assert (task.loss(other, batch) > 1).all() and judged(task, other, batch)["AP"] == 0


def test_average_precision_is_that_of_the_file(pictures):
    config, examples = pictures
    task, batch = whole(config, examples)
    outputs = said(batch, wrong=0.1)
    file = f"{config.data.directory}/annotations/instances_val.json"
    ids, found = sorted(NAMES), jax.device_get(task.predictions(outputs))
    rows = [
        # Twice as large as the picture; the position in the split is the id.
        {
            "image_id": i,
            "category_id": ids[found.classes[i, j]],
            "bbox": [x0 / 2, y0 / 2, (x1 - x0) / 2, (y1 - y0) / 2],
            "score": found.scores[i, j],
        }
        for i, j in zip(*np.nonzero(found.classes >= 0), strict=True)
        for x0, y0, x1, y1 in [found.boxes[i, j].tolist()]
    ]
    # pycocotools wants what the reader can do without.
    content = json.loads(open(file).read())
    for k, each in enumerate(content["annotations"], 1):
        _, _, width, height = each["bbox"]
        each |= {"id": k, "iscrowd": 0, "area": width * height}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(rows), "bbox")
        judge.evaluate(), judge.accumulate(), judge.summarize()
    ap, ap50, ap75 = judge.stats[:3]
    measures = judged(task, outputs, batch)
    assert 0.2 < ap < 0.95
    assert (measures["AP"], measures["AP50"]) == pytest.approx((ap, ap50), rel=1e-6)
    assert measures["AP75"] == pytest.approx(ap75, rel=1e-6)


def test_the_report_names_what_is_there_and_what_is_found(pictures):
    config, examples = pictures
    task = DETECTION.on(examples)
    batch, facts = task.shown(config.data, examples, 3)
    assert [each["category"] for each in facts["truth"]] == ["cat", "dog", "cow"]
    found = task.answer(said(batch))["found"]
    assert sorted(each["category"] for each in found) == ["cat", "cow", "dog"]
    boxes = {each["category"]: each["box"] for each in found}
    for each in facts["truth"]:
        np.testing.assert_allclose(boxes[each["category"]], each["box"], atol=1e-3)
    json.dumps([facts, found])


WRONG = [
    ({"model.num_classes": 4}, "model.num_classes must be 3, the categories"),
    ({"data.cutout": 3}, "data.cutout must be 0 for pictures, got 3: it is for images"),
    ({"loss.label_smoothing": 0.1}, "it is for images and sentences"),
    ({"model.name": "resnet20"}, "model.name must be one of retinanet_resnet20, "),
    ({"data.name": "digits"}, "data.name must be one of coco, got 'digits'"),
    ({"loss.boxes": "iou"}, "loss.boxes must be one of giou, smooth_l1; got 'iou'"),
]


@pytest.mark.parametrize(("fields", "words"), WRONG, ids=lambda x: str(x)[:30])
def test_fields_that_do_not_fit_are_named(fields, words, pictures, tmp_path):
    config, _ = pictures
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        set_up(from_dict(to_dict(config) | nested(fields, config)), tmp_path)


def nested(fields, config):
    (path, value), *_ = fields.items()
    part, name = path.split(".")
    return {part: to_dict(config)[part] | {name: value}}


def test_boxes_are_of_no_other_task():
    config = Config()
    config.loss.boxes = "giou"
    with pytest.raises(ValueError, match="'smooth_l1' for images.* for pictures$"):
        validate(config)


class Killed(milestones.Milestones):
    def reached(self, step, *rest):
        super().reached(step, *rest)
        if step == 7:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_detector_resumes_to_the_same_bits(tmp_path, monkeypatch):
    config = settings(tmp_path / "coco", flip=True, scale_jitter=0.5)
    config.checkpoint_every_steps = 7
    result = train_and_evaluate(config, tmp_path / "whole")
    assert {"loss", "AP", "AP50", "anchor_accuracy"} <= result["test"].keys()
    assert result["validation_AP"] >= 0
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bitsnn_jax.training.loop.Milestones", Killed)
        train_and_evaluate(config, tmp_path / "killed")
    resumed = train_and_evaluate(config, tmp_path / "killed")
    assert resumed["test"] == result["test"]
    one, other = (load_run(tmp_path / name).variables for name in ("whole", "killed"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_networks_that_find_the_same_boxes_deviate_by_what_is_measured():
    rng, classes = np.random.default_rng(0), np.array([[2, 0, 0, -1]] * 3)
    boxes, scores = rng.uniform(0, 32, (3, 4, 4)), rng.uniform(0.05, 1, (3, 4))
    one = detection.Detections(boxes, scores, classes)
    moved, other = boxes.copy(), classes.copy()
    moved[1, 2, 3] += 0.125
    other[2, 1] = 1
    apart = DETECTION.deviation(one, detection.Detections(moved, scores, other))
    assert apart.total == 1 and apart.differing.tolist() == [False, False, True]
    assert apart.largest() == {("boxes", "pixels"): 0.125, ("scores", ""): 0.0}
