"""Proposition I on parameters: the closed forms, what changes, and what cannot."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import NETWORKS, Inverted, Residual, Scanned, Shared, build, build_pure

from bitsnn_jax import QCFS, SpikingError, convert, qcfs, spiking, verify


class Typical(nn.Module):
    """conv - norm - act, conv with bias - norm - act, dense."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(5, (3, 3), name="conv1")(x)
        x = QCFS()(nn.BatchNorm(use_running_average=True, name="norm1")(x))
        x = nn.Conv(6, (3, 3), name="conv2")(x)
        x = QCFS()(nn.BatchNorm(use_running_average=True, name="norm2")(x))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_biases_follow_the_closed_forms(steps):
    with jax.enable_x64(True):
        apply_fn, variables, x = build(Typical)
        converted, report = convert(apply_fn, variables, x, steps=steps)
        old, new = variables["params"], converted["params"]
        mu = variables["batch_stats"]["norm2"]["mean"]
        sigma = np.sqrt(variables["batch_stats"]["norm2"]["var"] + 1e-5)
        gamma, beta = old["norm2"]["scale"], old["norm2"]["bias"]
        beta_c = beta / steps + (1 - 1 / steps) * gamma * mu / sigma
        tight = {"rtol": 1e-12, "atol": 1e-15}  # a few roundings of float64
        np.testing.assert_allclose(new["norm2"]["bias"], beta_c, **tight)
        for layer in ("conv2", "head"):
            np.testing.assert_allclose(
                new[layer]["bias"], old[layer]["bias"] / steps, **tight
            )
        paths = [f"params/{layer}/bias" for layer in ("conv2", "head", "norm2")]
        assert [shift.path for shift in report.changed] == paths
        largest = np.max(np.abs(beta_c - beta))
        assert report.changed[2].largest_change == pytest.approx(largest)


@pytest.mark.parametrize("network", NETWORKS)
def test_only_biases_change_and_the_tree_stays(network):
    apply_fn, variables, x = build(network)
    converted, report = convert(apply_fn, variables, x, steps=4)
    before = jax.tree_util.tree_leaves_with_path(variables)
    after = jax.tree_util.tree_leaves_with_path(converted)
    changed = {shift.path for shift in report.changed}
    assert changed
    for (path, old), (same_path, new) in zip(before, after, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert path == same_path and old.shape == new.shape and old.dtype == new.dtype
        if name not in changed:
            assert old is new
        else:
            assert name.rsplit("/")[-1] in ("bias", "offset")


def test_one_step_changes_no_value():
    apply_fn, variables, x = build(Residual)
    converted, _ = convert(apply_fn, variables, x, steps=1)
    jax.tree.map(np.testing.assert_array_equal, variables, converted)


def test_shapes_are_enough_of_an_example():
    apply_fn, variables, x = build(Residual)
    shape = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    one = convert(apply_fn, variables, shape, steps=4)
    other = convert(apply_fn, variables, x, steps=4)
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)
    assert one.report.neurons[0].shape[0] == 1


def test_report_lists_neurons_and_says_whether_their_codes_fit():
    apply_fn, variables, x = build(Scanned)
    report = convert(apply_fn, variables, x, steps=4).report
    assert len(report.neurons) == 7  # one, and two in each of three scanned layers
    assert report.lossless
    assert not convert(apply_fn, variables, x, steps=3).report.lossless
    assert report.neurons[0].theta == variables["params"]["QCFS_0"]["theta"]


def test_a_bias_that_meets_spikes_and_analog_values_is_an_error():
    apply_fn, variables, x = build_pure()
    with pytest.raises(SpikingError, match='^b is used .* bias_shift="auto"'):
        convert(apply_fn, variables, x, steps=4)


def test_a_shared_module_fed_by_both_names_its_bias():
    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.Dense(3, name="twice")
            return dense(QCFS()(dense(x)))

    apply_fn, variables, x = build(Both)
    with pytest.raises(SpikingError, match="params/twice/bias is used in .*twice"):
        convert(apply_fn, variables, x, steps=4)


