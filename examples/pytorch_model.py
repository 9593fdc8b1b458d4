"""Make a PyTorch model spiking, in 15 lines.

    pip install -e '.[digits,torch]'
    python examples/pytorch_model.py

`main` trains a small network in PyTorch; `spikes` makes it spiking and needs to know
nothing about it. Takes about 30 seconds on two CPU cores. Expect about 97 % for both, 0
codes that differ, and 1 to 2 spikes a neuron.
"""

import jax
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from bitsnn_jax import convert, from_torch, in_float64, quantise, spiking, verify


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def spikes(model: nn.Module, images: np.ndarray, steps: int = 4):
    """Return logits of the spiking network, its spikes, and the proof."""
    apply_fn, variables = from_torch(model.eval(), images[:1])
    quantised = quantise(apply_fn, variables, [images[:500]], levels=2**steps - 1)
    network = (quantised.apply_fn, quantised.variables)
    converted = convert(*network, images[:1], steps=steps)
    snn_fn = jax.jit(spiking(quantised.apply_fn, steps=steps))
    logits, stats = snn_fn(converted.variables, images)
    with jax.enable_x64(True):
        exact = (quantised.apply_fn, in_float64(quantised.variables))
        proof = verify(*exact, images[:100].astype(np.float64), steps=steps)
    return logits, stats, proof


def main(epochs: int = 30) -> None:
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.from_numpy(images[:1400]), torch.from_numpy(labels[:1400])
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()

    logits, stats, proof = spikes(model, images)
    with torch.no_grad():
        theirs = model(torch.from_numpy(images)).numpy()
    for name, found in ("PyTorch", theirs), ("spiking", logits):
        right = np.mean(found[1400:].argmax(-1) == labels[1400:])
        print(f"{name}: {right:.1%} of the test images")
    print(f"{stats.spikes_per_neuron:.2f} spikes a neuron")
    print(str(proof).splitlines()[0])


if __name__ == "__main__":
    main()
