"""Boxes, anchors, matching, losses and detections against torchvision, in float64.

Skipped where it is not installed; `pip install 'bitsnn-jax[oracles]'` installs it. What
differs by convention is said where it does.
"""

from functools import partial
from importlib import import_module

import jax
import numpy as np
import pytest

from bitsnn_jax import detection

torch = pytest.importorskip("torch", reason="needs bitsnn-jax[oracles]")
ops = pytest.importorskip("torchvision.ops", reason="needs bitsnn-jax[oracles]")
# Imported by name: if torchvision is there, whatever else is missing is an error.
there, retinanet, anchor_utils, image_list = (
    import_module(f"torchvision.models.detection.{name}")
    for name in ("_utils", "retinanet", "anchor_utils", "image_list")
)

IMAGE, SHAPES, CLASSES, N = (96, 64), [(12, 8), (6, 4), (3, 2)], 3, 2
ANCHORS = detection.anchors(IMAGE, SHAPES).astype(float)
SIZES = detection.level_sizes(SHAPES)
RNG = np.random.default_rng(0)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def boxes(count):
    low = RNG.uniform(0, 50, (count, 2))
    return np.concatenate([low, low + RNG.uniform(1, 40, (count, 2))], axis=-1)


def generator():
    """Theirs rounds the sides of anchors: it is told those that are not rounded."""
    strides = [IMAGE[0] // height for height, _ in SHAPES]
    made = anchor_utils.AnchorGenerator(((1,),) * len(SHAPES))
    of_zero = np.split(ANCHORS, np.cumsum(SIZES)[:-1])
    made.cell_anchors = [torch.tensor(level[:9]) for level in of_zero]
    for cell, stride in zip(made.cell_anchors, strides, strict=True):
        sizes = [4 * stride * 2 ** (k / 3) for k in range(3)]
        theirs = made.generate_anchors(sizes, (0.5, 1.0, 2.0), torch.float64)
        np.testing.assert_array_equal(cell.round(), theirs)
    return made


def test_anchors_are_those_of_torchvision():
    images = image_list.ImageList(torch.zeros(1, 3, *IMAGE), [IMAGE])
    maps = [torch.zeros(1, 1, *shape, dtype=torch.float64) for shape in SHAPES]
    [found] = generator()(images, maps)
    # Ours are rounded to float32 once.
    np.testing.assert_allclose(ANCHORS, found, rtol=1e-6, atol=1e-5)


def test_iou_is_that_of_torchvision():
    a, b = boxes(30), boxes(20)
    wanted = ops.box_iou(torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(detection.iou(a, b), wanted, **CLOSE)


def test_offsets_are_those_of_torchvision():
    coder = there.BoxCoder((1.0, 1.0, 1.0, 1.0))
    a, b = torch.tensor(boxes(30)), torch.tensor(boxes(30))
    offsets = coder.encode_single(b, a)
    np.testing.assert_allclose(detection.encode(a.numpy(), b.numpy()), offsets, **CLOSE)
    offsets = 3 * offsets  # some beyond the clamp
    assert (offsets[:, 2:] > np.log(1000 / 16)).any()
    found = detection.decode(a.numpy(), offsets.numpy())
    np.testing.assert_allclose(found, coder.decode_single(offsets, a), **CLOSE)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_matches_are_those_of_torchvision(count):
    """Few boxes, and more than there are good anchors."""
    truth = boxes(count)
    matcher = there.Matcher(0.5, 0.4, allow_low_quality_matches=True)
    wanted = matcher(ops.box_iou(torch.tensor(truth), torch.tensor(ANCHORS)))
    classes, crowd = np.zeros(count, int), np.zeros(count, bool)
    found = jax.jit(detection.match)(ANCHORS, truth, classes, crowd)
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(found)) > min(count, 3)


def both(ours, theirs, *args):
    """Value and gradient by the first argument: of ours, and of theirs."""
    first, *rest = map(torch.tensor, args)
    value = theirs(first.requires_grad_(), *rest)
    value.sum().backward()
    found = jax.jit(jax.value_and_grad(lambda *args: ours(*args).sum()))(*args)
    return found, (value.sum().item(), first.grad.numpy())


def test_focal_loss_is_that_of_torchvision():
    z = np.linspace(-30, 30, 61)
    for target in (0.0, 1.0):
        found, wanted = both(
            detection.focal_loss, ops.sigmoid_focal_loss, z, np.full(z.shape, target)
        )
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-10)
        # Theirs has 1 - p from p: what is below 1e-16 of 1 is lost.
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-8, atol=1e-14)


