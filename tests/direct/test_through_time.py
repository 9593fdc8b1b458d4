"""Laws of every network that is trained through time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.config import Config, Direct, Model
from bitsnn_jax.direct.neurons import IntegrateAndFire, decay
from bitsnn_jax.direct.spiking import SharedDropout
from bitsnn_jax.direct.surrogates import evolving, surrogate
from bitsnn_jax.models import build_model
from bitsnn_jax.tasks import task_of

SHAPE = (6, 6, 1)


def network(steps=3, **direct):
    settings = Config(
        steps=steps,
        model=Model(name="small", activation="spiking"),
        direct=Direct(**{"method": "stbp", **direct}),
    )
    return task_of(settings).build(settings, SHAPE)


def test_parameters_have_the_names_of_the_network_itself():
    x = jnp.zeros((1, *SHAPE))
    through_time = jax.eval_shape(
        lambda: network().init(jax.random.key(0), x, train=False)
    )
    relu = build_model(Model(name="small", activation="relu"), image_shape=SHAPE)
    plain = jax.eval_shape(lambda: relu.init(jax.random.key(0), x, train=False))
    assert jax.tree.map(jnp.shape, through_time) == jax.tree.map(jnp.shape, plain)


def test_the_network_is_a_loop_over_time_of_the_network_itself():
    """Layer after layer over all steps, against step after step through all layers."""
    steps, model = 3, network()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    variables = model.init(jax.random.key(0), x, train=False)
    found, sown = model.apply(variables, x, train=False, mutable=["activations"])
    membranes, logits, spikes = {}, [], {}

    def act(*, name):
        def layer(z):
            u = 0.5 * membranes.get(name, jnp.zeros_like(z)) + z
            s = (u >= 1).astype(z.dtype)
            membranes[name] = u * (1 - s)
            spikes.setdefault(name, []).append(s)
            return s

        return layer

    one_step = build_model(
        Model(name="small", activation="spiking"),
        image_shape=SHAPE,
        layers=lambda own: own | {"act": act},
    )
    for _ in range(steps):
        logits.append(one_step.apply(variables, x, train=False))
    np.testing.assert_allclose(found, sum(logits) / steps, rtol=1e-5, atol=1e-6)
    for name, trains in spikes.items():
        (sent,) = sown["activations"][name]["spikes"]
        np.testing.assert_array_equal(sent, jnp.stack(trains))


@pytest.mark.parametrize("remat", ["step", "layer"])
def test_what_is_computed_again_changes_no_gradient(remat):
    from bitsnn_jax.training.step import _forward

    x = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)

    def gradient(remat):
        model = network(remat=remat)
        variables = model.init(jax.random.key(0), x, train=False)
        forward = _forward(model, ["batch_stats"], Direct(method="stbp", remat=remat))

        def loss(params):
            outputs, _ = forward(
                {**variables, "params": params}, x, jax.random.key(1), 0.0
            )
            return (outputs**2).sum()

        return jax.grad(loss)(variables["params"])

    plain, again = gradient("none"), gradient(remat)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        plain,
        again,
    )
    assert any(np.any(leaf) for leaf in jax.tree.leaves(plain["conv_1"]))


def test_the_first_layer_is_computed_once_for_all_steps():
    model = network(steps=3)
    x = jnp.zeros((2, *SHAPE))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))

    def rows(variables):
        program = jax.make_jaxpr(lambda v: model.apply(v, x, train=False))(variables)
        convolutions = (
            eqn for eqn in program.eqns if eqn.primitive.name == "conv_general_dilated"
        )
        return [eqn.invars[0].aval.shape[0] for eqn in convolutions]

    assert rows(variables) == [2, 6, 6]


def test_a_neuron_is_the_same_rolled_and_unrolled():
    currents = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)
    neuron = IntegrateAndFire(decay(0.5))
    rolled, unrolled = (neuron(currents, {}, unroll=unroll) for unroll in (False, True))
    jax.tree.map(np.testing.assert_array_equal, rolled, unrolled)


def test_what_a_neuron_closes_over_may_be_traced_and_gets_its_gradient():
    """A sharpness that grows with training; a decay that a layer above owns."""
    x = np.random.default_rng(3).normal(0.5, size=(4, 6)).astype(np.float32)

    def loss(share, k, remat):
        spike = surrogate(lambda z: evolving(z, k))
        neuron = IntegrateAndFire(lambda scalars, u, x: share * u + x, spike)
        return (neuron(x, {}, remat=remat).spikes ** 2).sum()

    @jax.jit
    def gradients(share, k):
        def checkpointed(share, k):
            return jax.checkpoint(lambda share, k: loss(share, k, True))(share, k)

        plain = jax.grad(lambda share: loss(share, k, False))(share)
        return plain, *jax.grad(checkpointed, argnums=(0, 1))(share, k)

    plain, again, none = gradients(0.6, 2.0)
    assert plain != 0 and none == 0
    np.testing.assert_allclose(again, plain, rtol=1e-6)


def test_dropout_takes_the_same_neurons_at_each_step():
    x = jnp.ones((3 * 4, 10))
    dropout = SharedDropout(0.5, steps=3)
    y = dropout.apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    by_step = np.asarray(y).reshape(3, 4, 10)
    np.testing.assert_array_equal(by_step[0], by_step[1])
    np.testing.assert_array_equal(by_step[0], by_step[2])
    assert len(np.unique(by_step[0], axis=0)) == 4
