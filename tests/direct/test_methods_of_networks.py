"""Methods that have a network or a block of their own: what is trained, and how."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax.config import Config, Direct, Loss, Model
from bitsnn_jax.direct import METHODS, ThroughTime, tdbn
from bitsnn_jax.models import PLIFNet, ResNet, SpikeDrivenTransformer, Spikformer
from bitsnn_jax.models.resnet import BasicBlock
from bitsnn_jax.tasks import task_of

STEPS = 2
LAYERS = {"act": None, "norm": partial(nn.BatchNorm, momentum=0.9), "num_classes": 3}
resnet = partial(ResNet, (1, 1), (4, 6))
NETWORKS = {
    "plif": partial(PLIFNet, (4, 4), 8, pools=2, votes=4),
    "sew_add": resnet,
    "sew_and": resnet,
    "sew_iand": resnet,
    "tdbn": resnet,
    "spikformer": partial(Spikformer, layers=1, width=16, heads=1, hidden=8),
    "sdt_v2": partial(SpikeDrivenTransformer, widths=(4, 16), layers=1, heads=2),
}
x = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype("f4")
batch = {"image": x, "label": np.arange(8) % 3}
task = task_of(Config())


def network(name):
    """One small network, trained by one method."""
    of = NETWORKS[name]
    dropout = {} if name == "plif" else {"dropout": None}

    def made(replace):
        layers = replace(dict(LAYERS)) | dropout
        return of(**{key: value for key, value in layers.items() if value is not None})

    return ThroughTime(made, METHODS[name], STEPS)


def variables_of(model):
    """Draw values for all variables, of layers that fire; without compiling `init`."""
    init = partial(model.init, train=False)
    rng = np.random.default_rng(1)

    def drawn(path, leaf):
        noise = rng.normal(size=leaf.shape)
        match path[-1].key:
            case "kernel":
                noise *= 2 / np.sqrt(np.prod(leaf.shape[:-1]))
            case "var" | "scale":
                noise = 1 + abs(noise)
            case "bias":
                noise = 1 + 0.3 * noise
            case _:
                noise = 0.3 * noise
        return jnp.asarray(noise, "f4")

    shapes = jax.eval_shape(init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(drawn, shapes)


def gradient(name):
    """The gradient of the method's loss by its parameters."""
    model, method = network(name), METHODS[name]
    variables = variables_of(model)
    of_task = task.squared_error if method.squared_error else task.loss

    @jax.jit
    @jax.grad
    def of_loss(params):
        _, updates = model.apply(
            {**variables, "params": params},
            x,
            train=True,
            mutable=["batch_stats", "direct"],
            rngs={"dropout": jax.random.key(0)},
            progress=0.0,
        )
        (seen,) = updates["direct"]["seen"]
        return method.loss(seen, lambda o: of_task(o, batch, Loss())).mean()

    return of_loss(variables["params"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_reaches_every_parameter(name):
    found = jax.tree_util.tree_leaves_with_path(gradient(name))
    assert all(jnp.isfinite(g).all() for _, g in found)
    assert [jax.tree_util.keystr(path) for path, g in found if not g.any()] == []


def test_the_squared_error_is_that_of_rates_and_one_hot_labels():
    rates = jnp.array([[0.5, 0.25, 0.0], [1.0, 0.0, 0.0]])
    found = task.squared_error(rates, {"label": np.array([1, 0])}, Loss())
    # (1/4 + 9/16 + 0) / 3, and 0.
    np.testing.assert_allclose(found, [13 / 48, 0], rtol=1e-6)


def test_branches_that_are_added_start_with_half_the_variance():
    found = {}

    class Norm(nn.Module):
        use_running_average: bool
        scale_init: Any

        def __call__(self, z):
            *_, conv, _ = self.path
            found[conv] = self.scale_init
            return z

    norm = METHODS["tdbn"].norm(Norm, STEPS)
    block = BasicBlock(2, 2, lambda *, name: nn.relu, norm, summand=tdbn.summand)

    def starts(block):
        found.clear()
        key, x = jax.random.key(0), jnp.zeros((1, 4, 4, 2))
        jax.eval_shape(partial(block.init, train=False), key, x)
        return {conv: float(start(key, ())) for conv, start in found.items()}

    half = pytest.approx(tdbn.THETA / 2**0.5)
    expected = {"conv_1": tdbn.THETA, "conv_2": half, "shortcut": half}
    assert starts(block) == expected
    # A branch that x itself is added to keeps its variance.
    alone = {"conv_1": tdbn.THETA, "conv_2": tdbn.THETA}
    assert starts(block.clone(strides=1)) == alone


def test_methods_of_one_network_refuse_others():
    from bitsnn_jax.training.validation import validate

    for method, name in (("sdt_v2", "small"), ("sew_and", "vgg16")):
        config = Config(
            model=Model(name=name, activation="spiking"), direct=Direct(method=method)
        )
        with pytest.raises(ValueError, match=f"for direct.method={method}, got {name}"):
            validate(config)
