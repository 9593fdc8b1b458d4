"""What a training step with QCFS and the bit-sparsity loss costs, in steps with ReLU.

    python benchmarks/train_step.py [--batch 128] [--size 28] [--rounds 30]
    python benchmarks/train_step.py --direct [--batch 64] [--rounds 12]

ResNet-20, float32, SGD with momentum, random images, one device, the step that
`train.py` runs. Steps are interleaved in random order, and each ratio is the median
over rounds of the ratio within a round, so that the machine's drift cancels. With
PyTorch installed (the extra `oracles`), its step of the same network with ReLU,
channels last, takes part from a process of its own. With --out the numbers are stored.

With --direct, steps through T = 4 steps of time instead, of two networks, in steps with
QCFS, with SpikingJelly's step of the same networks in the same way; and the memory for
temporaries against T.
"""

import statistics
from typing import Any

import direct_steps
import jax
import numpy as np
import timings
from torch_step import torch_step

from bitsnn_jax.config import Activation, Config, Model
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole, with_huge_pages
from bitsnn_jax.tasks import task_of
from bitsnn_jax.training.step_cost import timed_step

PAPER = 1.28e-6
STEPS: dict[str, dict[str, Any]] = {
    "relu": {"activation": "relu"},
    "qcfs": {},
    "qcfs + Eq. (11)": {"spike_lambda": PAPER},
    "qcfs + envelope": {"spike_lambda": PAPER, "surrogate": "envelope"},
}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--batch", type=whole(1, 2**17), default=128)
    parser.add_argument("--size", type=whole(1, 4096), default=28)
    parser.add_argument("--channels", type=whole(1, 4096), default=1)
    parser.add_argument("--rounds", type=whole(2, 10**6), default=30)
    parser.add_argument("--out", type=a_path, help="JSON file that keeps the numbers")
    parser.add_argument("--direct", action="store_true", help="train through time")
    options = parser.parse_args()
    shape = (options.batch, options.size, options.size, options.channels)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=shape).astype(np.float32),
        "label": rng.integers(10, size=options.batch).astype(np.int32),
    }
    if options.direct:
        return through_time(batch, rounds=options.rounds, out=options.out)
    print(f"ResNet-20, {shape}, {jax.devices()[0].device_kind}, JAX {jax.__version__}")
    steps, megabytes = {}, {}
    for name, changes in STEPS.items():
        steps[name], megabytes[name] = jax_step(batch, **changes)
    torch = torch_step(batch)
    if torch is None:
        print("PyTorch is not installed: its step is left out")
    else:
        steps["PyTorch relu"] = torch
    seconds = timings.in_turns(steps, rounds=options.rounds)
    print("                  median ms    x ReLU   (quartiles)   temporaries MB")
    for name, times in seconds.items():
        ratios = [s / r for s, r in zip(times, seconds["relu"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{name:16} {1e3 * statistics.median(times):10.1f} {middle:9.3f}"
            f"   {low:.3f}-{high:.3f} {megabytes.get(name, float('nan')):16.1f}"
        )
    if options.out:
        rows = timings.rows(seconds, reference="relu")
        for row in rows:
            row["megabytes"] = megabytes.get(row["pass"])
        facts = {"rounds": options.rounds, "batch": list(shape)}
        store_numbers(options.out, rows, config="resnet20", seed=0, **facts)


def through_time(batch, *, rounds, out):
    rows = {"times": [], "memory": []}
    print("network    pass                           ms    x QCFS   temporaries MB")
    for row in direct_steps.times(batch, rounds=rounds):
        rows["times"].append(row)
        print(
            f"{row['network']:10} {row['pass']:28} {row['milliseconds']:8.1f}"
            f" {row['ratio'][1]:8.2f} {row['megabytes'] or float('nan'):8.1f}"
        )
    for row in direct_steps.memory(batch):
        rows["memory"].append(row)
        print(*row.values())
    if out:
        facts = {"rounds": rounds, "batch": list(batch["image"].shape)}
        facts["steps"] = direct_steps.T
        networks = ", ".join(direct_steps.NETWORKS)
        store_numbers(out, rows, config=networks, seed=0, **facts)


def jax_step(
    batch,
    *,
    network: Model | None = None,
    activation: Activation = "qcfs",
    spike_lambda=0.0,
    surrogate="paper",
):
    """Compile the step of a ResNet-20, or another network, see `timed_step`."""
    config = Config(model=network or Model())
    config.model.activation = activation
    config.loss.spike_lambda, config.loss.spike_surrogate = spike_lambda, surrogate
    shape = batch["image"].shape[1:]
    return timed_step(config, task_of(config), batch, input_shape=shape)


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
