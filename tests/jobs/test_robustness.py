"""Noise and attacks: where they may go, and that they go where the gradient says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import data, qcfs, spiking
from bitsnn_jax.jobs.robustness import (
    cross_entropy,
    fgsm,
    loss_gradient,
    noisy,
    of_pixels,
    pgd,
    project,
)

STEPS = (1, 2, 3, 4, 6, 8)
THETA = 2.0


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def pixels_and_labels(n=20, shape=(7,), classes=3, seed=0):
    """Some pixels at the ends of their range, where clipping is felt."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.uniform(-0.2, 1.2, (n, *shape)), 0, 1)
    return pixels, rng.integers(0, classes, n)


def linear(variables, x):
    return x @ variables


def perceptron(variables, x, *, levels=15):
    for w in variables[:-1]:
        x = qcfs(x @ w + 0.1, THETA, levels=levels)
    return x @ variables[-1]


def weights(*widths, seed=1):
    rng = np.random.default_rng(seed)
    pairs = zip(widths, widths[1:], strict=False)
    return tuple(rng.normal(size=pair) for pair in pairs)


def gradient_of(apply_fn, variables):
    return functools.partial(jax.jit(loss_gradient(apply_fn)), variables)


def fused(steps):
    snn_fn = spiking(perceptron, steps=steps, mode="fused")
    return lambda v, x: snn_fn(v, x)[0]


def test_no_noise_changes_nothing():
    pixels, _ = pixels_and_labels()
    np.testing.assert_array_equal(noisy(jax.random.key(0), pixels, sigma=0.0), pixels)


def test_noise_has_the_given_deviation_and_no_mean():
    grey = np.full((100, 100), 0.5)
    noise = noisy(jax.random.key(0), grey, sigma=0.1) - grey  # black is 5 sigma away
    # Of 10,000 draws: four standard errors, 0.1 / 100 and 0.1 / 100 / sqrt(2).
    assert abs(noise.mean()) < 0.004
    assert abs(noise.std() - 0.1) < 0.003


def test_noise_stays_in_the_pixel_range():
    pixels, _ = pixels_and_labels(n=200)
    result = noisy(jax.random.key(0), pixels, sigma=0.5)
    assert (result.min(), result.max()) == (0, 1)


