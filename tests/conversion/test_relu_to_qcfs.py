"""ReLU becomes QCFS in a traced program: which maxima are ReLUs, which theta."""

import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bitsnn_jax import SpikingError, convert, in_float64, qcfs, spiking, verify
from bitsnn_jax.conversion.calibration import CALIBRATIONS, calibrate
from bitsnn_jax.conversion.relu_to_qcfs import quantise, replace_relu

X = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)


def thetas(apply_fn, x=X, variables=None, **options):
    return quantise(apply_fn, variables, [x], **options).variables["theta"]


# Each is max(x, 0), or min of that and 1.25.
RELU = {
    "jax.nn": jax.nn.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "zero_first": lambda x: jnp.maximum(0.0, x),
    "array_of_zeros": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "clip": lambda x: jnp.clip(x, 0),
    "jitted": jax.jit(jax.nn.relu),
    "remat": jax.checkpoint(jax.nn.relu),
    "twice": lambda x: jax.nn.relu(jax.nn.relu(x)),
}
CAPPED = {
    "clip": lambda x: jnp.clip(x, 0, 1.25),
    "clamp": lambda x: lax.clamp(0.0, x, 1.25),
    "minimum": lambda x: jnp.minimum(jax.nn.relu(x), 1.25),
    "minimum_first": lambda x: jnp.maximum(jnp.minimum(x, 1.25), 0),
    "two_caps": lambda x: jnp.minimum(jnp.clip(x, 0, 1.25), 6),
    "relu6": lambda x: jax.nn.relu6(4.8 * x) / 4.8,
}


@pytest.mark.parametrize("form", RELU)
def test_every_form_of_relu_is_found(form):
    def apply_fn(_, x):
        return RELU[form](x)

    quantised = quantise(apply_fn, None, [X], levels=3)
    theta = calibrate(X, levels=3)
    assert quantised.variables["theta"] == {"neuron": theta}
    for fn in (quantised.apply_fn, jax.jit(quantised.apply_fn)):
        found = fn(quantised.variables, X)
        np.testing.assert_array_equal(found, qcfs(X, theta, levels=3))


@pytest.mark.parametrize("form", CAPPED)
def test_a_cap_bounds_theta_and_is_gone(form):
    def apply_fn(_, x):
        return CAPPED[form](x)

    scale = 4.8 if form == "relu6" else 1.0
    quantised = quantise(apply_fn, None, [X], levels=3, method="maximum")
    assert quantised.variables["theta"] == {"neuron": np.float32(1.25 * scale)}
    # With a theta above the cap, too.
    above = {**quantised.variables, "theta": {"neuron": np.float32(9)}}
    for variables in (quantised.variables, above):
        found = quantised.apply_fn(variables, X)
        wanted = qcfs(scale * X, 1.25 * scale, levels=3) / scale
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    program = jax.make_jaxpr(quantised.apply_fn)(quantised.variables, X)
    assert not {"max", "min", "clamp"} & {e.primitive.name for e in program.eqns}