def test_smooth_l1_is_that_of_torch():
    smooth = partial(torch.nn.functional.smooth_l1_loss, beta=0.11, reduction="none")
    d = RNG.normal(size=200) / 5
    found, wanted = both(detection.smooth_l1, smooth, d, np.zeros(d.shape))
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_giou_loss_is_that_of_torchvision():
    args = boxes(50), boxes(50)
    found, wanted = both(detection.giou_loss, ops.generalized_box_iou_loss, *args)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


def outputs():
    logits = 2 * RNG.normal(size=(N, len(ANCHORS), CLASSES)) - 2
    return logits, RNG.normal(size=(N, len(ANCHORS), 4)) / 9


def head():
    made = retinanet.RetinaNetHead(8, 9, CLASSES)
    return made.double()


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_the_loss_of_a_batch_is_that_of_torchvision(box_loss, monkeypatch):
    """Of the mean of images; its smooth L1 has beta 1 unless told otherwise."""
    told = partial(retinanet._box_loss, cnf={"beta": 0.11})
    monkeypatch.setattr(retinanet, "_box_loss", told)
    logits, offsets = outputs()
    truth = np.stack([boxes(4), boxes(4)])
    classes = RNG.integers(0, CLASSES, (N, 4))
    classes[1, 2:] = -1  # the second image has two boxes
    made, matcher = head(), there.Matcher(0.5, 0.4, True)
    made.regression_head._loss_type = box_loss
    targets = [
        {"boxes": torch.tensor(b[c >= 0]), "labels": torch.tensor(c[c >= 0])}
        for b, c in zip(truth, classes, strict=True)
    ]
    anchors = torch.tensor(ANCHORS)
    matched = [matcher(ops.box_iou(t["boxes"], anchors)) for t in targets]
    given = {
        "cls_logits": torch.tensor(logits, requires_grad=True),
        "bbox_regression": torch.tensor(offsets, requires_grad=True),
    }
    wanted = sum(made.compute_loss(targets, given, [anchors] * N, matched).values())
    wanted.backward()

    def loss(logits, offsets):
        crowd = np.zeros(classes.shape, bool)
        each = detection.loss(
            logits, offsets, ANCHORS, truth, classes, crowd, box_loss=box_loss
        )
        return each.mean()

    value, slopes = jax.jit(jax.value_and_grad(loss, (0, 1)))(logits, offsets)
    np.testing.assert_allclose(value, wanted.item(), rtol=1e-10)
    for ours, theirs in zip(slopes, given.values(), strict=True):
        np.testing.assert_allclose(ours, theirs.grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("overlap", [0.3, 0.5])
def test_suppression_is_that_of_torchvision(overlap):
    args = boxes(300), RNG.uniform(0.1, 1, 300), RNG.integers(0, 4, 300)
    wanted = ops.batched_nms(*map(torch.tensor, args), overlap).numpy()
    found = detection.nms(*args, overlap=overlap, limit=300)
    np.testing.assert_array_equal(found[: len(wanted)], wanted)
    assert np.all(np.asarray(found)[len(wanted) :] == -1) and len(wanted) < 300


@pytest.mark.parametrize("most", [30, 1000])
def test_detections_are_those_of_torchvision(most, monkeypatch):
    """Theirs keeps boxes of which nothing lies inside the image; here all have some."""
    monkeypatch.setattr(detection.detections, "CANDIDATES", most)
    logits, offsets = outputs()

    class Settings:
        score_thresh, nms_thresh = 0.05, 0.5
        topk_candidates, detections_per_img = most, 100
        box_coder = there.BoxCoder((1.0, 1.0, 1.0, 1.0))

    def levels(x):
        return list(torch.split(torch.tensor(x), SIZES, dim=-2))

    given = {"cls_logits": levels(logits), "bbox_regression": levels(offsets)}
    wanted = retinanet.RetinaNet.postprocess_detections(
        Settings, given, [levels(ANCHORS)] * N, [IMAGE] * N
    )
    uncompiled = detection.detect.__wrapped__
    fn = jax.jit(lambda *args: uncompiled(*args, ANCHORS, SIZES, IMAGE))
    found = fn(logits, offsets)
    for i in range(N):
        count = len(wanted[i]["scores"])
        for ours, name in zip(found, ("boxes", "scores", "labels"), strict=True):
            np.testing.assert_allclose(ours[i][:count], wanted[i][name], **CLOSE)
        assert np.all(np.asarray(found.classes[i])[count:] == -1)
        sides = wanted[i]["boxes"][:, 2:] - wanted[i]["boxes"][:, :2]
        assert (sides > 0).all()