def no_bias_behind(x):
    x = QCFS()(nn.Dense(4)(x))
    return QCFS()(nn.BatchNorm(use_running_average=True, use_bias=False)(x))


def at_the_output(x):
    return 1.0 + nn.Dense(3, use_bias=False)(QCFS()(nn.Dense(4)(x)))


def varies_over_places(x):
    x = QCFS()(nn.Conv(4, (3, 3))(x))
    x = nn.BatchNorm(use_running_average=True, use_bias=False)(x)
    return nn.Conv(3, (3, 3))(x)  # zero padding meets the mean that was subtracted


@pytest.mark.parametrize(
    "tail, words",
    [
        (no_bias_behind, "on the way to QCFS_1"),
        (at_the_output, "on the way to the output"),
        (varies_over_places, "params/Conv_1/bias would differ from place to place"),
    ],
)
def test_a_constant_that_no_bias_can_take_up_is_an_error(tail, words):
    class Tail(nn.Module):
        @nn.compact
        def __call__(self, x):
            return tail(x)

    apply_fn, variables, x = build(Tail)
    with pytest.raises(SpikingError, match=words) as error:
        convert(apply_fn, variables, x, steps=4)
    assert 'bias_shift="auto"' in str(error.value)


def test_a_literal_offset_is_taken_up_by_the_next_bias():
    def apply_fn(v, x):
        return (qcfs(x, 1.0) + 0.5) @ v["w"] + v["b"]

    v = {"w": jnp.array([[1.0], [2.0]]), "b": jnp.array([4.0])}
    converted, _ = convert(apply_fn, v, jnp.zeros((1, 2)), steps=2)
    # g(0) = 0.5 * 3 + 4 = 5.5; each of two steps must bring 2.75 of it, the literal
    # brings 1.5, which leaves 1.25 to the bias.
    assert converted["b"] == pytest.approx(1.25, abs=1e-6)


def analog(network, shape=(1, 8, 8, 3)):
    """The report's analog inputs: path, sources, shape of each."""
    x = jnp.zeros(shape)
    variables = jax.eval_shape(network.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), variables)
    report = convert(network.apply, variables, x, steps=4).report
    return [(layer.path, layer.sources, layer.shape) for layer in report.analog]


def test_a_linear_bottleneck_feeds_the_next_layer_with_analog_values():
    # Norms between them change nothing, and a skip adds what the block before sent.
    assert analog(Inverted()) == [
        ("Conv_4", ("Conv_3",), (1, 4, 4, 4)),
        ("Conv_7", ("Conv_3", "Conv_6"), (1, 4, 4, 4)),
    ]


def moved_and_summed(x):
    x = nn.Conv(6, (3, 3))(nn.Conv(6, (3, 3))(x))  # before all neurons
    spikes = QCFS()(x)
    pooled = nn.avg_pool(spikes, (3, 3), (1, 1), padding="SAME")
    both = jnp.concatenate([spikes, nn.max_pool(spikes, (1, 1)) - pooled / 2], axis=-1)
    both = nn.BatchNorm(use_running_average=True)(jnp.pad(both, ((0, 0),) * 4))
    currents = nn.Conv(6, (3, 3))(both[:, ::-1]) + x
    return nn.Dense(3)((QCFS()(currents) + spikes).mean((1, 2)))


def two_dense_layers(x):
    hidden = nn.Dense(4)(QCFS()(x).reshape(1, -1))
    return nn.Dense(3)(hidden)


def image_added_to_spikes(x):
    return nn.Conv(4, (3, 3))(x + QCFS()(x))


def image_times_spikes(x):
    return nn.Conv(4, (3, 3), use_bias=False)(x * QCFS()(x))


def shared_layer(x):
    layer = nn.Dense(3)
    return layer(layer(QCFS()(x)))


@pytest.mark.parametrize(
    "tail, found",
    [
        (moved_and_summed, []),
        (two_dense_layers, [("Dense_1", ("Dense_0",))]),
        (image_added_to_spikes, [("Conv_0", ("a value without time",))]),
        (image_times_spikes, [("Conv_0", ("a value without time",))]),
        (shared_layer, [("Dense_0@2", ("Dense_0",))]),
    ],
)
def test_analog_inputs_are_those_that_are_no_sums_of_spikes(tail, found):
    class Tail(nn.Module):
        @nn.compact
        def __call__(self, x):
            return tail(x)

    assert [layer[:2] for layer in analog(Tail())] == found


