"""How large gradients through time are, layer by layer, where training goes on.

    python experiments/direct_gradients.py

ResNet-20 of the package, as its QCFS network and as the networks of spikes that go on
from it: the norm of the gradient of each kernel, for one batch of training images of
Fashion-MNIST, before the first step. Without time is the measure of the others. Then
the losses of the first 20 steps, by the recipes of the config with one rate. Writes
docs/results/direct_gradients.json.
"""

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from bitsnn_jax.config import Config, read_config
from bitsnn_jax.runs.checkpoint import Checkpoints
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, whole
from bitsnn_jax.runtime.devices import (
    by_device,
    data_parallel,
    first_replica,
    replicate,
)
from bitsnn_jax.training.optimizer import make_optimizer
from bitsnn_jax.training.setup import set_up
from bitsnn_jax.training.start import start
from bitsnn_jax.training.step import init_state, step_of

CONFIG = "configs/direct/fashion_mnist.py"
NETWORK = "resnet20_fashion_mnist"
METHODS = ("qcfs", "bit_serial", "bit_serial_detached", "dual_phase")
STEPS, STEPS_PER_EPOCH = 20, 430
NUMBERS = Path("docs/results/direct_gradients.json")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--methods", nargs="+", action=Distinct, choices=METHODS, default=METHODS
    )
    parser.add_argument("--batch", type=whole(1, 10_000), default=64)
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = []
    for method in options.methods:
        config = settings(method, options.batch)
        found = gradients(config) | {"losses": losses(config)}
        rows.append({"method": method, **found})
        print(rows[-1], flush=True)
    store_numbers(options.out, rows, config=NETWORK, seed=0, batch=options.batch)


def settings(method: str, batch: int) -> Config:
    config = read_config(f"{CONFIG}:{method}")
    config.model.name, config.start_from = "resnet20", NETWORK
    config.data.batch_size, config.optimizer.learning_rate = batch, 0.01
    return config


def gradients(config: Config) -> dict[str, Any]:
    """Take a step of length 1, by which the weights change as is their gradient."""
    [(before, loss), (after, _)] = itertools.islice(trained(config, optax.sgd(1.0)), 2)
    norms = {
        name: float(np.linalg.norm(np.subtract(before[name], after[name])))
        for name in before
        if name.endswith("conv/kernel")
    }
    return {"loss": loss, "norms": norms}


def losses(config: Config) -> list[float]:
    """Train as the recipe says; return the loss of each of the first batches."""
    recipe = make_optimizer(config.optimizer, steps_per_epoch=STEPS_PER_EPOCH)
    return [loss for _, loss in itertools.islice(trained(config, recipe), STEPS)]


def trained(
    config: Config, optimizer: optax.GradientTransformation
) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield the weights, by name, and their loss on the next batch, step by step."""
    setup, key = set_up(config, "runs/none"), jax.random.key(0)
    state = init_state(setup.model, optimizer, setup.placeholder, key)
    with TemporaryDirectory() as empty, Checkpoints(empty) as none:
        state, _ = start(state, config, setup.train, none)
    step = data_parallel(
        step_of(config, setup.task, setup.model, optimizer), in_axes=(0, 0, None)
    )
    state = replicate(state)
    with closing(
        setup.task.train_batches(config.data, setup.train, seed=config.seed)
    ) as batches:
        while True:
            batch = next(batches)
            weights = jax.device_get(first_replica(state.params))
            state, metrics = step(state, by_device(batch), key)
            total = first_replica(metrics)
            yield flatten_dict(weights, sep="/"), float(total.loss / total.examples)


if __name__ == "__main__":
    as_script(main)
