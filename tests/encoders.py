"""A small BERT in plain functions, with codes where they belong."""

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.numerics.mixing import lookup, normalise, softmax
from bitsnn_jax.numerics.qcfs import qcfs, signed_qcfs

WORDS, LENGTH, WIDTH, HEADS, HIDDEN, CLASSES = 23, 5, 8, 2, 12, 3
HIDDEN_BY_MASK = 1000.0
CONTEXT = 1.9371  # products of codes that differ meet no threshold exactly


def variables(layers=2, seed=0):
    """Draw the weights; a numpy tree in float32."""
    rng = np.random.default_rng(seed)

    def drawn(*shape, size=1.0):
        return (size * rng.normal(size=shape)).astype(np.float32)

    def norm():
        return {
            "scale": 1 + drawn(WIDTH, size=0.1),
            "bias": drawn(WIDTH, size=0.1),
        }

    def dense(inputs, outputs):
        kernel = drawn(inputs, outputs, size=inputs**-0.5)
        return {"kernel": kernel, "bias": drawn(outputs, size=0.1)}

    def layer():
        square = {name: dense(WIDTH, WIDTH) for name in "qkvo"}
        hidden = {"up": dense(WIDTH, HIDDEN), "down": dense(HIDDEN, WIDTH)}
        return square | hidden | {"first": norm(), "second": norm()}

    return {
        "words": drawn(WORDS, WIDTH),
        "types": drawn(2, WIDTH),
        "positions": drawn(LENGTH, WIDTH),
        "norm": norm(),
        "layers": [layer() for _ in range(layers)],
        "pooler": dense(WIDTH, WIDTH),
        "classifier": dense(WIDTH, CLASSES),
    }


def sentences(count, seed=1):
    """Draw int32 [count, 3, LENGTH]: word ids, token types, mask."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, WORDS, (count, LENGTH))
    types = rng.integers(0, 2, (count, LENGTH))
    mask = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (count, 1))
    return np.stack([words, types, mask], 1).astype(np.int32)


def dense(v, x):
    return x @ v["kernel"] + v["bias"]


def norm(v, x):
    return v["scale"] * normalise(x) + v["bias"]


def attention(v, x, mask):
    def heads(x):
        x = x.reshape(*x.shape[:2], HEADS, WIDTH // HEADS)
        return signed_qcfs(x.transpose(0, 2, 1, 3), 3.0)

    q, k, v_ = (heads(dense(v[name], x)) for name in "qkv")
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(WIDTH / HEADS)
    scores = scores + ((mask - 1) * HIDDEN_BY_MASK)[:, None, None]
    context = qcfs(softmax(scores), 1.0) @ v_
    return signed_qcfs(context.transpose(0, 2, 1, 3).reshape(x.shape), CONTEXT)


def encoder(v, tokens):
    """Compute the logits of sentences."""
    words, types, mask = (tokens[:, i] for i in range(3))
    mask = mask.astype(v["words"].dtype)
    x = lookup(v["words"], words) + lookup(v["types"], types) + v["positions"]
    x = norm(v["norm"], x)
    for layer in v["layers"]:
        with jax.named_scope("attention"):
            y = dense(layer["o"], attention(layer, signed_qcfs(x, 3.0), mask))
        x = norm(layer["first"], x + y)
        y = jax.nn.gelu(dense(layer["up"], signed_qcfs(x, 3.0)), approximate=False)
        y = dense(layer["down"], signed_qcfs(y, 2.0))
        x = norm(layer["second"], x + y)
    pooled = jnp.tanh(dense(v["pooler"], signed_qcfs(x, 3.0)[:, 0]))
    return dense(v["classifier"], signed_qcfs(pooled, 1.0))
