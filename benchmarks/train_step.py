"""What a training step with QCFS and the bit-sparsity loss costs, in steps with ReLU.

    python benchmarks/train_step.py [--batch 128] [--size 28] [--rounds 30]

ResNet-20, float32, SGD with momentum, random images, one device, the step that
`train.py` runs. Steps are interleaved in random order, and each ratio is the median
over rounds of the ratio within a round, so that the machine's drift cancels. With
PyTorch installed (the extra `oracles`), its step of the same network with ReLU,
channels last, takes part from a process of its own. With --out the numbers are stored.
"""

import multiprocessing
import os
import statistics
import time
from typing import Any

import jax
import numpy as np
import timings

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
    options = parser.parse_args()
    shape = (options.batch, options.size, options.size, options.channels)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=shape).astype(np.float32),
        "label": rng.integers(10, size=options.batch).astype(np.int32),
    }
    print(f"ResNet-20, {shape}, {jax.devices()[0].device_kind}, JAX {jax.__version__}")
    steps, megabytes = {}, {}
    for name, changes in STEPS.items():
        steps[name], megabytes[name] = jax_step(batch, **changes)
    torch = torch_step(batch)
    if torch is None:
        print("PyTorch is not installed: its step is left out")
    else:
        steps["PyTorch relu"] = torch
    seconds = {name: [] for name in steps}
    for step in steps.values():
        step(), step()  # warms up
    for _ in range(options.rounds):
        # In another order each time: a step is slower behind that of another process.
        for name in rng.permutation(list(steps)):
            seconds[name].append(steps[name]())
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


def torch_step(batch):
    """The same in PyTorch, in another process; None where it is not installed."""
    # Its threads must not spin on while it is another step's turn.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_torch_worker, args=(there, batch), daemon=True).start()
    if not here.recv():
        return None

    def step():
        here.send(True)
        return here.recv()

    return step


def _torch_worker(pipe, batch):
    try:
        import torch
        from torch_networks import torch_network
    except ImportError:
        pipe.send(False)
        return
    image = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy())
    image = image.to(memory_format=torch.channels_last)
    label = torch.from_numpy(batch["label"]).long()
    model = torch_network("resnet20", channels=image.shape[1])
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, 0.9, weight_decay=5e-4)
    pipe.send(True)
    while _asked(pipe):
        started = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(image), label).backward()
        optimizer.step()
        pipe.send(time.perf_counter() - started)


def _asked(pipe):
    """Waits for the next request; False when there will be none."""
    try:
        return pipe.recv()
    except EOFError:
        return False


if __name__ == "__main__":
    with_huge_pages()
    as_script(main)
