"""One step of the configs of BERT_BASE with codes, on eight virtual CPU devices.

    python experiments/bert_base_step.py [--width 0.25] [--together 3]

The tokens are noise, one sentence a device, as long as the config's. The step is that
of `train.py`. It must give a finite loss, and move every array of weights on all
devices alike. At full width eight copies of weights, gradients and momenta alone need
14 GB. Each config has a process of its own; `--together` says how many run at a time.
Writes docs/results/bert_base_step.json, anew after each of them.
"""

import multiprocessing
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitsnn_jax.config import Config, read_config
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import (
    Distinct,
    Parser,
    a_path,
    as_script,
    between,
    whole,
)
from bitsnn_jax.runtime.devices import (
    by_device,
    data_parallel,
    first_replica,
    replicate,
)
from bitsnn_jax.training.setup import set_up
from bitsnn_jax.training.step import init_state, step_of

ROOT = Path(__file__).parents[1]
NUMBERS = Path("docs/results/bert_base_step.json")
DEVICES = 8
CONFIGS = ("bert_base_sst2", "bert_base_qqp", "bert_base_qnli")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--width", type=between(0, 64), default=1.0)
    parser.add_argument(
        "--configs", nargs="+", action=Distinct, choices=CONFIGS, default=CONFIGS
    )
    parser.add_argument("--together", type=whole(1, len(CONFIGS)), default=1)
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    # Read by the processes of the configs; this one has JAX already.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={DEVICES} "
        "--xla_backend_optimization_level=0"
    )
    jax.config.update("jax_platforms", "cpu")
    names, rows = options.configs, []
    with ProcessPoolExecutor(
        options.together,
        mp_context=multiprocessing.get_context("spawn"),
        max_tasks_per_child=1,  # the peak of memory is that of one config
    ) as pool:
        for done in as_completed(pool.submit(row, n, options.width) for n in names):
            rows.append(done.result())
            print(rows[-1], flush=True)
            rows.sort(key=lambda row: names.index(row["config"]))
            store_numbers(options.out, rows, config=", ".join(names), seed=0)


def row(name: str, width: float) -> dict[str, Any]:
    return {"config": name} | step(settings(name, width))


def settings(name: str, width: float) -> Config:
    """The config, of tokens that need no files, with QCFS and random weights."""
    config = read_config(ROOT / "configs" / f"{name}.py")
    config.start_from, config.model.width = "", width
    config.data.name, config.data.vocabulary = "fake_sentences", ""
    config.data.batch_size = config.data.eval_batch_size = DEVICES
    config.model.activation, config.model.per_channel = "qcfs", True
    config.optimizer.warmup_epochs = 0.0  # the first step would be of length 0
    return config


def step(config: Config) -> dict[str, Any]:
    started = time.perf_counter()
    setup = set_up(config, "runs/none")
    batches = setup.task.train_batches(config.data, setup.train, seed=0)
    batch = by_device(next(batches))
    batches.close()
    key = jax.random.key(0)
    state = init_state(setup.model, setup.optimizer, setup.placeholder, key)
    before = jax.tree.map(np.asarray, state.params)
    state = replicate(state)
    mapped = data_parallel(
        step_of(config, setup.task, setup.model, setup.optimizer),
        in_axes=(0, 0, None),
        donate_argnums=0,
    )
    state, metrics = mapped(state, batch, key)
    after = first_replica(state.params)
    totals = first_replica(metrics)
    return {
        "devices": jax.device_count(),
        "width": config.model.width,
        "tokens": list(batch["tokens"].shape),
        "parameters": sum(x.size for x in jax.tree.leaves(before)),
        "arrays": len(jax.tree.leaves(before)),
        "arrays_that_moved": sum(
            bool(np.any(a != b))
            for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
        ),
        "equal_on_all_devices": all(map(alike, jax.tree.leaves(state.params))),
        "loss": float(totals.loss / totals.examples),
        "sentences": float(totals.examples),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def alike(x: jax.Array) -> bool:
    """Whether all devices have the same bits."""
    first, *others = (np.asarray(shard.data) for shard in x.addressable_shards)
    return all(np.array_equal(first, other) for other in others)


if __name__ == "__main__":
    as_script(main)