@pytest.mark.parametrize("change", ["noise", "attack"])
def test_the_key_decides_what_is_random(change):
    pixels, labels = pixels_and_labels()
    gradient = gradient_of(linear, weights(7, 3)[0])
    attack = {"epsilon": 0.2, "step": 0.01, "iterations": 2}
    make = {
        "noise": lambda key: noisy(key, pixels, sigma=0.1),
        "attack": lambda key: pgd(gradient, pixels, labels, **attack, key=key),
    }[change]
    one, again, other = (make(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (np.asarray(one) != other).mean() > 0.5


@pytest.mark.parametrize("epsilon", [0.0, 2 / 255, 0.3, 2.0])
def test_projection_is_the_nearest_point_that_is_allowed(epsilon):
    rng = np.random.default_rng(2)
    centre, _ = pixels_and_labels()
    for x in (rng.normal(size=centre.shape), centre):
        found = np.asarray(project(x, centre, epsilon=epsilon))
        for value, wanted, c in zip(found.flat, x.flat, centre.flat, strict=True):
            low, high = max(c - epsilon, 0), min(c + epsilon, 1)
            assert low <= value <= high
            if low <= wanted <= high:
                assert value == wanted
            else:
                assert value == (low if wanted < low else high)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("network", ["ann", 1, 4])
def test_an_attack_stays_in_the_ball_and_in_the_pixel_range(network, seed):
    pixels, labels = pixels_and_labels()
    variables = weights(7, 9, 3)
    apply_fn = perceptron if network == "ann" else fused(network)
    gradient = gradient_of(apply_fn, variables)
    key = None if seed is None else jax.random.key(seed)
    attack = {"epsilon": 0.1, "step": 0.07, "iterations": 5, "key": key}
    result = np.asarray(pgd(gradient, pixels, labels, **attack))
    assert abs(result - pixels).max() <= 0.1 + 1e-15  # a sum and a difference, rounded
    assert 0 <= result.min() and result.max() <= 1
    assert (result != pixels).any()


def test_fgsm_is_one_step_of_pgd_without_a_random_start():
    pixels, labels = pixels_and_labels()
    gradient = gradient_of(perceptron, weights(7, 9, 3))
    result = fgsm(gradient, pixels, labels, epsilon=0.1)
    once = pgd(gradient, pixels, labels, epsilon=0.1, step=0.1, iterations=1)
    np.testing.assert_array_equal(result, once)
    moved = pixels + 0.1 * np.sign(gradient(pixels, labels))
    np.testing.assert_array_equal(result, np.clip(moved, 0, 1))


def softmax_gradient(w, x, label):
    """dL/dx of one example of a linear network, by hand."""
    logits = x @ w
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return w @ (p - np.eye(len(p))[label])


@pytest.mark.parametrize("seed", [None, 3])
def test_pgd_is_its_equation_written_as_a_loop(seed):
    [w] = weights(7, 5)
    pixels, labels = pixels_and_labels(classes=5)
    key = None if seed is None else jax.random.key(seed)
    gradient = gradient_of(linear, w)
    attack = {"epsilon": 0.5, "key": key}
    result = pgd(gradient, pixels, labels, step=0.12, iterations=6, **attack)
    # Steps of no length show where the attack starts.
    start = pgd(gradient, pixels, labels, step=0.0, iterations=1, **attack)
    assert (seed is None) == bool((np.asarray(start) == pixels).all())
    turns = 0
    for clean, x, label, found in zip(
        pixels, np.asarray(start), labels, np.asarray(result), strict=True
    ):
        signs = []
        for _ in range(6):
            signs.append(np.sign(softmax_gradient(w, x, label)))
            x = x + 0.12 * signs[-1]
            for i, c in enumerate(clean):
                x[i] = min(max(x[i], c - 0.5, 0), c + 0.5, 1)
        np.testing.assert_allclose(found, x, rtol=0, atol=1e-14)  # of six sums
        turns += (signs[0] != signs[-1]).sum()
    assert turns > 0  # the gradient is taken anew where the attack has come to


def test_a_random_start_fills_the_ball():
    grey, labels = np.full((500, 7), 0.5), np.zeros(500, int)
    gradient = gradient_of(linear, weights(7, 3)[0])
    attack = {"epsilon": 0.1, "step": 0.0, "iterations": 1}
    moved = pgd(gradient, grey, labels, **attack, key=jax.random.key(0)) - grey
    # Uniform: of 3,500 draws, a tenth in every tenth, give or take 4 x 18.
    counts, _ = np.histogram(moved, 10, (-0.1, 0.1))
    assert counts.sum() == moved.size
    assert abs(counts - 350).max() < 72


def test_on_a_linear_network_no_iteration_lowers_the_loss():
    # The loss is convex in x there, and no coordinate moves against its gradient.
    [w] = weights(7, 3)
    pixels, labels = pixels_and_labels()
    gradient = gradient_of(linear, w)
    loss = cross_entropy(linear(w, pixels), labels)
    clean = loss
    for iterations in range(1, 7):
        attack = {"epsilon": 0.1, "step": 0.03, "iterations": iterations}
        result = pgd(gradient, pixels, labels, **attack)
        longer = cross_entropy(linear(w, result), labels)
        assert (longer >= loss).all()
        loss = longer
    assert (loss > clean).all()


def test_of_two_linear_classes_pgd_finds_the_worst_image():
    # The margin is x @ (w[:, 0] - w[:, 1]): every pixel goes to its own end.
    [w] = weights(7, 2)
    pixels, labels = pixels_and_labels(classes=2)
    attack = {
        "epsilon": 0.1,
        "step": 0.025,
        "iterations": 8,
        "key": jax.random.key(0),
    }
    result = pgd(gradient_of(linear, w), pixels, labels, **attack)
    away = np.where(labels[:, None] == 1, 1, -1) * np.sign(w[:, 0] - w[:, 1])
    worst = np.clip(pixels + 0.1 * away, 0, 1)
    np.testing.assert_allclose(result, worst, rtol=0, atol=1e-15)


def test_the_attack_of_a_batch_is_that_of_each_image():
    pixels, labels = pixels_and_labels(n=5)
    gradient = gradient_of(perceptron, weights(7, 9, 3))
    attack = {"epsilon": 0.1, "step": 0.03, "iterations": 4}
    result = pgd(gradient, pixels, labels, **attack)
    for i in range(5):
        alone = pgd(gradient, pixels[i : i + 1], labels[i : i + 1], **attack)
        np.testing.assert_allclose(result[i], alone[0], rtol=0, atol=1e-15)


@pytest.mark.parametrize("steps", STEPS)
def test_a_spiking_network_has_the_gradient_of_the_ann_with_its_levels(steps):
    pixels, labels = pixels_and_labels()
    variables = weights(7, 9, 8, 3)
    found = gradient_of(fused(steps), variables)(pixels, labels)
    requantised = functools.partial(perceptron, levels=2**steps - 1)
    np.testing.assert_array_equal(
        found, gradient_of(requantised, variables)(pixels, labels)
    )
    delta = THETA / (2**steps - 1)
    for x, label, g in zip(pixels, labels, np.asarray(found), strict=True):
        inside = []
        for w in variables[:-1]:
            z = x @ w + 0.1
            inside.append((z > 0) & (z < THETA))
            x = delta * np.clip(np.floor(z / delta + 0.5), 0, 2**steps - 1)
        back = softmax_gradient(variables[-1], x, label)
        for w, open_ in zip(variables[-2::-1], inside[::-1], strict=True):
            back = w @ (back * open_)
        np.testing.assert_allclose(g, back, rtol=1e-9, atol=1e-12)


def test_every_spike_simulated_says_the_same_of_attacked_images():
    pixels, labels = pixels_and_labels(n=100)
    variables = weights(7, 9, 8, 3)
    attack = {"epsilon": 0.1, "step": 0.025, "iterations": 5}
    for steps in (2, 4):
        one_pass = jax.jit(fused(steps))
        images = pgd(gradient_of(one_pass, variables), pixels, labels, **attack)
        stepped = spiking(perceptron, steps=steps, bias_shift="auto")
        logits, _ = jax.jit(stepped)(variables, images)
        np.testing.assert_allclose(
            logits, one_pass(variables, images), rtol=0, atol=1e-12
        )


def test_every_spike_simulated_gives_no_direction():
    pixels, labels = pixels_and_labels()
    snn_fn = spiking(perceptron, steps=4, bias_shift="auto")
    gradient = gradient_of(lambda v, x: snn_fn(v, x)[0], weights(7, 9, 3))
    result = fgsm(gradient, pixels, labels, epsilon=0.1)
    np.testing.assert_array_equal(result, pixels)


def test_a_network_of_pixels_normalises_them():
    rng = np.random.default_rng(0)
    examples = data.InMemory(
        image_shape=(4, 4, 2),
        num_classes=3,
        white=16,
        mean=np.float32([0.2, 0.7]),
        std=np.float32([0.5, 0.1]),
        images=rng.integers(0, 17, (6, 4, 4, 2)).astype(np.uint8),
        labels=np.zeros(6, np.int32),
    )
    identity = of_pixels(lambda v, images: v * images, examples)
    found = identity(3.0, examples.images / 16)
    # Float32 there, float64 here; normalised pixels are of order 10.
    wanted = 3 * data.normalise(examples.images, examples)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert identity(3.0, jnp.float32(examples.images / 16)).dtype == jnp.float32


def test_errors():
    pixels, labels = pixels_and_labels()
    gradient = gradient_of(linear, weights(7, 3)[0])
    attack = {"epsilon": 0.1, "step": 0.1, "iterations": 1}
    with pytest.raises(ValueError, match="sigma must be at least 0, got -1"):
        noisy(jax.random.key(0), pixels, sigma=-1)
    for name, least in (("epsilon", 0), ("step", 0), ("iterations", 1)):
        wrong = attack | {name: least - 1}
        match = f"{name} must be at least {least}, got {least - 1}"
        with pytest.raises(ValueError, match=match):
            pgd(gradient, pixels, labels, **wrong)
