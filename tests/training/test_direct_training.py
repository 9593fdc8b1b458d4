"""Training through time in the loop of the house: devices, and what may not change."""

from dataclasses import replace
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import numpy as np

from bitsnn_jax.config import Config, Direct, Model, differences, to_dict
from bitsnn_jax.direct import METHODS, SURROGATES, IntegrateAndFire, ThroughTime
from bitsnn_jax.direct.neurons import parametric_leak
from bitsnn_jax.runtime.devices import AXIS, data_parallel
from bitsnn_jax.tasks import task_of
from bitsnn_jax.training.optimizer import make_optimizer
from bitsnn_jax.training.step import init_state, train_step


def settings(method="tet"):
    model = Model(name="small", activation="spiking")
    return Config(steps=2, model=model, direct=Direct(method=method))


# Two numbers of each layer are trained as well.
NEURON = IntegrateAndFire(
    parametric_leak, SURROGATES["sigmoid"], trained={"w": 0.0, "theta": 1.0}
)


class Tiny(nn.Module):
    """What any network of the zoo is made of, and as little of it as there may be."""

    act: Any
    norm: Any

    @nn.compact
    def __call__(self, x, *, train):
        x = self.norm(use_running_average=not train)(nn.Dense(6)(x))
        x = nn.Dense(5)(self.act(name="act_1")(x))
        return nn.Dense(3)(self.act(name="act_2")(x))


def network(replaced):
    layers = replaced({"act": None, "norm": partial(nn.BatchNorm, axis_name=AXIS)})
    return Tiny(layers["act"], layers["norm"])


def trained(config, *, devices):
    """The state after a step of 8 examples, and its metrics."""
    method = replace(METHODS[config.direct.method], neuron=lambda progress: NEURON)
    model = ThroughTime(network, method, config.steps, unroll=True, remat=True)
    optimizer = make_optimizer(config.optimizer, steps_per_epoch=10)
    state = init_state(
        model, optimizer, np.zeros((1, 4), np.float32), jax.random.key(0)
    )
    step = train_step(
        task_of(config),
        model,
        optimizer,
        config.loss,
        levels=config.model.levels,
        direct=config.direct,
        steps=2,
    )
    chosen = jax.devices()[:devices]
    mapped = data_parallel(step, in_axes=(0, 0, None), devices=chosen)
    state = jax.tree.map(lambda x: np.stack([x] * devices), state)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(devices, 8 // devices, 4)).astype(np.float32)
    label = (np.arange(8, dtype=np.int32) % 3).reshape(devices, -1)
    found = mapped(state, {"image": image, "label": label}, jax.random.key(1))
    return jax.tree.map(lambda x: np.asarray(x)[0], found)


def test_four_devices_train_through_time_as_one_does():
    one, four = (trained(settings(), devices=n) for n in (1, 4))
    # Means of 8 examples in another order; the spikes are the same.
    chex.assert_trees_all_close(four, one, rtol=1e-5, atol=1e-6)
    assert one[0].params["act_1"]["w"] != 0 and one[0].params["act_2"]["theta"] != 1


def test_a_run_that_is_trained_through_time_keeps_its_steps():
    direct, converted = (to_dict(settings(method)) for method in ("tet", ""))
    for saved, found in ((direct, ["steps (2, now 3)"]), (converted, [])):
        assert differences(saved, saved | {"steps": 3}) == found
