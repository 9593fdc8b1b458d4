"""Methods that go on from a trained network: their neurons, and where they start."""

import dataclasses
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bitsnn_jax.config import Config, Data, Direct, Model, Optimizer, to_dict
from bitsnn_jax.direct import METHODS, Spiking
from bitsnn_jax.numerics.qcfs import codes, qcfs
from bitsnn_jax.numerics.spikes import spike_planes
from bitsnn_jax.runs.checkpoint import Checkpoints, Run, load_run
from bitsnn_jax.tasks import task_of
from bitsnn_jax.training import train_and_evaluate
from bitsnn_jax.training.optimizer import sgd
from bitsnn_jax.training.setup import set_up
from bitsnn_jax.training.spiking_start import into_neurons
from bitsnn_jax.training.validation import validate

SHAPE = (6, 6, 1)
STEPS = 4


def settings(activation, method="", **fields):
    return Config(
        name=method or activation,
        steps=STEPS,
        start_from="runs/source" if method else "",
        data=Data(name="digits", eval_batch_size=180),
        model=Model(name="small", activation=activation, **fields),
        optimizer=Optimizer(learning_rate=0.01, epochs=1),
        direct=Direct(method=method),
    )


def random_variables(config, theta=1.0, dtype=np.float64, shape=SHAPE):
    model = task_of(config).build(config, shape)
    x = np.zeros((1, *shape), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    rng = np.random.default_rng(3)

    def leaf(path, like):
        name = path[-1].key
        if name in (known := {"theta": theta, "leak": 1.0}):
            return np.asarray(known[name], dtype)
        low, high = (0.3, 1) if name in ("var", "scale") else (-0.4, 0.5)
        return rng.uniform(low, high, like.shape).astype(dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def started(source, wanted, batches=()):
    """The variables of a run, and those that training through time begins with."""
    run = Run(source, random_variables(source), 7, {})
    target = random_variables(wanted, theta=8.0)
    variables = into_neurons(run, target, wanted, SHAPE, lambda: batches)
    return run.variables, variables


def images(n=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *SHAPE))


def test_bit_serial_neurons_send_the_bits_of_the_code_of_the_mean_current():
    rng = np.random.default_rng(0)
    currents = rng.normal(0.4, 0.8, size=(STEPS, 5, 7))
    theta = 1.1
    neuron = METHODS["bit_serial"].neuron(1.0)
    with jax.enable_x64(True):
        fired = neuron(jnp.asarray(currents), {"theta": jnp.asarray(theta)})
        k = codes(jnp.asarray(currents.mean(0)), theta)
        np.testing.assert_array_equal(fired.spikes, spike_planes(k, steps=STEPS))
    delta = theta / (2**STEPS - 1)
    u = currents.mean(0) + delta / 2
    for t in range(1, STEPS + 1):
        np.testing.assert_allclose(fired.membranes[t - 1], u, atol=1e-14)
        worth = delta * 2 ** (STEPS - t)
        s = u >= worth
        u = u - s * worth
        np.testing.assert_allclose(fired.values[t - 1], STEPS * worth * s)


def test_the_gradient_through_all_bits_is_that_of_the_quantised_activation():
    rng = np.random.default_rng(1)
    currents = rng.normal(0.4, 0.8, size=(STEPS, 40))
    g = rng.normal(size=40)
    neuron = METHODS["bit_serial"].neuron(1.0)

    def through_time(currents, theta):
        return g @ neuron(currents, {"theta": theta}).values.mean(0)

    def without(currents, theta):
        return g @ qcfs(currents.mean(0), theta)

    with jax.enable_x64(True):
        at = jnp.asarray(currents), jnp.asarray(1.1)
        found, wanted = (
            jax.jit(jax.grad(f, (0, 1)))(*at) for f in (through_time, without)
        )
        jax.tree.map(np.testing.assert_allclose, found, wanted)


def loop_and_gradients(x, g, theta, leak, v_init, *, detached, height, slope):
    """Soft reset, step by step, forward and then backward."""
    steps, v, us, before, trains = len(x), np.full(x.shape[1:], v_init), [], [], []
    for t in range(steps):
        before.append(v)
        u = leak * v + x[t]
        s = (u >= theta).astype(float)
        v = u - theta * s
        us.append(u)
        trains.append(s)
    to = {"x": np.zeros_like(x), "theta": 0.0, "leak": 0.0}
    to_v = np.zeros(x.shape[1:])
    for t in reversed(range(steps)):
        u, s = us[t], trains[t]
        high = theta if height else 1.0
        to_s = g[t] * high - (0 if detached else theta * to_v)
        to_theta = (g[t] * s if height else 0) - to_v * s
        to_z = to_s * slope(u / theta - 1)
        to["theta"] += (to_theta - to_z * u / theta**2).sum()
        to_u = to_z / theta + to_v
        to["x"][t] = to_u
        to["leak"] += (to_u * before[t]).sum()
        to_v = leak * to_u
    to["v_init"] = to_v.sum()
    return np.stack(trains), to


@pytest.mark.parametrize(
    ("method", "numbers", "loop"),
    [
        (
            "diet_snn",
            {"theta": 0.8, "leak": 0.9},
            {
                "v_init": 0.0,
                "detached": True,
                "height": False,
                "slope": lambda z: 0.3 * np.maximum(0, 1 - abs(z)),
            },
        ),
        (
            "dual_phase",
            {"theta": 0.8, "v_init": 0.3},
            {
                "leak": 1.0,
                "detached": False,
                "height": True,
                "slope": lambda z: (abs(z) <= 0.5).astype(float),
            },
        ),
    ],
)
def test_neurons_of_hybrids_are_their_equations(method, numbers, loop):
    rng = np.random.default_rng(2)
    x, g = rng.normal(0.3, 0.6, size=(STEPS, 50)), rng.normal(size=(STEPS, 50))
    neuron = METHODS[method].neuron(1.0)
    assert neuron.trained.keys() == numbers.keys()
    with jax.enable_x64(True):

        @jax.jit
        def run(x, numbers):
            values, back = jax.vjp(lambda x, n: neuron(x, n).values, x, numbers)
            return values, *back(jnp.asarray(g))

        found, to_x, to_numbers = run(x, numbers)
    trains, wanted = loop_and_gradients(x, g, **numbers, **loop)
    high = numbers["theta"] if loop["height"] else 1.0
    np.testing.assert_allclose(found, high * trains)
    assert 0.1 < trains.mean() < 0.9
    np.testing.assert_allclose(to_x, wanted["x"], atol=1e-12)
    for name, value in to_numbers.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-9)


