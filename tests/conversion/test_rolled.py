"""Time as a loop: the same codes, in a program that does not grow with T."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from networks import (
    NETWORKS,
    Inverted,
    ManyInputsAndOutputs,
    MultilayerPerceptron,
    PreActivation,
    Residual,
    build,
)

from bitsnn_jax import QCFS, convert, qcfs, spiking
from bitsnn_jax.config import Model
from bitsnn_jax.conversion.readings import Stepped, run
from bitsnn_jax.conversion.rolled import Rolled
from bitsnn_jax.models import build_model
from bitsnn_jax.models.resnet import ResNet


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@functools.cache
def watched(reading_type):
    class Watched(reading_type):
        """Keeps membranes and codes."""

        def __init__(self, **options):
            super().__init__(**options)
            self.seen = {}

        def observe(self, site, membrane, code, delta):
            super().observe(site, membrane, code, delta)
            self.seen[site.path] = membrane, code

    return Watched


def both(apply_fn, variables, x, **options):
    """(output, path -> (membrane, code), counts), unrolled and rolled; the reading."""
    results = []
    for reading_type in (Stepped, Rolled):
        reading = watched(reading_type)(**options)

        def simulate(variables, x, reading=reading):
            output = run(reading, apply_fn, variables, x)
            return output, reading.seen, reading.stats()

        results.append(jax.jit(simulate)(variables, x))
    return *results, reading


def assert_same_codes(unrolled, rolled, atol):
    (output, seen, counts), (rolled_output, rolled_seen, rolled_counts) = (
        unrolled,
        rolled,
    )
    for path, (membrane, code) in seen.items():
        np.testing.assert_array_equal(rolled_seen[path][1], code, err_msg=path)
        np.testing.assert_allclose(rolled_seen[path][0], membrane, rtol=0, atol=atol)
    jax.tree.map(np.testing.assert_array_equal, rolled_counts, counts)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol),
        rolled_output,
        output,
    )


QUICK = (PreActivation, ManyInputsAndOutputs)


@pytest.mark.parametrize(
    "network",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS],
)
def test_every_code_is_that_of_the_unrolled_network(network, x64):
    apply_fn, variables, x = build(network)
    *pair, _ = both(apply_fn, variables, x, steps=3, bias_shift="auto")
    # Some thousand terms of order 1, added in another order.
    assert_same_codes(*pair, atol=1e-11)


@pytest.mark.parametrize("steps", [1, 9])
def test_with_shifted_parameters_and_other_steps_too(steps, x64):
    apply_fn, variables, x = build(MultilayerPerceptron)
    variables = convert(apply_fn, variables, x, steps=steps).variables
    *pair, _ = both(apply_fn, variables, x, steps=steps)
    assert_same_codes(*pair, atol=0)  # no current is shared, so that nothing differs


def test_in_float32_too_every_code_is_the_same():
    apply_fn, variables, x = build(Inverted)
    *pair, _ = both(apply_fn, variables, x, steps=4, bias_shift="auto")
    assert_same_codes(*pair, atol=1e-5)


def synapses(jaxpr):
    """How often a convolution or product is done: in a loop, at each iteration."""
    count = 0
    for eqn in jaxpr.eqns:
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        count += eqn.primitive.name in ("conv_general_dilated", "dot_general")
        for value in eqn.params.values():
            if hasattr(value, "jaxpr"):
                count += times * synapses(value.jaxpr)
    return count


def test_no_synapse_works_twice_on_a_step():
    apply_fn, variables, x = build(PreActivation)

    def count(**options):
        snn_fn = spiking(apply_fn, steps=5, bias_shift="auto", **options)
        return synapses(jax.make_jaxpr(snn_fn)(variables, x).jaxpr)

    assert count(unroll=False) == count()


@pytest.mark.parametrize("network, shared", [(Residual, 0), (PreActivation, 2)])
def test_only_a_current_that_skips_neurons_is_kept(network, shared):
    apply_fn, variables, x = build(network)
    *_, reading = both(apply_fn, variables, x, steps=2, bias_shift="auto")
    assert len(reading.shared) == shared


def test_a_current_that_is_decoded_twice_is_added_up_once(x64):
    def apply_fn(v, x):
        current = qcfs(x, 2.0) @ v["w"]
        return jax.nn.softmax(current), current, qcfs(current, 1.0) @ v["w"]

    v, x = {"w": jnp.eye(3) / 2}, jax.random.normal(jax.random.key(0), (4, 3))
    options = {"steps": 4, "nonspiking": "decode"}
    *pair, reading = both(apply_fn, v, x, **options)
    assert_same_codes(*pair, atol=1e-14)
    assert len(reading.shared) == 1
    rolled = jax.make_jaxpr(spiking(apply_fn, unroll=False, **options))(v, x)
    assert synapses(rolled.jaxpr) == 2 * 4


def test_vmap_and_pmap_give_what_one_call_gives(x64):
    apply_fn, variables, x = build(MultilayerPerceptron)
    snn_fn = spiking(apply_fn, steps=4, bias_shift="auto", unroll=False)
    output, stats = jax.jit(snn_fn)(variables, x)
    one_by_one = jax.jit(jax.vmap(snn_fn, in_axes=(None, 0)))
    devices = jax.pmap(snn_fn, in_axes=(None, 0))
    for fn in (one_by_one, devices):
        each_output, each = fn(variables, x[:, None])
        # The order of a product's sums may depend on the size of the batch.
        np.testing.assert_allclose(each_output[:, 0], output, rtol=0, atol=1e-12)
        for path, spikes in stats.spikes.items():
            np.testing.assert_array_equal(each.spikes[path].sum(0), spikes)


def with_skip(v, x):
    """A current that feeds neurons and skips them."""
    current = qcfs(x @ v["w"], 2.0) @ v["w"]
    return qcfs(current + qcfs(current, 2.0) @ v["w"], 2.0) @ v["w"]


def test_under_shard_map_it_is_what_it_is_alone():
    v, x = {"w": jnp.eye(3) / 2}, jnp.arange(24.0).reshape(8, 3)
    snn_fn = spiking(with_skip, steps=4, unroll=False)
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    specs = {"in_specs": (P(), P("batch")), "out_specs": P("batch")}
    shared = jax.shard_map(lambda v, x: snn_fn(v, x)[0], mesh=mesh, **specs)
    np.testing.assert_array_equal(jax.jit(shared)(v, x), jax.jit(snn_fn)(v, x)[0])


def test_gradients_are_zero():
    v, x = {"w": jnp.eye(3) / 2}, jnp.arange(24.0).reshape(8, 3)
    snn_fn = spiking(with_skip, steps=2, unroll=False)
    gradient = jax.grad(lambda v: snn_fn(v, x)[0].sum())(v)
    assert not np.any(gradient["w"])


def sizes(apply_fn, variables, x, steps):
    """(lines of the program as written, of the compiled one; bytes of temporaries)."""
    snn_fn = spiking(apply_fn, steps=steps, bias_shift="auto", unroll=False)
    lowered = jax.jit(snn_fn).lower(variables, x)
    compiled = lowered.compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    texts = lowered.as_text(), compiled.as_text()
    return np.array([*(text.count("\n") for text in texts), temporaries])


def assert_sizes_do_not_grow(apply_fn, variables, x):
    each = [sizes(apply_fn, variables, x, steps) for steps in (4, 8, 16)]
    assert np.all(np.max(each, 0) <= 1.1 * np.min(each, 0)), each


def image_network(model, size):
    x = jax.random.normal(jax.random.key(0), (4, size, size, 3))
    variables = model.init(jax.random.key(1), x[:1], train=False)
    return lambda v, x: model.apply(v, x, train=False), variables, x


def test_program_and_temporaries_do_not_grow_with_time():
    norm = functools.partial(nn.BatchNorm, axis_name=None)
    narrow = ResNet((1, 1), (4, 8), num_classes=3, act=QCFS, norm=norm)
    assert_sizes_do_not_grow(*image_network(narrow, 16))


@pytest.mark.slow
def test_those_of_resnet20_do_not_grow_either():
    model = build_model(Model(name="resnet20"), image_shape=(32, 32, 3))
    assert_sizes_do_not_grow(*image_network(model, 32))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [4, 8, 16])
def test_every_code_of_resnet20_is_that_of_the_unrolled_network(steps):
    model = build_model(Model(name="resnet20", theta_init=4.0), image_shape=(32, 32, 3))
    apply_fn, variables, x = image_network(model, 32)
    *pair, _ = both(apply_fn, variables, x, steps=steps, bias_shift="auto")
    assert_same_codes(*pair, atol=0)  # no current is shared: not even rounding differs
