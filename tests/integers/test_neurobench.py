"""Synaptic operations against those that NeuroBench counts on the same spikes."""

import numpy as np
import pytest
from networks import PIXELS, Convolutions, Residual, lowered

from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import Conv, Dense
from bitsnn_jax.integers.operations import count
from bitsnn_jax.numerics.spikes import spike_planes

pytest.importorskip("neurobench", reason="needs bitsnn-jax[oracles]")


def torch_layer(weight):
    """The layer of PyTorch, with ones: NeuroBench leaves out weights of 0."""
    import torch

    if isinstance(weight, Dense):
        inputs, outputs = weight.kernel.shape
        layer = torch.nn.Linear(inputs, outputs, bias=False)
    else:
        *window, inputs, outputs = weight.kernel.shape
        layer = torch.nn.Conv2d(
            inputs * weight.groups,
            outputs,
            tuple(window),
            stride=weight.strides,
            padding=tuple(low for low, _ in weight.padding),
            dilation=weight.rhs_dilation,
            groups=weight.groups,
            bias=False,
        )
    torch.nn.init.ones_(layer.weight)
    return layer


def as_theirs(weight, planes):
    """Channels first, one plane after another."""
    import torch

    planes = np.asarray(planes, np.float32).reshape(-1, *planes.shape[2:])
    if isinstance(weight, Conv):
        planes = np.moveaxis(planes, -1, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


@pytest.mark.parametrize("network", [Residual, Convolutions])
def test_every_layer_has_the_synaptic_operations_of_neurobench(network):
    from neurobench.metrics.utils.layers.macs import single_layer_MACs

    integers = fixed_point(lowered(network), steps=4)
    codes = one_shot(integers)(PIXELS).codes
    counted = count(integers, codes, examples=len(PIXELS))
    compared = 0
    for node in integers.nodes:
        # Layers that are one convolution or dense layer of spikes, evenly padded.
        weights = [term.weight for term in node.terms]
        if (
            len(weights) != 1
            or node.terms[0].before
            or node.terms[0].source not in codes
            or not isinstance(weights[0], (Conv, Dense))
            or any(low != high for low, high in getattr(weights[0], "padding", ()))
            or any(d > 1 for d in getattr(weights[0], "lhs_dilation", ()))
        ):
            continue
        [weight] = weights
        planes = spike_planes(codes[node.terms[0].source], steps=4)
        theirs, is_spiking = single_layer_MACs(
            as_theirs(weight, planes), torch_layer(weight)
        )
        assert is_spiking
        assert counted[node.name].synaptic_operations == theirs > 0, node.name
        compared += 1
    assert compared >= (2 if network is Convolutions else 1)
