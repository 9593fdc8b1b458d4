"""Evaluation counts every example once, on any number of devices."""

import dataclasses
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import config, data, spiking, verify
from bitsnn_jax.jobs.evaluation import evaluate, without_spikes
from bitsnn_jax.models import build_model
from bitsnn_jax.runs.loading import ann_fn
from bitsnn_jax.runtime.devices import AXIS, over_devices


@pytest.fixture(scope="module")
def network():
    """A small network of untrained weights, and the digits it is shown."""
    settings = config.Config(model=config.Model(name="small", theta_init=2.0))
    examples = data.load(settings.data, "test")
    apply_fn = ann_fn(settings, examples.image_shape)
    return apply_fn, filled(settings, examples.image_shape), examples


def filled(settings, image_shape):
    """Variables as a training run leaves them, in kind: no leaf at its default."""
    model = build_model(settings.model, image_shape=image_shape)
    images = jnp.zeros((1, *image_shape))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name in ("theta", "var", "scale"):
            return rng.uniform(0.7, 1.4, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if name == "kernel" else 25
        return rng.normal(0, fan_in**-0.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.mark.parametrize("batch_size", [360, 100, 7])
def test_every_example_counts_once(network, batch_size):
    apply_fn, variables, examples = network
    settings = config.Data(eval_batch_size=batch_size)
    found = evaluate(
        spiking(apply_fn, steps=4, mode="fused"), variables, settings, examples
    )
    images = data.normalise(examples.images, examples)
    logits, stats = jax.jit(spiking(apply_fn, steps=4, mode="fused"))(variables, images)
    guesses = np.argmax(logits, -1)
    np.testing.assert_array_equal(np.sort(found.predictions), np.sort(guesses))
    assert found.accuracy == pytest.approx(np.mean(guesses == examples.labels))
    assert list(found.stats.spikes) == list(stats.spikes)
    for path, neurons in stats.neurons.items():
        assert found.stats.neurons[path] == neurons
        np.testing.assert_array_equal(found.stats.spikes[path], stats.spikes[path])


def test_four_devices_see_what_one_sees(network, monkeypatch):
    apply_fn, variables, examples = network
    settings = config.Data(eval_batch_size=90)
    ann = without_spikes(apply_fn)
    four = evaluate(ann, variables, settings, examples)

    [first, *_] = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: [first])
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    one = evaluate(ann, variables, settings, examples)
    np.testing.assert_array_equal(one.predictions, four.predictions)
    assert one.accuracy == four.accuracy


@pytest.mark.parametrize(
    "name",
    [
        "small",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet20", "vgg16")),
    ],
)
def test_networks_of_the_zoo_are_exact_on_all_digits(name):
    model = config.Model(name=name, theta_init=2.0, width=0.25 if "16" in name else 1.0)
    settings = config.Config(model=model)
    examples = data.load(settings.data, "test")
    apply_fn = ann_fn(settings, examples.image_shape)
    variables = filled(settings, examples.image_shape)
    images = data.normalise(examples.images, examples)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (variables, images))
        certificate = verify(apply_fn, *wide, steps=4, batch_size=120)
    assert certificate.exact, certificate
    assert certificate.examples == 360
    spiking_layers = [layer.neurons for layer in certificate.layers.values()]
    assert len(spiking_layers) == {"small": 3, "resnet20": 19, "vgg16": 15}[name]


def test_some_examples_are_all_that_is_evaluated(network):
    apply_fn, variables, examples = network
    some = dataclasses.replace(
        examples, images=examples.images[:5], labels=examples.labels[:5]
    )
    found = evaluate(without_spikes(apply_fn), variables, config.Data(), some)
    assert len(found.predictions) == 5


def test_no_product_of_the_ann_is_rounded(network):
    """As GPUs and TPUs do by default; the spiking network's are not."""
    apply_fn, variables, examples = network
    image = jnp.zeros((1, *examples.image_shape))
    program = str(jax.make_jaxpr(apply_fn)(variables, image))
    products = program.count("conv_general_dilated[") + program.count("dot_general[")
    assert products == program.count("Precision.HIGHEST, Precision.HIGHEST") == 4


def programs():
    gc.collect()
    return len(jax.devices()[0].client.live_executables())


def test_a_network_that_is_evaluated_again_is_not_compiled_again(network):
    apply_fn, variables, examples = network
    ann, some = without_spikes(apply_fn), examples.first(20)
    found = evaluate(ann, variables, config.Data(), some, repeats=1)
    before = programs()
    ann = without_spikes(apply_fn)  # another object of the same function
    again = evaluate(ann, variables, config.Data(), some, repeats=1)
    assert programs() == before
    np.testing.assert_array_equal(again.predictions, found.predictions)


def test_what_was_compiled_for_other_networks_is_let_go(network):
    apply_fn, variables, examples = network
    counts = []
    for _ in range(8):
        ann = without_spikes(lambda v, x: apply_fn(v, x))  # another one each time
        evaluate(ann, variables, config.Data(), examples.first(20), repeats=1)
        counts.append(programs())
    assert max(counts[4:]) == counts[3]  # four are kept


def test_a_mapped_function_takes_its_program_with_it():
    before = programs()
    for _ in range(3):
        mapped = over_devices(lambda x: x + jax.lax.psum(x, AXIS))
        n = jax.local_device_count()
        np.testing.assert_array_equal(mapped(np.ones(n)), np.full(n, 1.0 + n))
        del mapped
    assert programs() <= before + 1
