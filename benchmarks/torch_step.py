"""A training step in PyTorch or SpikingJelly, from a process of its own."""

import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any


def torch_step(
    batch: dict[str, Any], *, network: str = "resnet20", steps: int = 0
) -> Callable[[], float] | None:
    """Start a process that takes the step of a network of `torch_networks`.

    Args:
      batch: of images [n, h, w, c] and labels.
      network: its name.
      steps: 0 for ReLU, channels last. Else T of SpikingJelly's LIF neurons, trained
        with the loss of TET, all steps of a layer at once.

    Returns:
      A function that takes a step and returns its seconds; None where what it needs is
      not installed.
    """
    # Its threads must not spin on while it is another step's turn.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    given = there, batch, network, steps
    context.Process(target=_worker, args=given, daemon=True).start()
    if not here.recv():
        return None

    def step() -> float:
        here.send(True)
        return here.recv()

    return step


def _worker(pipe, batch, network, steps):
    try:
        import torch

        model, loss, memory_format = (
            _spiking(network, batch, steps) if steps else _relu(network, batch)
        )
    except ImportError:
        pipe.send(False)
        return
    image = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy())
    image = image.to(memory_format=memory_format)
    label = torch.from_numpy(batch["label"]).long()
    loss(model, image, label)  # makes layers whose sizes follow from their input
    model = model.to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, 0.9, weight_decay=5e-4)
    pipe.send(True)
    while _asked(pipe):
        started = time.perf_counter()
        optimizer.zero_grad()
        loss(model, image, label).backward()
        optimizer.step()
        pipe.send(time.perf_counter() - started)


def _relu(network, batch):
    import torch
    from torch_networks import torch_network

    def loss(model, image, label):
        return torch.nn.functional.cross_entropy(model(image), label)

    model = torch_network(network, channels=batch["image"].shape[-1])
    return model, loss, torch.channels_last


def _spiking(network, batch, steps):
    import torch
    from spikingjelly.activation_based import functional, neuron, surrogate
    from torch_networks import torch_network

    class Fire(torch.nn.Module):
        """Takes [T n, ...], as layers without a state do."""

        def __init__(self):
            super().__init__()
            # Those of TET: u / 2 + x, and a triangle.
            self.neuron = neuron.LIFNode(
                tau=2.0,
                decay_input=False,
                surrogate_function=surrogate.PiecewiseQuadratic(1.0),
                step_mode="m",
            )

        def forward(self, currents):
            return self.neuron(currents.unflatten(0, (steps, -1))).flatten(0, 1)

    def loss(model, image, label):
        functional.reset_net(model)
        outputs = model(image.repeat(steps, 1, 1, 1)).unflatten(0, (steps, -1))
        each = functional.temporal_efficient_training_cross_entropy(outputs, label)
        return 0.999 * each + 0.001 * ((outputs - 1) ** 2).mean()

    model = torch_network(network, channels=batch["image"].shape[-1], act=Fire)
    return model, loss, torch.contiguous_format


def _asked(pipe):
    """Waits for the next request; False when there will be none."""
    try:
        return pipe.recv()
    except EOFError:
        return False