def with_activations(config, variables, x):
    """Outputs, and what each layer sows."""
    model = task_of(config).build(config, SHAPE)

    @jax.jit
    def run(variables):
        return model.apply(variables, x, train=False, mutable=["activations"])

    return jax.tree.map(np.asarray, run(variables))


def test_training_goes_on_from_the_outputs_and_codes_of_the_quantised_network():
    x, source, wanted = images(), settings("qcfs"), settings("spiking", "bit_serial")
    before, after = started(source, wanted)
    with jax.enable_x64(True):
        found, sown = with_activations(wanted, after, x)
        expected, coded = with_activations(source, before, x)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))
    for name in ("act_1", "act_2", "act_3"):
        (spikes,) = sown["activations"][name]["spikes"]
        ((a, theta),) = coded["activations"][name]["a"]
        k = np.round(a * (15 / theta)).astype(int)
        np.testing.assert_array_equal(spikes, spike_planes(k, steps=STEPS))
        assert 0 < spikes.mean() < 1


def currents_of(model, variables, x, numbers, *, train):
    """What each layer is fed if neurons have some numbers."""
    seen = {}

    def visit(call, args, kwargs, context):
        act = context.module
        if not isinstance(act, Spiking):
            return call(*args, **kwargs)
        z = args[0].reshape(act.steps, -1, *args[0].shape[1:])
        seen[act.name] = np.asarray(z)
        return act.neuron(z, numbers[act.name]).values.reshape(args[0].shape)

    with nn.intercept_methods(visit):
        model.apply(variables, x, train=train, mutable=["batch_stats"])
    return seen


def numbers_of(variables):
    return {name: variables["params"][name] for name in ("act_1", "act_2", "act_3")}


@pytest.mark.slow
def test_thresholds_of_diet_snn_are_percentiles_layer_by_layer():
    x, wanted = images(8), settings("spiking", "diet_snn")
    _, after = started(settings("relu"), wanted, [x.astype(np.float32)])
    model = task_of(wanted).build(dataclasses.replace(wanted, steps=20), SHAPE)
    unscaled = {
        name: {"theta": leaves["theta"] / 0.2, "leak": leaves["leak"]}
        for name, leaves in after["params"].items()
        if "leak" in leaves
    }
    assert len(unscaled) == 3
    for name, z in currents_of(model, after, x, unscaled, train=True).items():
        found = max(np.percentile(step, 99.7) for step in z)
        np.testing.assert_allclose(unscaled[name]["theta"], max(found, 1e-2), rtol=1e-4)
        assert after["params"][name]["leak"] == 1


