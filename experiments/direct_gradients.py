"""How large gradients through time are, layer by layer, where training goes on.

    python experiments/direct_gradients.py

ResNet-20 of the package, as its QCFS network and as the networks of spikes that go on
from it: the norm of the gradient of each kernel, for one batch of training images of
Fashion-MNIST, before the first step. Without time is the measure of the others. Writes
docs/results/direct_gradients.json.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

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
from bitsnn_jax.training.setup import set_up
from bitsnn_jax.training.start import start
from bitsnn_jax.training.step import init_state, step_of

CONFIG = "configs/direct/fashion_mnist.py"
NETWORK = "resnet20_fashion_mnist"
METHODS = ("qcfs", "bit_serial", "bit_serial_detached", "dual_phase")
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
        rows.append({"method": method, **gradients(settings(method, options.batch))})
        print(rows[-1], flush=True)
    store_numbers(options.out, rows, config=NETWORK, seed=0, batch=options.batch)


def settings(method: str, batch: int) -> Config:
    config = read_config(f"{CONFIG}:{method}")
    config.model.name, config.start_from = "resnet20", NETWORK
    config.data.batch_size = batch
    config.optimizer.weight_decay = 0.0
    return config


def gradients(config: Config) -> dict[str, Any]:
    """Take a step of length 1: the weights change by their gradient."""
    setup, optimizer, key = (
        set_up(config, "runs/none"),
        optax.sgd(1.0),
        jax.random.key(0),
    )
    state = init_state(setup.model, optimizer, setup.placeholder, key)
    none = cast(Checkpoints, SimpleNamespace(latest=None))
    state, _ = start(state, config, setup.train, none)
    batches = setup.task.train_batches(config.data, setup.train, seed=config.seed)
    step = data_parallel(
        step_of(config, setup.task, setup.model, optimizer), in_axes=(0, 0, None)
    )
    after, metrics = step(replicate(state), by_device(next(batches)), key)
    batches.close()
    total, params = first_replica(metrics), first_replica(after.params)
    before, after = (
        flatten_dict(jax.device_get(p), sep="/") for p in (state.params, params)
    )
    norms = {
        name: float(np.linalg.norm(before[name] - after[name]))
        for name in before
        if name.endswith("conv/kernel")
    }
    return {"loss": float(total.loss / total.examples), "norms": norms}


if __name__ == "__main__":
    as_script(main)
