"""Thresholds of pairs of neurons, and of neurons behind a softmax."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import QCFS, SignedQCFS, signed_qcfs
from bitsnn_jax.conversion.calibration import calibrate, calibrate_network
from bitsnn_jax.numerics.mixing import softmax

LEVELS = 3
RNG = np.random.default_rng(0)
# Of both signs, the negative ones larger, and channels of different size.
Z = (RNG.normal(size=(40, 3)) - 0.5).astype(np.float32) * np.float32([1, 4, 0.25])
W = (RNG.normal(size=(3, 5)) / 4).astype(np.float32)


class Attention(nn.Module):
    """Pairs, a softmax and a neuron behind it; with `codes` or as trained."""

    levels: int = LEVELS
    per_channel: bool = False
    codes: bool = True

    @nn.compact
    def __call__(self, x):
        def signed(z, name):
            act = SignedQCFS(self.levels, per_channel=self.per_channel, name=name)
            return act(z) if self.codes else z

        q = signed(x @ W, "q")
        p = softmax(q @ q.T)
        p = QCFS(self.levels, name="p")(p) if self.codes else p
        return signed(p @ q, "out")


def found_by(model, x=Z, **options):
    found = calibrate_network(model.apply, {"params": {}}, [x], **options)["params"]
    return {name: part["theta"] for name, part in found.items()}


def error_of(theta, z):
    """Sum of (signed_qcfs(z) - z)^2 by NumPy in float64."""
    delta = np.float64(theta) / LEVELS
    on, off = (np.clip(np.floor(sign * z / delta + 0.5), 0, LEVELS) for sign in (1, -1))
    return np.sum((delta * (on - off) - z) ** 2)


def single(method="mse", per_channel=False):
    act = SignedQCFS(LEVELS, per_channel=per_channel)
    found = calibrate_network(act.apply, {"params": {}}, [Z], method=method)
    return found["params"]["theta"]


def test_theta_is_the_candidate_of_least_error_in_both_signs():
    candidates = np.float32(abs(Z).max() * 2.0 ** (-np.arange(97) / 16))
    best = candidates[np.argmin([error_of(theta, Z) for theta in candidates])]
    assert single() == best < candidates[0]


@pytest.mark.parametrize(
    ("method", "per_channel"), [("mse", True), ("percentile", False), ("maximum", True)]
)
def test_a_pair_gets_what_one_neuron_gets_on_absolute_values(method, per_channel):
    options = {"method": method, "per_channel": per_channel}
    wanted = calibrate(abs(Z), levels=LEVELS, **options)
    np.testing.assert_array_equal(single(**options), wanted)
    assert np.shape(wanted) == (3,) * per_channel


def test_with_many_levels_the_network_is_the_one_that_was_trained():
    model = Attention(levels=2**20)
    thetas = {name: {"theta": theta} for name, theta in found_by(model).items()}
    # Each code is off by 2^-21 of its largest value at most, scores of order 10 by
    # a few of these.
    np.testing.assert_allclose(
        model.apply({"params": thetas}, Z),
        Attention(codes=False).apply({}, Z),
        atol=2e-5,
    )


def test_a_neuron_behind_a_softmax_is_calibrated_by_probabilities():
    q = jnp.asarray(Z @ W)
    found = found_by(Attention(), method="maximum")
    assert found["p"] == jnp.max(softmax(q @ q.T))


def test_in_order_pairs_feed_codes_of_both_signs():
    found = found_by(Attention(), sequential=True, method="maximum")
    q = signed_qcfs(Z @ W, found["q"], levels=LEVELS)
    np.testing.assert_allclose(found["p"], softmax(q @ q.T).max(), rtol=1e-6)


def test_output_is_least_in_what_is_fed_next():
    w = W * np.float32([[1], [0.05], [1]])  # where z is large, it matters little

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x):
            return SignedQCFS(LEVELS, name="act")(x) @ jnp.asarray(w)

    def error_behind(theta):
        theta = np.asarray(min(theta, abs(Z).max()))
        return float((((signed_qcfs(Z, theta, levels=LEVELS) - Z) @ w) ** 2).sum())

    theta = single()
    least = min(error_behind(theta * 2 ** (i / 8)) for i in range(-8, 5))
    found = found_by(Linear(), method="output")["act"]
    assert error_behind(found) == pytest.approx(least, rel=1e-5)
    assert least < error_behind(theta)


def test_offsets_of_pairs_are_refused():
    with pytest.raises(ValueError, match="first q: pass correct_biases=False"):
        found_by(Attention(), correct_biases=True)


def test_words_are_calibrated_with():
    class Words(nn.Module):
        @nn.compact
        def __call__(self, x):
            words, mask = x["words"], x["mask"]
            return SignedQCFS(LEVELS, name="x")(jnp.asarray(W)[words] * mask[..., None])

    batch = {"words": np.array([[0, 2], [1, 1]]), "mask": np.array([[1, 0], [0, 1]])}
    found = found_by(Words(), batch, method="maximum")
    assert found["x"] == abs(W[:2]).max()
