"""The spiking reading: exact on any network, the same in every mode and under jit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from networks import NETWORKS, Inverted, Pooling, Residual, build, build_pure

from bitsnn_jax import (
    QCFS,
    SpikingError,
    codes,
    convert,
    qcfs,
    spike_planes,
    spiking,
    verify,
)
from bitsnn_jax.conversion.readings import OneShot, Stepped, run

STEPS = (1, 2, 3, 4, 6, 8)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    "steps_of_all", [(1, 3, 8), pytest.param((2, 4, 6), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_code_of_an_oddly_built_network_survives(network, steps_of_all, x64):
    apply_fn, variables, x = build(network)
    for steps in steps_of_all:
        certificate = verify(apply_fn, variables, x, steps=steps)
        assert certificate.exact, f"T = {steps}\n{certificate}"
        # Sums in another order, over at most some thousand terms of order 1.
        assert certificate.largest_output_difference < 1e-11


@pytest.mark.parametrize("network", [Residual, Inverted])
def test_shifting_on_the_way_equals_shifting_the_parameters(network, x64):
    apply_fn, variables, x = build(network)
    certificate = verify(apply_fn, variables, x, steps=4, bias_shift="auto")
    assert certificate.exact, certificate


def test_a_pure_function_is_read_without_a_module(x64):
    apply_fn, variables, x = build_pure()
    assert verify(apply_fn, variables, x, steps=4, bias_shift="auto").exact


def test_fused_output_is_that_of_the_ann_at_the_trained_steps(x64):
    apply_fn, variables, x = build(Residual)
    output, _ = jax.jit(spiking(apply_fn, steps=4, mode="fused"))(variables, x)
    np.testing.assert_array_equal(output, jax.jit(apply_fn)(variables, x))


@pytest.mark.parametrize("steps", STEPS)
def test_fused_counts_the_spikes_that_stepped_emits(steps, x64):
    apply_fn, variables, x = build(Residual)
    converted, _ = convert(apply_fn, variables, x, steps=steps)
    _, stepped = jax.jit(spiking(apply_fn, steps=steps))(converted, x)
    _, fused = jax.jit(spiking(apply_fn, steps=steps, mode="fused"))(variables, x)
    assert list(stepped.spikes) == list(fused.spikes)
    jax.tree.map(np.testing.assert_array_equal, stepped, fused)


def test_stats_count_every_spike_of_every_neuron(x64):
    class Seen(Stepped):
        def observe(self, site, membrane, code, delta):
            super().observe(site, membrane, code, delta)
            counted.append((site, np.asarray(spike_planes(code, steps=3))))

    apply_fn, variables, x = build(Residual)
    counted, reading = [], Seen(steps=3)
    run(reading, apply_fn, variables, x)
    stats = reading.stats()
    for site, spikes in counted:
        total = spikes.reshape(3, -1).sum(1)
        np.testing.assert_array_equal(stats.spikes[site.path], total)
        assert stats.neurons[site.path] == spikes[0].size
    total = sum(s.sum() for _, s in counted) / sum(s[0].size for _, s in counted)
    assert stats.spikes_per_neuron == pytest.approx(total, rel=1e-12)
    twice = stats + stats
    assert twice.spikes_per_neuron == pytest.approx(total, rel=1e-12)


def test_neurons_are_named_after_their_modules():
    apply_fn, variables, x = build(Residual)
    report = convert(apply_fn, variables, x, steps=4).report
    owners = {f"QCFS_{i}" for i in range(4)}
    assert {n.path for n in report.neurons} == owners
    assert owners == {name for name in variables["params"] if "QCFS" in name}


def test_calls_of_one_module_are_told_apart():
    act = QCFS()

    def apply_fn(variables, x):
        return act.apply(variables, act.apply(variables, x))

    variables = act.init(jax.random.key(0), jnp.zeros((1, 2)))
    _, stats = spiking(apply_fn, steps=4)(variables, jnp.ones((1, 2)))
    assert list(stats.spikes) == ["QCFS", "QCFS@2"]


def test_vmap_and_pmap_give_what_one_call_gives(x64):
    apply_fn, variables, x = build(Residual)
    snn_fn = spiking(apply_fn, steps=4)
    output, stats = jax.jit(snn_fn)(variables, x)
    one_by_one = jax.jit(jax.vmap(snn_fn, in_axes=(None, 0)))
    devices = jax.pmap(snn_fn, in_axes=(None, 0))
    for fn in (one_by_one, devices):
        each_output, each = fn(variables, x[:, None])
        # The order of a convolution's sums may depend on the size of the batch.
        np.testing.assert_allclose(each_output[:, 0], output, rtol=0, atol=1e-12)
        for path, spikes in stats.spikes.items():
            np.testing.assert_array_equal(each.spikes[path].sum(0), spikes)
        assert each.spikes_per_neuron == pytest.approx(stats.spikes_per_neuron)


def test_sharded_input_stays_exact(x64):
    apply_fn, variables, x = build(Residual)
    mesh = jax.make_mesh((4,), ("batch",))
    spread = jax.NamedSharding(mesh, jax.P("batch"))
    output, stats = jax.jit(spiking(apply_fn, steps=4))(variables, x)
    same, spread_stats = jax.jit(spiking(apply_fn, steps=4))(
        variables, jax.device_put(x, spread)
    )
    np.testing.assert_allclose(same, output, rtol=0, atol=1e-12)  # another sum order
    jax.tree.map(np.testing.assert_array_equal, stats, spread_stats)


def test_sixteen_levels_lose_exactly_the_saturated_neurons(x64):
    def apply_fn(variables, x):
        return qcfs(x, variables["theta"], levels=16)

    x = jnp.linspace(-1, 3, 1000)
    variables = {"theta": jnp.array(2.0)}
    certificate = verify(apply_fn, variables, x, steps=4)
    saturated = int((codes(x, 2.0, levels=16) == 16).sum())
    assert 0 < certificate.differing == saturated < x.size
    assert verify(apply_fn, variables, x, steps=5).exact  # 31 levels at T = 5


def test_convolutions_ask_for_the_highest_precision_unless_told():
    apply_fn, variables, x = build(Residual)

    def precisions(**options):
        program = jax.make_jaxpr(spiking(apply_fn, steps=2, **options))(variables, x)
        eqns = program.jaxpr.eqns
        return {str(e.params["precision"]) for e in eqns if "conv_" in e.primitive.name}

    assert all("HIGHEST" in p for p in precisions())
    assert precisions(precision=None) == {"None"}


# What has no spiking form: name -> (network after the neurons, words of the error).
CURRENT = {
    "softmax": (lambda x: nn.softmax(nn.Dense(3)(x)), "`exp`|`reduce_max`"),
    "layer_norm": (lambda x: nn.LayerNorm()(x), "`square`|`mul`"),
    "product": (lambda x: nn.Dense(3)(x) * nn.Dense(3)(x), "`mul` .current, current"),
    "relu": (lambda x: nn.relu(nn.Dense(3)(x)), "`max`"),
    "divisor": (lambda x: 1 / (nn.Dense(3)(x) + 3), "`div`"),
    "maximum_of_a_current": (lambda x: nn.Dense(3)(x).max(-1), "`reduce_max`"),
    "maximum_across_thresholds": (
        lambda x: QCFS(per_channel=True)(nn.Dense(3)(x)).max(-1),
        "`reduce_max`",
    ),
    "rounding": (lambda x: nn.Dense(3)(x).astype(jnp.int32), "`convert_element_type`"),
    "threshold": (lambda x: x[..., :3] > 1, "`gt`"),
}


def network_with(tail):
    class WithTail(nn.Module):
        @nn.compact
        def __call__(self, x):
            return tail(QCFS(theta_init=2.0)(nn.Dense(4)(x)))

    model = WithTail()
    x = jax.random.normal(jax.random.key(1), (4, 4))
    variables = model.init(jax.random.key(0), x)
    return lambda v, x: model.apply(v, x), variables, x


@pytest.mark.parametrize("tail, words", CURRENT.values(), ids=CURRENT.keys())
def test_what_cannot_spike_is_an_error_with_its_module(tail, words):
    apply_fn, variables, x = network_with(tail)
    for call in (spiking(apply_fn, steps=4), lambda v, x: convert_(apply_fn, v, x)):
        with pytest.raises(SpikingError, match=words) as error:
            call(variables, x)
        assert "WithTail" in str(error.value) and "decode" in str(error.value)
        assert "\n" not in str(error.value)


def convert_(apply_fn, variables, x):
    return convert(apply_fn, variables, x, steps=4)


def test_decoding_computes_on_the_sum_over_time_and_is_reported(x64):
    def tail(x):
        return nn.Dense(3)(QCFS()(nn.softmax(nn.Dense(4)(x))))

    apply_fn, variables, x = network_with(tail)
    assert verify(apply_fn, variables, x, steps=4, nonspiking="decode").exact
    conversion = convert(apply_fn, variables, x, steps=4, nonspiking="decode")
    assert "exp" in {n.operation for n in conversion.report.nonspiking}
    changed = [shift.path for shift in conversion.report.changed]
    assert changed == ["params/Dense_1/bias", "params/Dense_2/bias"]


def test_neurons_inside_control_flow_are_an_error():
    def apply_fn(theta, x):
        return jax.lax.fori_loop(0, jnp.int32(x[0]), lambda _, x: qcfs(x, theta), x)

    with pytest.raises(SpikingError, match="QCFS inside `while`"):
        spiking(apply_fn, steps=4)(jnp.array(1.0), jnp.ones(3))


def test_a_threshold_that_depends_on_the_input_is_an_error():
    with pytest.raises(SpikingError, match="theta of .* depends on the input"):
        spiking(lambda v, x: qcfs(x, x.max()), steps=4)({}, jnp.ones(3))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.0}, "steps must be a whole number"),
        ({"steps": 31}, "at most 30"),
        ({"steps": 4, "mode": "rate"}, "mode must be one of stepped, fused"),
        ({"steps": 4, "bias_shift": "no"}, "bias_shift must be one of"),
        ({"steps": 4, "nonspiking": "skip"}, "nonspiking must be"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        spiking(lambda v, x: qcfs(x, v), **options)(jnp.array(1.0), jnp.ones(3))


def test_more_bits_than_the_float_has_are_an_error():
    with pytest.raises(ValueError, match="at most 24 for float32"):
        spiking(lambda v, x: qcfs(x, v), steps=25)(jnp.array(1.0), jnp.ones(3))


def test_without_saturation_the_one_shot_reading_is_the_ann():
    x, theta = jnp.linspace(-1, 3, 100), jnp.array(2.0)

    def apply_fn(theta, x):
        return qcfs(x, theta, levels=16)

    output = run(OneShot(steps=4, saturate=False), apply_fn, theta, x)
    np.testing.assert_array_equal(output, apply_fn(theta, x))


@pytest.mark.parametrize("mode", ["stepped", "fused"])
def test_thresholds_of_channels_need_no_rank_promotion(mode):
    apply_fn, variables, x = build(Pooling)
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(spiking(apply_fn, steps=4, mode=mode), variables, x)


def test_memory_does_not_grow_with_depth():
    class Plain(nn.Module):
        depth: int

        @nn.compact
        def __call__(self, x):
            for _ in range(self.depth):
                x = QCFS()(nn.Conv(8, (3, 3))(x))
            return x.mean((1, 2))

    def temporaries(depth):
        model, x = Plain(depth), jnp.zeros((8, 16, 16, 8))
        variables = model.init(jax.random.key(0), x)
        snn_fn = spiking(lambda v, x: model.apply(v, x), steps=4)
        compiled = jax.jit(snn_fn).lower(variables, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # One layer's currents live at a time; a page or two of counters may come on top.
    assert temporaries(24) < 1.1 * temporaries(6)


def squared(v, x):
    half = jax.lax.rsqrt(jnp.float32(4.0))  # a number that meets what devices share out
    return qcfs(qcfs(x @ v["w"], 2.0) @ v["w"] * 2 * half, 2.0) @ v["w"]


@pytest.mark.parametrize(
    "mode", [pytest.param("stepped", marks=pytest.mark.slow), "fused"]
)
def test_under_shard_map_it_is_what_it_is_alone(mode):
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    v = {"w": jnp.eye(3) / 2}
    x = jnp.arange(24.0).reshape(8, 3)
    snn = spiking(squared, steps=4, mode=mode)
    specs = {"in_specs": (P(), P("batch")), "out_specs": P("batch")}
    shared = jax.shard_map(lambda v, x: snn(v, x)[0], mesh=mesh, **specs)
    np.testing.assert_array_equal(shared(v, x), snn(v, x)[0])


def test_an_exported_function_gives_logits_and_counts():
    v, x = {"w": jnp.eye(3) / 2}, jnp.ones((2, 3))
    snn = jax.jit(spiking(squared, steps=4))
    again = export.deserialize(export.export(snn)(v, x).serialize())
    jax.tree.map(np.testing.assert_array_equal, again.call(v, x), snn(v, x))
