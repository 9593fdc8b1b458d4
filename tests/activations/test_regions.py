"""Activations, however they are written: what they are taken for, what they become."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bitsnn_jax import qcfs, quantise, replace_relu, verify

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6))
W = RNG.normal(size=(6, 6))
SLOPES = np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@jax.custom_vjp
def custom_silu(z):
    return z / (1 + jnp.exp(-z))


custom_silu.defvjp(lambda z: (custom_silu(z), z), lambda z, g: (g * z,))

# What is written, what it is taken for, and how many layers of neurons it becomes.
FORMS = {
    "relu": (jax.nn.relu, "relu", 1),
    "relu_by_where": (lambda z: jnp.where(z > 0, z, 0), "relu", 1),
    "relu_by_product": (lambda z: z * (z > 0), "relu", 1),
    "threshold": (lambda z: jnp.where(z > 0, z, jnp.zeros_like(z)), "relu", 1),
    "relu6": (jax.nn.relu6, "relu6", 1),
    "clip": (lambda z: jnp.clip(z, 0, 1.5), "clip(0, 1.5)", 1),
    "clip_of_both_signs": (lambda z: jnp.clip(z, -2, 1), "clip(-2, 1)", 2),
    "hard_tanh": (jax.nn.hard_tanh, "hard_tanh", 2),
    "leaky_relu": (jax.nn.leaky_relu, "leaky_relu(0.01)", 2),
    "leaky_by_maximum": (lambda z: jnp.maximum(z, 0.1 * z), "leaky_relu(0.1)", 2),
    "prelu": (
        lambda z, slopes: jnp.where(z > 0, z, slopes * z),
        "leaky_relu(0.1), by channel",
        2,
    ),
    "elu": (jax.nn.elu, "elu", 2),
    "selu": (jax.nn.selu, "selu", 2),
    "silu": (jax.nn.silu, "silu", 2),
    "silu_by_product": (lambda z: z * jax.nn.sigmoid(z), "silu", 2),
    "silu_by_quotient": (lambda z: z / (1 + jnp.exp(-z)), "silu", 2),
    "silu_of_its_own": (custom_silu, "silu", 2),
    "gelu": (lambda z: jax.nn.gelu(z, approximate=False), "gelu", 2),
    "gelu_by_erf": (lambda z: z * (1 + lax.erf(z / np.sqrt(2))) / 2, "gelu", 2),
    "gelu_tanh": (jax.nn.gelu, "gelu_tanh", 2),
    "hard_swish": (jax.nn.hard_swish, "hard_swish", 2),
    "hard_swish_in_full": (lambda z: z * jax.nn.relu6(z + 3) / 6, "hard_swish", 2),
    "hard_sigmoid": (jax.nn.hard_sigmoid, "hard_sigmoid", 1),
    "sigmoid": (jax.nn.sigmoid, "sigmoid", 1),
    "sigmoid_by_quotient": (lambda z: 1 / (1 + jnp.exp(-z)), "sigmoid", 1),
    "tanh": (jnp.tanh, "tanh", 2),
    "mish": (jax.nn.mish, "mish", 2),
    "softplus": (jax.nn.softplus, "softplus", 1),
    "softplus_by_log": (lambda z: jnp.log(1 + jnp.exp(z)), "softplus", 1),
    "square": (jnp.square, "square", 1),
    "relu_squared": (lambda z: jax.nn.relu(z) ** 2, "relu_squared", 1),
    "abs": (jnp.abs, "abs", 1),
    "other": (lambda z: jnp.sin(z) + jnp.cos(2 * z), "sin cos", 2),
}


def side_by_side(names):
    """Activations of one value, so that one program has them all."""

    def apply_fn(v, x):
        w, total = v["w"], 0
        z = jax.nn.relu(x) @ w + v["b"]
        for name in names:
            form = FORMS[name][0]
            form = partial(form, slopes=v["slopes"]) if name == "prelu" else form
            with jax.named_scope(f"net/{name}"):
                total += form(z) @ w
        return total

    return jax.jit(apply_fn)


# They rise and fall again, so that their neurons have no table.
WITHOUT_TABLE = {"square", "abs", "other"}
FEW = "relu_by_where hard_sigmoid prelu silu_by_quotient abs".split()
VARIABLES = {"w": W, "b": W[0], "slopes": SLOPES}


def reported(quantised):
    return {each.path: each for each in quantised.report.activations}


@pytest.mark.parametrize(
    "names", [FEW, pytest.param(list(FORMS), marks=pytest.mark.slow)], ids=len
)
def test_activations_are_found_however_they_are_written(names):
    apply_fn = side_by_side(names)
    quantised = quantise(apply_fn, VARIABLES, [X], levels=2**20 - 1, method="maximum")
    report = reported(quantised)
    assert report.pop("neuron").function == "relu"
    found = {path: (each.function, len(each.sites)) for path, each in report.items()}
    assert found == {name: FORMS[name][1:] for name in names}
    sites = {"neuron", *(site for each in report.values() for site in each.sites)}
    assert set(quantised.variables["theta"]) == sites
    noted = {path for path, each in report.items() if each.note}
    assert noted == WITHOUT_TABLE & set(names)
    # Some 30 activations of up to 64, each off by half of a step of 2^-20 of it.
    np.testing.assert_allclose(
        jax.jit(quantised.apply_fn)(quantised.variables, X),
        apply_fn(VARIABLES, X),
        atol=2e-3,
    )
    table = str(quantised.report)
    assert all(name in table for name in names)


@pytest.mark.parametrize(
    "names",
    [["silu_by_quotient"], pytest.param(list(FORMS), marks=pytest.mark.slow)],
    ids=len,
)
def test_the_neurons_of_activations_are_exact(names):
    names = [name for name in names if name not in WITHOUT_TABLE]
    quantised = quantise(side_by_side(names), VARIABLES, [X], levels=15)
    assert not quantised.left
    assert verify(*quantised, X, steps=4).exact


@pytest.mark.slow
def test_values_of_one_sign_get_one_neuron():
    def apply_fn(w, x):
        with jax.named_scope("net/minus"):
            x = -jax.nn.softplus(x @ w) - jnp.square(x @ w)
        with jax.named_scope("net/elu"):
            x = jax.nn.elu(10 - x - 0.01 * x @ w)
        with jax.named_scope("net/hardly"):
            return jax.nn.silu(100 + x @ w - 101) @ w

    quantised = quantise(apply_fn, W, [X], levels=3)
    sites = {path: each.sites for path, each in reported(quantised).items()}
    assert sites["elu"] == ("elu",)
    assert sites["hardly"] == ("hardly",)


NORMS = {
    "softmax": lambda v, x: jax.nn.softmax(x),
    "log_softmax": lambda v, x: jax.nn.log_softmax(x),
    "logsumexp": lambda v, x: x - jax.nn.logsumexp(x, axis=-1, keepdims=True),
    "layer_norm": lambda v, x: nn.LayerNorm().apply(
        {"params": {"scale": v[0], "bias": v[1]}}, x
    ),
    "group_norm": lambda v, x: nn.GroupNorm(2).apply(
        {"params": {"scale": v[0], "bias": v[1]}}, x
    ),
    "standardised": lambda v, x: jax.nn.standardize(x),
    "rms": lambda v, x: x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6),
    "unit": lambda v, x: x / jnp.maximum(jnp.sqrt((x**2).sum(-1, keepdims=True)), 1e-6),
}


def test_norms_and_softmax_are_no_activations():
    def apply_fn(w, x):
        for name, norm in NORMS.items():
            with jax.named_scope(f"net/{name}"):
                x = norm(w, jax.nn.relu(x @ w))
        return x @ w

    quantised = quantise(apply_fn, W, [X])
    assert list(quantised.variables["theta"]) == list(NORMS)
    for each in quantised.report.activations:
        words = ("normalisation", "softmax", "no number", "positive")
        assert each.sites or any(word in each.note for word in words)


def test_what_decides_or_is_looked_up_is_no_activation():
    def apply_fn(w, x):
        y = jax.nn.relu(x @ w) @ w
        choice = jnp.where(y[:, :1] > 0, y, 2 * y)
        rows = w[jnp.clip(jnp.floor(y[:, 0]), 0, 5).astype(int)]
        return choice + rows + jnp.round(y) / 4

    quantised = quantise(apply_fn, W, [X])
    assert list(quantised.variables["theta"]) == ["neuron"]
    assert len(quantised.report.activations) == 4


def test_a_reducer_is_no_activation():
    def apply_fn(w, x):
        z = (jax.nn.relu(x @ w) @ w)[:, None, :]
        return lax.reduce_window(
            z, -jnp.inf, lambda a, b: jnp.maximum(a, b), (1, 1, 2), (1, 1, 2), "VALID"
        )

    quantised = quantise(apply_fn, W, [X])
    assert list(quantised.variables["theta"]) == ["neuron"]


def headed(before, behind):
    def apply_fn(w, x):
        return behind(jax.nn.relu(before(x) @ w) @ w + 0.2)

    return apply_fn


LEFT = {
    "image": headed(lambda x: jnp.clip(x, -9, 9) ** 2, lambda y: y),
    "log": headed(lambda x: jnp.log1p(jnp.abs(x)), lambda y: y),
    "clipped_image": headed(lambda x: jnp.clip(x / 9 + 0.5, 0, 1), lambda y: y),
    "boxes": headed(lambda x: x, lambda y: (100 * jnp.clip(y, 0, 1)).reshape(-1)),
    "probabilities": headed(lambda x: x, jax.nn.sigmoid),
    "depth": headed(lambda x: x, lambda y: jax.nn.softplus(y) * y[:, :1]),
}
CODED = {
    "image_with_negatives": headed(jax.nn.relu, lambda y: y),
    "features": headed(lambda x: x, jax.nn.relu),
    "features_of_relu6": headed(lambda x: x, jax.nn.relu6),
    "features_of_silu": headed(lambda x: x, jax.nn.silu),
}


def often(names, *few):
    """All of them, and a few in each run of the tests."""
    slow = pytest.mark.slow
    return [n if n in few else pytest.param(n, marks=slow) for n in names]


@pytest.mark.parametrize("name", often(LEFT, "clipped_image", "boxes"))
def test_input_and_output_keep_their_precision(name):
    quantised = quantise(LEFT[name], W, [X])
    assert len(quantised.variables["theta"]) == 1
    [why] = [each.note for each in quantised.report.activations if not each.sites]
    assert why.startswith(("of the input: ", "of the output: "))


@pytest.mark.parametrize("name", often(CODED, "features_of_relu6"))
def test_features_and_inputs_with_negatives_are_coded(name):
    quantised = quantise(CODED[name], W, [X])
    assert all(each.sites for each in quantised.report.activations)
    assert len(quantised.report.activations) == 2


def three(w, x):
    for name in ("stem", "body/act", "head"):
        with jax.named_scope(f"net/{name}"):
            x = jax.nn.silu(x @ w)
    return x @ w


SKIPS = {
    "name": "body/act",
    "pattern": ["b*"],
    "function": lambda path: path.startswith("body"),
}


@pytest.mark.parametrize("kind", often(SKIPS, "pattern"))
def test_activations_can_be_left_by_path(kind):
    quantised = quantise(three, W / 3, [X], skip=SKIPS[kind])
    assert [p for p, each in reported(quantised).items() if not each.sites] == [
        "body/act"
    ]
    assert set(quantised.variables["theta"]) == {
        "stem", "stem/off", "head", "head/off"
    }  # fmt: skip
    again = replace_relu(three, skip=SKIPS[kind])
    np.testing.assert_array_equal(
        again(quantised.variables, X), quantised.apply_fn(quantised.variables, X)
    )


def test_options_can_differ_by_path():
    levels = {"stem": 3, "*": 255}
    quantised = quantise(
        three,
        W / 3,
        [X],
        levels=levels,
        method=lambda path: "mse" if path == "stem" else "maximum",
        per_channel={"body*": True, "*": False},
    )
    assert [each.levels for each in reported(quantised).values()] == [3, 255, 255]
    theta = quantised.variables["theta"]
    shapes = {path: t.shape for path, t in theta.items()}
    assert shapes["body/act"] == shapes["body/act/off"] == (6,)
    assert shapes["stem"] == shapes["head"] == shapes["head/off"] == ()
    largest = quantise(three, W / 3, [X], levels=levels, method="maximum")
    largest = largest.variables["theta"]
    assert theta["stem"] < largest["stem"]
    assert theta["head"] == largest["head"]
    again = replace_relu(three, levels=levels)
    np.testing.assert_array_equal(
        again(quantised.variables, X), quantised.apply_fn(quantised.variables, X)
    )


@pytest.mark.parametrize(
    "options, words",
    [
        ({"skip": "stm"}, "skip has 'stm', .* they are stem, body/act, head$"),
        ({"levels": {"stem": 3}}, r'levels has no value for body/act.*add "\*"'),
        ({"levels": {"*": 0}}, "levels must be at least 1, got 0"),
        ({"method": {"*": "best"}}, "method must be one of .*got 'best'"),
    ],
)
def test_paths_that_are_none_are_said(options, words):
    with pytest.raises(ValueError, match=words):
        quantise(three, W, [X], **options)


def pooled(first, act, pool):
    def apply_fn(w, x):
        x = (x @ w).reshape(-1, 2, 3)
        x = act(pool(x)) if first == "pool" else pool(act(x))
        return x.reshape(len(x), -1) @ w[:3]

    return apply_fn


def generic(x):
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), ((0, 0), (0, 0), (0, 0))
    )


POOLS = {
    "window": lambda x: nn.max_pool(x, (2,), (2,)),
    "generic": generic,
    "all": lambda x: x.max(1),
    "twice": lambda x: x.max(1, keepdims=True).max(1),
}


@pytest.mark.parametrize("name", often(POOLS, "generic"))
def test_pooling_comes_behind_the_code(name):
    pool = POOLS[name]
    for act in (jax.nn.relu6, lambda z: jnp.where(z > 0, z, 0.25 * z)):
        quantised = quantise(pooled("pool", act, pool), W, [X], levels=3)
        same = replace_relu(pooled("act", act, pool), levels=3)
        np.testing.assert_array_equal(
            quantised.apply_fn(quantised.variables, X), same(quantised.variables, X)
        )
        [each] = quantised.report.activations
        assert "in front of the maximum" in each.note
    assert verify(*quantised, X, steps=4).exact


@pytest.mark.slow
def test_pooling_before_what_may_fall_stays():
    act, pool = jax.nn.silu, POOLS["all"]
    quantised = quantise(pooled("pool", act, pool), W, [X], levels=2**20 - 1)
    [each] = quantised.report.activations
    assert "behind a maximum over places" in each.note
    np.testing.assert_allclose(
        quantised.apply_fn(quantised.variables, X),
        pooled("pool", act, pool)(W, X),
        atol=1e-4,
    )


@jax.custom_vjp
def rounded(z):
    return jnp.round(z)


rounded.defvjp(lambda z: (jnp.round(z), None), lambda _, g: (g,))


def straight_through(q):
    return q + lax.stop_gradient(jnp.round(q) - q)


def of_lsq(z, s):
    return straight_through(jnp.clip(z / s, 0, 15)) * s


TRAINED = {
    "pact": lambda z, s: jnp.clip(z, 0, 15 * s),
    "lsq": of_lsq,
    "lsq_of_its_own": lambda z, s: rounded(jnp.clip(z / s, 0, 15)) * s,
    "clipped_last": lambda z, s: jnp.clip(rounded(z / s), 0, 15) * s,
    "pact_rounded": lambda z, s: rounded(jnp.clip(z, 0, 15 * s) / s) * s,
    "zero_point": lambda z, s: (jnp.clip(jnp.round(z / s) + 0, 0, 15) - 0) * s,
    "floor": lambda z, s: jnp.clip(jnp.floor(z / s + 0.5), 0, 15) * s,
}


@pytest.mark.parametrize("per_channel", often([False, True], True))
def test_trained_scales_are_taken_over(per_channel):
    scale = np.linspace(0.1, 0.2, 6) if per_channel else np.float64(0.1)

    def apply_fn(v, x):
        total = 0
        for name, form in TRAINED.items():
            with jax.named_scope(f"net/{name}"):
                total += form(x @ v["w"], v["s"]) @ v["w"]
        return total

    quantised = quantise(apply_fn, {"w": W, "s": scale}, [X], levels=15)
    assert list(quantised.variables["theta"]) == list(TRAINED)
    for theta in quantised.variables["theta"].values():
        np.testing.assert_allclose(theta, 15 * scale, rtol=1e-6)
    notes = {each.path: each.note for each in quantised.report.activations}
    assert notes.pop("pact") == "theta as trained"
    assert all("halves round up" in note for note in notes.values())
    # Without pact it computes the same: no value is near a tie.
    without = {**quantised.variables}
    wanted = apply_fn({"w": W, "s": scale}, X)
    pact = TRAINED["pact"](X @ W, scale)
    theta = quantised.variables["theta"]["pact"]
    np.testing.assert_allclose(
        quantised.apply_fn(without, X) - qcfs(X @ W, theta) @ W,
        wanted - pact @ W,
        atol=1e-5,
    )
    program = jax.make_jaxpr(quantised.apply_fn)(quantised.variables, X)
    assert "round" not in str(program) and "floor" not in str(program)


@pytest.mark.slow
def test_a_trained_scale_keeps_its_own_levels():
    quantised = quantise(
        lambda v, x: of_lsq(x @ v["w"], v["s"]) @ v["w"],
        {"w": W, "s": 0.1},
        [X],
        levels=255,
    )
    [each] = quantised.report.activations
    assert each.levels == 15 and "levels as trained" in each.note
    assert verify(*quantised, X, steps=4).exact


def test_nothing_found_says_what_was_looked_for():
    with pytest.raises(ValueError, match="looked for .*gelu.*left: exp .part of a so"):
        quantise(lambda w, x: jax.nn.softmax(x @ w), W, [X])
