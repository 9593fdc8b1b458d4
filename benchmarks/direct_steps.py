"""What a step of training through time costs, for `train_step.py --direct`."""

import itertools
from collections.abc import Iterator
from typing import Any, Literal

import timings
from torch_step import torch_step

from bitsnn_jax.config import Activation, Config, Direct, Model
from bitsnn_jax.tasks import task_of
from bitsnn_jax.training.step_cost import temporaries, timed_step

Remat = Literal["none", "step", "layer"]
T = 4
NETWORKS = ("small", "resnet20")
PASSES = {
    "qcfs": Direct(),
    "stbp": Direct("stbp"),
    "tet": Direct("tet"),
    "tet, step": Direct("tet", remat="step"),
    "tet, layer": Direct("tet", remat="layer"),
    "tet, rolled": Direct("tet", unroll=False),
    "tet, rolled, step": Direct("tet", unroll=False, remat="step"),
}
SPIKINGJELLY = "SpikingJelly"
Kept = tuple[tuple[str, bool, tuple[Remat, ...], tuple[int, ...]], ...]
# (network, unrolled, what the backward pass keeps, each T)
KEPT: Kept = (
    ("small", True, ("none", "step", "layer"), (1, 2, 4, 8, 16)),
    ("small", False, ("none", "step", "layer"), (1, 4, 16)),
    ("resnet20", True, ("none", "layer"), (1, 4)),
)


def configured(network: str, direct: Direct, *, steps: int) -> Config:
    """Make the config of a pass."""
    activation: Activation = "spiking" if direct.method else "qcfs"
    model = Model(name=network, activation=activation)
    return Config(steps=steps, model=model, direct=direct)


def times(batch: dict[str, Any], *, rounds: int) -> Iterator[dict[str, Any]]:
    """Time every pass of every network, in steps with QCFS."""
    shape = batch["image"].shape[1:]
    for network in NETWORKS:
        passes, megabytes = {}, {}
        for name, direct in PASSES.items():
            config = configured(network, direct, steps=T)
            passes[name], megabytes[name] = timed_step(
                config, task_of(config), batch, input_shape=shape
            )
        theirs = torch_step(batch, network=network, steps=T)
        if theirs is None:
            print("SpikingJelly is not installed: its step is left out")
        else:
            passes[SPIKINGJELLY] = theirs
        seconds = timings.in_turns(passes, rounds=rounds)
        for row in timings.rows(seconds, reference="qcfs"):
            more = {"network": network, "megabytes": megabytes.get(row["pass"])}
            yield row | more


def memory(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Plan the temporaries of a step against T, for what the backward pass keeps."""
    shape = batch["image"].shape[1:]
    for network, unroll, kinds, counts in KEPT:
        for kept, steps in itertools.product(kinds, counts):
            direct = Direct("tet", remat=kept, unroll=unroll)
            config = configured(network, direct, steps=steps)
            needed = temporaries(config, task_of(config), batch, input_shape=shape)
            facts = {"network": network, "unroll": unroll, "remat": kept}
            yield facts | {"steps": steps, "megabytes": needed}