@pytest.mark.parametrize("network", [Residual, Scanned, Shared])
def test_where_neurons_stand_between_all_layers_no_input_is_analog(network):
    assert analog(network()) == []


ACTIVATIONS = {
    "where": lambda x: jnp.where(x > 0, x, 0.0),
    "mask": lambda x: x * (x > 0),
    "silu": nn.silu,
    "leaky": nn.leaky_relu,
    "gelu": nn.gelu,
    "max_pool": lambda x: nn.max_pool(x, (2, 2), (1, 1), "SAME"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_works_on_real_numbers_in_front_of_the_neurons_is_listed(name):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3), name="first")(x / 128 - 1)
            for i in range(2):
                x = ACTIVATIONS[name](nn.Conv(4, (3, 3), name=f"fed_{i}")(x))
            x = QCFS()(nn.Conv(4, (3, 3), name="fed_2")(x))
            return nn.Dense(3, name="last")(x.mean((1, 2)))

    model, x = Net(), jnp.ones((1, 8, 8, 3))
    variables = model.init(jax.random.key(0), x)
    report = convert(model.apply, variables, x, steps=4).report
    assert report.nonspiking and {n.path for n in report.nonspiking} == {"Net"}
    # What the image alone reaches is not fed by them, nor is what spikes reach.
    assert [layer.path for layer in report.analog] == ["fed_1", "fed_2"]
    assert all("` in Net" in s for layer in report.analog for s in layer.sources)


def test_a_table_and_a_mask_of_integers_are_data():
    def apply_fn(v, tokens):
        x = jnp.where((tokens > 0)[..., None], v["table"][tokens], 0.0)
        return qcfs(x @ v["w"], 1.0) @ v["w"]

    v = {"table": jnp.ones((5, 3)), "w": jnp.ones((3, 3))}
    report = convert(apply_fn, v, jnp.zeros((1, 4), int), steps=4).report
    assert (report.nonspiking, report.analog) == ([], [])


WRONG = (-0.3, 0.0, float("nan"), float("inf"))


@pytest.mark.parametrize("theta", WRONG)
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_threshold_that_is_not_positive_is_an_error_with_its_layer(
    theta, per_channel
):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = QCFS(per_channel=per_channel)(nn.Dense(3)(x))
            return x

    model, x = Net(), jnp.ones((1, 3))
    variables = jax.tree.map(np.array, model.init(jax.random.key(0), x))
    variables["params"]["QCFS_1"]["theta"][...] = theta
    for call in (
        lambda: convert(model.apply, variables, x, steps=4),
        lambda: spiking(model.apply, steps=4)(variables, x),
        lambda: spiking(model.apply, steps=4, mode="fused")(variables, x),
        lambda: verify(model.apply, variables, x, steps=4),
        lambda: verify(model.apply, variables, x, steps=4, bias_shift="auto"),
    ):
        with pytest.raises(ValueError, match="theta of QCFS_1 must be positive and"):
            call()


def test_a_variance_below_zero_gives_no_bias():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = QCFS()(nn.Dense(3)(x))
            return QCFS()(nn.BatchNorm(use_running_average=True)(nn.Dense(3)(x)))

    model, x = Net(), jnp.ones((1, 3))
    variables = jax.tree.map(np.array, model.init(jax.random.key(0), x))
    variables["batch_stats"]["BatchNorm_0"]["mean"][1] = 1
    variables["batch_stats"]["BatchNorm_0"]["var"][1] = -1
    with pytest.raises(ValueError, match="BatchNorm_0/bias would not be finite in Net"):
        convert(model.apply, variables, x, steps=4)


def test_an_empty_example_is_an_error():
    apply_fn, variables, x = build(Residual)
    with pytest.raises(ValueError, match="example must not be empty"):
        convert(apply_fn, variables, x[:0], steps=4)
