"""A batch norm or dropout in training is noticed, inference is not bothered."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import QCFS, convert, quantise, verify
from bitsnn_jax.tracing.independence import warn_unless_apart

X = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype(np.float32)
ON_OTHERS = "depends on the others of its batch"
AT_RANDOM = "draws random numbers"


class Net(nn.Module):
    norm: bool = False
    dropout: bool = False
    spikes: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.norm)(nn.Conv(4, (3, 3))(x))
        x = QCFS(theta_init=2.0)(x) if self.spikes else nn.relu(x)
        x = nn.Dropout(0.5, deterministic=not self.dropout)(x)
        return nn.Dense(3)(x.mean((1, 2)))


def built(**options):
    model, key = Net(**options), jax.random.key(0)
    variables = model.init({"params": key, "dropout": key}, X)

    def apply_fn(variables, x):
        state = {"mutable": ["batch_stats"], "rngs": {"dropout": key}}
        return model.apply(variables, x, **state)[0]

    return apply_fn, variables


def said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught]


CALLS = {
    "quantise": lambda net: quantise(*net, [X]),
    "convert": lambda net: convert(*net, X, steps=4),
    "convert one": lambda net: convert(*net, X[:1], steps=4),
    "verify": lambda net: verify(*net, X, steps=4),
    "verify as it is": lambda net: verify(*net, X, steps=4, bias_shift="auto"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("left", ["nothing", "norm", "dropout"])
def test_what_was_left_in_training_is_said(call, left):
    options = {} if left == "nothing" else {left: True}
    net = built(spikes=call != "quantise", **options)

    def attempt():
        try:
            CALLS[call](net)
        except ValueError:  # a batch norm of the batch has no spiking form behind QCFS
            assert left != "nothing"

    messages = said(attempt)
    expected = {"nothing": None, "norm": ON_OTHERS, "dropout": AT_RANDOM}[left]
    found = [m for m in messages if ON_OTHERS in m or AT_RANDOM in m]
    assert [expected in m for m in found] == ([True] if expected else [])


def test_shapes_alone_show_random_numbers():
    apply_fn, variables = built(dropout=True)
    [message] = said(
        lambda: warn_unless_apart(
            apply_fn, variables, jax.ShapeDtypeStruct((1, 4, 4, 3), np.float32)
        )
    )
    assert AT_RANDOM in message


APART = {
    "of one size only": lambda v, x: x.reshape(1, -1) @ jnp.ones((48, 2)),
    "no batch at all": lambda v, x: x.sum(),
    "integers": lambda v, x: jnp.argmax(x, -1),
    "a sum within an example": lambda v, x: x - x.mean((1, 2, 3), keepdims=True),
    "a pair": lambda v, x: {"a": 2 * x, "b": x[:, 0]},
}


@pytest.mark.parametrize("name", APART)
def test_examples_that_are_apart_are_not_spoken_of(name):
    assert said(lambda: warn_unless_apart(APART[name], {}, X[:1])) == []


TOGETHER = {
    "mean": lambda v, x: x - x.mean(0),
    "softmax over the batch": lambda v, x: jax.nn.softmax(x, 0),
    "the other one": lambda v, x: x[::-1],
    "integers": lambda v, x: (10 * (x - x.mean(0))).astype(int),
}


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("count", [1, 6])
def test_examples_that_are_not_are(name, count):
    [message] = said(lambda: warn_unless_apart(TOGETHER[name], {}, X[:count]))
    assert ON_OTHERS in message and "use_running_average=True" in message