@pytest.mark.slow
def test_initial_charges_of_dual_phase_make_up_for_what_a_layer_sends_too_little():
    x, source, wanted = images(20), settings("qcfs"), settings("spiking", "dual_phase")
    x = x.astype(np.float32)
    before, after = started(source, wanted, [x])
    model = task_of(wanted).build(wanted, SHAPE)
    _, coded = with_activations(source, before, x)
    numbers = numbers_of(after)
    for name, z in currents_of(model, after, x, numbers, train=False).items():
        theta = numbers[name]["theta"]
        assert theta == before["params"][name]["theta"]
        u, sent = np.full(z.shape[1:], theta / 2), 0
        for step in z:
            u = u + step
            s = u >= theta
            u, sent = u - theta * s, sent + theta * s / STEPS
        ((a, _),) = coded["activations"][name]["a"]
        v_init = theta / 2 + STEPS * (a.mean() - sent.mean())
        np.testing.assert_allclose(numbers[name]["v_init"], v_init, rtol=1e-4)


def digits(activation, method="", start_from=""):
    return dataclasses.replace(settings(activation, method), start_from=str(start_from))


def save_run(folder, config):
    """A run with random weights, as training saves it."""
    setup = set_up(config, folder)
    variables = random_variables(config, dtype=np.float32, shape=(8, 8, 1))
    optimizer = jax.tree.map(np.asarray, setup.optimizer.init(variables["params"]))
    metadata = {"config": to_dict(config), "image_shape": (8, 8, 1), "version": "0"}
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(
            7, variables=variables, optimizer=optimizer, progress={}, metadata=metadata
        )
    return variables


@pytest.mark.slow
def test_a_hybrid_run_begins_with_another_and_goes_on_without_it(tmp_path):
    source, folder = tmp_path / "qcfs", tmp_path / "run"
    save_run(source, digits("qcfs"))
    wanted = digits("spiking", "bit_serial", source)
    result = train_and_evaluate(wanted, folder)
    assert result["start"] == {"run": "qcfs", "step": 7, "version": "0"}
    shutil.rmtree(source)
    with pytest.raises(ValueError, match="is not a folder"):
        set_up(wanted, tmp_path / "another")
    set_up(wanted, folder)


def test_a_hybrid_run_of_an_activation_it_cannot_use_leaves_nothing(tmp_path):
    source, folder = tmp_path / "relu", tmp_path / "run"
    save_run(source, digits("relu"))
    words = r"goes on from a run with model.activation=qcfs or clipped_relu, got one"
    with pytest.raises(ValueError, match=words):
        train_and_evaluate(digits("spiking", "bit_serial", source), folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("method", "fields", "words"),
    [
        ("bit_serial", {"pool": "max"}, "model.pool must be one of average for direct"),
        ("diet_snn", {}, "goes on from a trained network: start_from must name a run"),
    ],
)
def test_what_a_hybrid_cannot_be_is_one_line(method, fields, words):
    wanted = settings("spiking", method, **fields)
    if not fields:
        wanted.start_from = ""
    with pytest.raises(ValueError, match=words) as caught:
        validate(wanted)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "activation"), [("diet_snn", "relu"), ("dual_phase", "qcfs")]
)
def test_other_hybrids_train(method, activation, tmp_path):
    save_run(tmp_path / "source", digits(activation))
    wanted = digits("spiking", method, tmp_path / "source")
    result = train_and_evaluate(wanted, tmp_path / "run")
    assert result["start"]["run"] == activation
    numbers = numbers_of(load_run(tmp_path / "run").variables)
    for leaves in numbers.values():
        assert leaves.get("leak", 1) <= 1
        assert leaves["theta"] > 0


def test_the_optimiser_keeps_leaks_at_one_or_below():
    optimizer = sgd(Optimizer(learning_rate=1.0, weight_decay=0.0), steps_per_epoch=9)
    params = {"act": {"leak": jnp.array(0.9), "w": jnp.array(0.9)}}
    grads = {"act": {"leak": jnp.array(-0.5), "w": jnp.array(-0.5)}}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)["act"]
    assert after["leak"] == 1
    assert after["w"] > 1
