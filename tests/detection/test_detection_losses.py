"""Focal loss, smooth L1, GIoU and their sum: values and gradients."""

from functools import partial

import boxes_by_hand as by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import detection
from bitsnn_jax.detection import BOX_LOSSES, IGNORED

IMAGE, SHAPES, CLASSES, N, ROWS = (32, 32), [(4, 4), (2, 2)], 3, 3, 3
ANCHORS = detection.anchors(IMAGE, SHAPES).astype(float)
RNG = np.random.default_rng(0)
# The first image has two boxes, the second only a crowd, the third a box and a crowd.
# The other rows are none.
BOXES = np.array(
    [
        [[2.0, 3, 20, 31], [8, 8, 15, 14], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 30, 9]],
        [[10, 10, 32, 32], [0, 0, 12, 12], [5, 5, 5, 9]],
    ]
)
LABELS = np.array([[2, 0, -1], [-1, -1, 1], [1, 0, 1]])
CROWD = np.array([[False, False, False], [False, False, True], [True, False, False]])
NONE = (LABELS < 0) | (BOXES[..., 0] == BOXES[..., 2])
any_box_loss = pytest.mark.parametrize("box_loss", BOX_LOSSES)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def drawn(scale=1.0):
    """Logits and offsets, the same each time in a test."""
    logits = RNG.normal(size=(N, len(ANCHORS), CLASSES)) - 2
    return logits * scale, RNG.normal(size=(N, len(ANCHORS), 4)) / 2 * scale


def results(logits, offsets, boxes=BOXES):
    return _results(logits, offsets, boxes)


@jax.jit
def _results(logits, offsets, boxes):
    """For each loss of boxes: that of each image, and the gradients of their sum."""

    def loss(args, box_loss):
        each = detection.loss(*args, ANCHORS, boxes, LABELS, CROWD, box_loss=box_loss)
        return each.sum(), each

    found = {}
    for name in BOX_LOSSES:
        value_and_grad = jax.value_and_grad(loss, has_aux=True)
        (_, each), slopes = value_and_grad((logits, offsets), name)
        found[name] = each, *slopes
    return found


def assigned(i):
    return by_hand.match(ANCHORS, BOXES[i], LABELS[i], CROWD[i])


@any_box_loss
def test_the_loss_of_each_image_is_that_of_a_loop(box_loss):
    logits, offsets = drawn()
    found, *_ = results(logits, offsets)[box_loss]
    for i in range(N):
        truth = BOXES[i], LABELS[i], CROWD[i]
        wanted = by_hand.loss(logits[i], offsets[i], ANCHORS, *truth, box_loss)
        # 1e-7 in the divisors of GIoU, which are areas of 16 pixels and more.
        np.testing.assert_allclose(found[i], wanted, rtol=1e-8)


@any_box_loss
def test_gradients_are_differences_of_the_loss(box_loss):
    """Along one random direction; of all anchors few are near a corner of the loss."""
    at, direction, h = drawn(), drawn(), 1e-6
    _, *slopes = results(*at)[box_loss]
    ends = [
        results(*(a + s * d for a, d in zip(at, direction, strict=True)))[box_loss][0]
        for s in (h, -h)
    ]
    found = sum(np.vdot(s, d) for s, d in zip(slopes, direction, strict=True))
    np.testing.assert_allclose(found, np.subtract(*ends).sum() / (2 * h), rtol=1e-7)


@any_box_loss
def test_rows_that_are_no_boxes_change_nothing(box_loss):
    """Neither value nor gradient, by a bit, whatever stands in them."""
    args = drawn()
    wanted = results(*args)[box_loss]
    for filling in (np.nan, np.inf, -1e30, [30.0, 30, 0, 0]):
        changed = np.where(NONE[..., None], filling, BOXES)
        jax.tree.map(
            np.testing.assert_array_equal, results(*args, changed)[box_loss], wanted
        )