@pytest.mark.parametrize("method", CALIBRATIONS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_theta_is_that_of_the_pre_activations(method, per_channel):
    def apply_fn(w, x):
        return jax.nn.relu(jax.nn.relu6(4 * x) @ w)

    options = {"method": method, "per_channel": per_channel}
    found = quantise(apply_fn, W, [X[:20], X[20:]], **options).variables["theta"]
    wanted = [
        calibrate(4 * X, cap=6.0, **options),
        calibrate(np.clip(4 * X, 0, 6) @ W, **options),
    ]
    assert list(found) == ["neuron", "neuron@2"]
    # Products of 20 and of 50 rows round differently, and the maximum with them.
    for a, b in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_on_the_grid_nothing_changes():
    """Identity layers of whole numbers up to 15: delta is 1."""

    def apply_fn(signs, x):
        return jax.nn.relu(signs * jax.nn.relu(x))

    x = jnp.arange(-20.0, 16.0)
    signs = jnp.where(x % 3 == 0, -1.0, 1.0).at[-1].set(1.0)
    quantised = quantise(apply_fn, signs, [x], method="maximum")
    np.testing.assert_array_equal(
        quantised.apply_fn(quantised.variables, x), apply_fn(signs, x)
    )


def layer_norm(_, x):
    return nn.LayerNorm().apply({"params": {"scale": W[0], "bias": W[1]}}, x)


OTHERS = {
    "softmax": lambda _, x: jax.nn.softmax(x),
    "layer_norm": layer_norm,
    "parameters": lambda w, x: x @ jax.nn.relu(w),
    "integers": lambda w, x: jnp.maximum((x @ w).astype(int), 0),
    "two_arrays": lambda w, x: jnp.maximum(x, x @ w),
    "reducer": lambda _, x: jax.lax.reduce_window(
        x, 0.0, lambda a, b: jnp.maximum(a, b), (1, 2), (1, 2), "VALID"
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_no_relu_is_left_alone(other):
    apply_fn = OTHERS[other]
    with pytest.raises(ValueError, match=r"found no ReLU .* max\(z, 0\)"):
        quantise(apply_fn, W, [X])

    def with_relu(w, x):
        return apply_fn(w, jax.nn.relu(x))

    quantised = quantise(with_relu, W, [X], levels=15)
    [theta] = quantised.variables["theta"].values()
    np.testing.assert_allclose(
        quantised.apply_fn(quantised.variables, X),
        apply_fn(W, qcfs(X, theta)),
        rtol=1e-6,
        atol=1e-6,
    )


def test_a_network_that_cannot_spike_says_so_with_its_module():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.softmax(nn.Dense(3, name="head")(nn.relu(nn.Dense(6)(x))))

    variables = Net().init(jax.random.key(0), X)
    quantised = quantise(lambda v, x: Net().apply(v, x), variables, [X])
    with pytest.raises(SpikingError, match="in Net has no spiking form.*decode"):
        spiking(quantised.apply_fn, steps=4)(quantised.variables, X)
    assert verify(*quantised, X, steps=4, nonspiking="decode").neurons == 300


def test_qcfs_that_is_there_keeps_its_theta_and_levels():
    def apply_fn(theta, x):
        return jax.nn.relu(qcfs(x, theta, levels=3) - 0.5)

    quantised = quantise(apply_fn, jnp.float32(1.0), [X])
    assert list(quantised.variables["theta"]) == ["neuron@2"]
    theta = quantised.variables["theta"]["neuron@2"]
    wanted = qcfs(qcfs(X, 1.0, levels=3) - 0.5, theta)
    found = quantised.apply_fn(quantised.variables, X)
    np.testing.assert_array_equal(found, wanted)


LOOPS = {
    "python": lambda w, x: jax.nn.relu(jax.nn.relu(jax.nn.relu(x @ w) @ w) @ w),
    "scan": lambda w, x: lax.fori_loop(0, 3, lambda i, x: jax.nn.relu(x @ w), x),
    "while": lambda w, x: lax.fori_loop(
        jnp.int32(0), jnp.int32(3), lambda i, x: jax.nn.relu(x @ w), x
    ),
    "condition": lambda w, x: lax.while_loop(
        lambda c: c[0] > 1, lambda c: (c[0] / 2, jax.nn.relu(c[1] @ w)), (8.0, x)
    )[1],
    "cond": lambda w, x: lax.fori_loop(
        0,
        6,
        lambda i, x: lax.cond(i % 2 == 0, lambda x: jax.nn.relu(x @ w), lambda x: x, x),
        x,
    ),
}


@pytest.mark.parametrize("loop", ["scan", "while", "condition", "cond"])
def test_loops_of_known_length_are_unrolled(loop):
    with jax.enable_x64(True):
        w, x = W.astype(float), X[:4].astype(float)
        wanted = list(thetas(LOOPS["python"], x, w).values())
        quantised = quantise(LOOPS[loop], w, [x])
        found = quantised.variables["theta"]
        np.testing.assert_allclose(list(found.values()), wanted, rtol=1e-6)
        places = [0, 2, 4] if loop == "cond" else [0, 1, 2]
        assert list(found) == [str(i) for i in places]
        certificate = verify(*quantised, x, steps=4)
        assert certificate.exact and list(certificate.layers) == list(found)


DECIDED_BY_DATA = {
    "while": lambda w, x: lax.while_loop(
        lambda x: x.sum() > 1, lambda x: jax.nn.relu(x @ w), x
    ),
    "cond": lambda w, x: lax.cond(w[0, 0] > 0, jax.nn.relu, jnp.negative, x),
}


@pytest.mark.parametrize("name", DECIDED_BY_DATA)
def test_a_relu_that_data_decide_on_is_an_error(name):
    with pytest.raises(SpikingError, match=f"ReLU inside `{name}`"):
        quantise(DECIDED_BY_DATA[name], W, [X])


@pytest.mark.parametrize(
    "theta, words",
    [
        ({}, "none for the ReLU neuron, only for nothing"),
        ({"neuron": 1.0}, "none for the ReLU neuron@2, only for neuron"),
        ({"neuron": 1.0, "neuron@2": 1.0, "x": 1.0}, "some for x, but"),
        ({"neuron": np.ones(5), "neuron@2": 1.0}, r"\(6,\).*got the shape \(5,\)"),
    ],
)
def test_thresholds_of_another_network_are_named(theta, words):
    apply_fn = replace_relu(lambda w, x: jax.nn.relu(jax.nn.relu(x) @ w))
    with pytest.raises(ValueError, match=words):
        apply_fn({"network": W, "theta": theta}, X)


def test_bad_options_are_said():
    def apply_fn(_, x):
        return jax.nn.relu(x)

    for levels in (quantise, replace_relu):
        args = (None, [X]) if levels is quantise else ()
        with pytest.raises(ValueError, match="levels must be at least 1, got 0"):
            levels(apply_fn, *args, levels=0)
    with pytest.raises(ValueError, match="expected batches to calibrate with"):
        quantise(apply_fn, None, [])
    with pytest.raises(ValueError, match="max_batches must be at least 1, got 0"):
        quantise(apply_fn, None, [X], max_batches=0)
    with pytest.raises(ValueError, match="neuron must have finite values"):
        quantise(apply_fn, None, [-np.abs(X)])


def test_a_random_key_in_the_program_is_no_number():
    def apply_fn(w, x):
        noise = jax.random.normal(jax.random.key(3), (6,))
        return jax.nn.relu(x + noise) @ w

    quantised = quantise(apply_fn, W, [X], levels=2**20, method="maximum")
    np.testing.assert_allclose(
        quantised.apply_fn(quantised.variables, X), apply_fn(W, X), atol=1e-4
    )
    assert verify(*quantised, X, steps=2).neurons == 300


def channels_first(v, x):
    """Two convolutions and a dense layer of [n, c, h, w], as Equinox writes them."""
    for w in v[:2]:
        x = jax.nn.relu(lax.conv(x, w, (1, 1), "SAME"))
    return jax.nn.relu(jax.vmap(lambda r: v[2] @ r)(x.mean((2, 3))))


def channels_last(v, x):
    dims = ("NHWC", "OIHW", "NHWC")
    for w in v[:2]:
        x = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims)
        x = jax.nn.relu(x)
    return jax.nn.relu(x.mean((1, 2)) @ v[2].T)


RNG = np.random.default_rng(5)
LAYERS = [RNG.normal(size=s).astype(np.float32) for s in ((6, 3, 3, 3), (8, 6, 3, 3))]
LAYERS.append(RNG.normal(size=(5, 8)).astype(np.float32))
PICTURES = RNG.normal(size=(4, 3, 7, 9)).astype(np.float32)


def test_channels_are_found_in_either_layout():
    first = quantise(channels_first, LAYERS, [PICTURES], per_channel=True)
    last = quantise(
        channels_last, LAYERS, [PICTURES.transpose(0, 2, 3, 1)], per_channel=True
    )
    thetas = [list(q.variables["theta"].values()) for q in (first, last)]
    assert [t.shape for t in thetas[0]] == [(6,), (8,), (5,)]
    # Convolutions of the two layouts add in another order.
    for a, b in zip(*thetas, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
    # The layer before decides each threshold, not the width of the image.
    narrow = first.apply_fn(first.variables, PICTURES[..., :5])
    assert narrow.shape == (4, 5)
    assert verify(*first, PICTURES, steps=4).neurons == 4 * (7 * 9 * 14 + 5)


MOVED = {
    "transposed": (lambda z: z.transpose(0, 3, 1, 2), 1),
    "a norm": (lambda z: (z - z.mean(-1, keepdims=True)) * 2 + 1, 3),
    "pooled": (lambda z: nn.max_pool(z, (2, 2), (2, 2)), 3),
    "flattened space": (lambda z: z.reshape(4, -1, 6), 2),
    "a row": (lambda z: z[:, 0], 2),
    "a sum over columns": (lambda z: z.sum(2), 2),
    "side by side": (lambda z: jnp.concatenate([z, z], -1), 3),
}


@pytest.mark.parametrize("name", MOVED)
def test_channels_are_followed(name):
    move, axis = MOVED[name]

    def convolved(w, x):
        return nn.Conv(6, (3, 3), use_bias=False).apply({"params": {"kernel": w}}, x)

    def apply_fn(w, x):
        return jax.nn.relu(move(convolved(w, x)))

    kernel, x = LAYERS[0].transpose(2, 3, 1, 0), PICTURES.transpose(0, 2, 3, 1)
    [theta] = thetas(apply_fn, x, kernel, per_channel=True).values()
    z = move(convolved(kernel, x))
    assert theta.shape == z.shape[axis : axis + 1]
    wanted = calibrate(np.moveaxis(z, axis, -1), per_channel=True)
    np.testing.assert_allclose(theta, wanted, rtol=1e-4)


def test_channels_that_cannot_be_told_are_asked_for():
    def apply_fn(_, x):
        return jax.nn.relu(x)

    with pytest.raises(ValueError, match="give channel_axis"):
        thetas(apply_fn, PICTURES, per_channel=True)
    for axis, channels in ((1, 3), (-1, 9)):
        options = {"per_channel": True, "channel_axis": axis}
        quantised = quantise(apply_fn, None, [PICTURES], **options)
        assert quantised.variables["theta"]["neuron"].shape == (channels,)
        again = replace_relu(apply_fn, channel_axis=axis)
        np.testing.assert_array_equal(
            again(quantised.variables, PICTURES),
            quantised.apply_fn(quantised.variables, PICTURES),
        )
    with pytest.raises(ValueError, match="channel_axis=4 is no axis"):
        thetas(apply_fn, PICTURES, per_channel=True, channel_axis=4)


def test_a_layer_that_never_fires_gets_a_threshold_and_a_word():
    def apply_fn(w, x):
        x = jax.nn.relu(x @ w)
        return x + jax.nn.relu(x @ (0 * w)) + jnp.clip(-x, 0, 0.5)

    with pytest.warns(UserWarning, match="neuron@[23] never fires") as said:
        quantised = quantise(apply_fn, W, [X])
    assert len(said) == 2
    assert quantised.variables["theta"]["neuron@2"] == 1
    assert verify(*quantised, X, steps=4).exact


def test_what_is_left_is_said_and_listed():
    def apply_fn(w, x):
        return jax.nn.relu(jnp.sort(jax.nn.softmax(x @ w))) @ w

    with pytest.warns(UserWarning, match="left as they are.*`reduce_max`") as said:
        quantised = quantise(apply_fn, W, [X])
    assert len(said) == 1
    left = [each.operation for each in quantised.left]
    assert left == ["reduce_max", "max", "exp", "div", "sort"]
    report = convert(*quantised, X[:1], steps=4).report
    assert report.nonspiking == list(quantised.left)


@pytest.mark.parametrize(
    "batches, said",
    [
        (X, r"got an array of shape \(50, 6\): pass \[x\]"),
        ({"image": X}, r"got a dictionary: pass \[x\]"),
        (
            [(np.zeros(50), X)],
            r"of shapes \(\(50,\), \(50, 6\)\), .*fails: \(the first entry\) ",
        ),
        ([{"x": X, "y": X}], r"without labels; got dict of shapes .*fails: "),
        ([X[:, :5]], r"without labels; got ndarray of shapes \(50, 5\), on which"),
        ([X, X[:, :5]], r"batch 2 must be .* of shapes \(50, 5\), on which it fails"),
        ([(X, 0), X[0]], r"batch 2 is not|batch 2 must be"),
    ],
)
def test_what_is_no_batches_is_said(batches, said):
    with pytest.raises(ValueError, match=said):
        quantise(lambda w, x: jax.nn.relu(x @ w), W, batches)


def one_layer(w, x):
    return jax.nn.relu(x @ w) @ w


def test_a_quantised_network_can_be_pickled():
    quantised = quantise(one_layer, W, [X])
    again = pickle.loads(pickle.dumps(quantised.apply_fn))
    np.testing.assert_array_equal(
        again(quantised.variables, X), quantised.apply_fn(quantised.variables, X)
    )


def test_random_keys_stay_with_the_function():
    """The state of an NNX module with dropout holds keys, which are no numbers."""
    variables = {"key": jax.random.key(7), "w": W, "nothing": None}

    def apply_fn(v, x):
        assert jnp.issubdtype(v["key"].dtype, jax.dtypes.prng_key)
        return jax.nn.relu(x @ v["w"]) @ v["w"]

    # A None of the network's own makes the places of the keys ambiguous.
    for tree in (variables, {"key": variables["key"], "w": W}):
        quantised = quantise(apply_fn, tree, [X])
        network = quantised.variables["network"]
        assert network["key"] is None and network.keys() == tree.keys()
        with jax.enable_x64(True):
            wide = in_float64(quantised.variables)
            assert verify(quantised.apply_fn, wide, np.float64(X), steps=4).exact