@any_box_loss
def test_an_anchor_moves_only_what_it_is_responsible_for(box_loss):
    """Offsets without a box, and classes of what is ignored, have a gradient of 0.

    That holds where they are so large that a box of them would be infinite.
    """
    logits, offsets = drawn(scale=1e307)
    _, of_logits, of_offsets = results(logits, offsets)[box_loss]
    for i in range(N):
        matched = assigned(i)
        assert np.all(np.asarray(of_offsets)[i, matched < 0] == 0)
        assert np.all(np.asarray(of_logits)[i, matched == IGNORED] == 0)
        assert np.all(np.isfinite(np.asarray(of_logits)[i]))
    assert {-2, -1, 0, 1} == set(np.concatenate([assigned(i) for i in range(N)]))


@partial(jax.jit, static_argnames=("target", "gamma"))
def focal(z, *, target, gamma=2.0):
    """Loss and derivative of each logit."""
    targets = jnp.full(z.shape, target)
    loss = partial(detection.focal_loss, targets=targets, gamma=gamma)
    return jax.jvp(loss, (z,), (jnp.ones_like(z),))


@pytest.mark.parametrize("target", [0, 1])
def test_focal_loss_keeps_its_digits_in_float32(target):
    """From an error that is certain to a hit of which e^-60 is left."""
    logits = np.linspace(-80, 20, 41, dtype=np.float32) * (2 * target - 1)
    for found, by_equation in zip(
        focal(logits, target=target),
        (by_hand.focal_loss, by_hand.focal_slope),
        strict=True,
    ):
        assert found.dtype == np.float32
        wanted = [by_equation(float(z), target) for z in logits]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_and_its_gradient_are_finite_anywhere(gamma):
    ends = np.float32([-1e37, -1e4, -89, 0, 89, 1e4, 1e37])
    assert np.all(np.isfinite(focal(ends, target=1, gamma=gamma)))


def test_smooth_l1_and_its_gradient_are_those_of_the_equation():
    d = np.array([-3.0, -0.11, -0.05, 0.0, 0.02, 0.1, 0.12, 40.0])
    found, slopes = jax.jit(jax.vmap(jax.value_and_grad(detection.smooth_l1)))(
        d + 7, np.full(d.shape, 7.0)
    )
    np.testing.assert_allclose(found, list(map(by_hand.smooth_l1, d)), atol=1e-15)
    np.testing.assert_allclose(slopes, np.clip(d / 0.11, -1, 1), atol=1e-12)


COUNT = 20
# Of each pair, and the derivatives by the first box.
giou = jax.jit(jax.vmap(jax.value_and_grad(detection.giou_loss)))


def test_giou_loss_is_that_of_a_loop_and_draws_boxes_together():
    """Also those that have nothing in common."""
    low = RNG.uniform(0, 20, (2, COUNT, 2))
    sides = RNG.uniform(1, 20, (2, COUNT, 2))
    a, b = np.concatenate([low, low + sides], axis=-1)
    found, slopes = map(np.asarray, giou(a, b))
    # 1e-7 in the divisors, which are areas of 1 pixel and more.
    np.testing.assert_allclose(found, list(map(by_hand.giou_loss, a, b)), rtol=1e-6)
    assert np.any(found > 1) and np.all((found >= 0) & (found < 2))
    assert np.all(np.asarray(giou(a - 1e-3 * slopes, b)[0]) < found)
    np.testing.assert_allclose(giou(a, a)[0], np.zeros(COUNT), atol=1e-6)


def test_giou_of_boxes_without_area_is_a_number_and_so_is_its_gradient():
    for found in giou(*np.ones((2, COUNT, 4))):
        assert np.all(np.isfinite(found))


def test_another_loss_of_boxes_is_refused():
    logits, offsets = drawn()
    with pytest.raises(ValueError, match="one of smooth_l1, giou; got 'l2'"):
        detection.loss(logits, offsets, ANCHORS, BOXES, LABELS, CROWD, box_loss="l2")
