"""Passes of the same network in other frameworks, each where it is installed.

PyTorch with channels last; onnxruntime in float32, and with its own static
quantisation to INT8 (QDQ, a scale for each channel, calibrated on the images);
SpikingJelly's rate network of IF neurons, step by step. All of them take normalised
images, have ReLU where ours has QCFS, and use as many threads as there are cores.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """What peers run.

    Attributes:
      model: its name in `bitsnn_jax.models`.
      images: float32 [n, h, w, c].
      parameters: how many the network has, thresholds left out.
      rate_steps: of the rate network.
    """

    model: str
    images: np.ndarray
    parameters: int
    rate_steps: int


def peers(names: list[str], case: Case) -> dict[str, Callable[[], Any]]:
    """Make a pass of each peer; those that are not installed are named and left out."""
    found = {}
    for name in names:
        try:
            found[name] = PEERS[name](case)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return found


def versions() -> dict[str, str]:
    """The versions of the frameworks that are installed."""
    found = {}
    for name in ("torch", "onnxruntime", "spikingjelly"):
        try:
            found[name] = version(name)
        except ImportError:  # PackageNotFoundError is one
            continue
    return found


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def _network(case: Case, **options):
    # Threads of PyTorch must not spin on while it is another pass's turn.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch
    from torch_networks import torch_network

    torch.set_num_threads(_threads())
    torch.manual_seed(0)
    network = torch_network(case.model, channels=case.images.shape[-1], **options)
    count = sum(p.numel() for p in network.parameters())
    if count != case.parameters:
        raise ValueError(
            f"{case.model} must have {case.parameters:,} parameters in PyTorch too, "
            f"has {count:,}: torch_networks.py builds another network"
        )
    return network.eval()


def _channels_first(case: Case) -> np.ndarray:
    return np.ascontiguousarray(case.images.transpose(0, 3, 1, 2))


def _torch(case: Case, **options):
    network = _network(case, **options)
    import torch

    channels_last = {"memory_format": torch.channels_last}
    x = torch.from_numpy(_channels_first(case)).to(**channels_last)
    return network.to(**channels_last), x


def _torch_pass(case: Case) -> Callable[[], Any]:
    network, x = _torch(case)
    import torch

    def run():
        with torch.inference_mode():
            return network(x)

    return run


def _rate_pass(case: Case) -> Callable[[], Any]:
    """IF neurons, half charged, that reset by subtraction: the SNN that QCFS is for.

    All steps of a layer at once, which is a little faster than step by step.
    """
    from spikingjelly.activation_based import functional, neuron
    from torch import nn

    steps, neurons = case.rate_steps, []

    class Fire(nn.Module):
        """Takes [T n, ...], as layers without a state do."""

        def __init__(self):
            super().__init__()
            self.neuron = neuron.IFNode(v_reset=None, step_mode="m")
            neurons.append(self.neuron)

        def forward(self, currents):
            return self.neuron(currents.unflatten(0, (steps, -1))).flatten(0, 1)

    network, x = _torch(case, act=Fire)
    import torch

    def run():
        functional.reset_net(network)
        for each in neurons:
            each.v = 0.5
        with torch.no_grad():
            logits = network(x.repeat(steps, 1, 1, 1))
        return logits.unflatten(0, (steps, -1)).mean(0)

    return run


def onnx_session(model: Any) -> Any:
    """Load a model, a file or its bytes, with a thread for each core."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = _threads()
    # As those of PyTorch: no thread spins on while it is another pass's turn.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model, settings, providers=["CPUExecutionProvider"]
    )


def _onnx_pass(case: Case, *, quantised: bool) -> Callable[[], Any]:
    x = {"x": _channels_first(case)}
    with tempfile.TemporaryDirectory() as folder:
        file = _exported(case, Path(folder))
        if quantised:
            file = _quantised(file, x)
        session = onnx_session(file)
    return lambda: session.run(None, x)


def _exported(case: Case, folder: Path) -> Path:
    network = _network(case)
    import torch

    x = torch.from_numpy(_channels_first(case))
    file = folder / "network.onnx"
    names = {"input_names": ["x"], "output_names": ["y"]}
    torch.onnx.export(network, (x,), file, dynamo=False, **names)
    return file


def _quantised(file: Path, x: dict[str, np.ndarray]) -> Path:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Shown(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches: Iterator = iter([x])

        def get_next(self) -> Any:
            return next(self.batches, None)

    ready, out = file.with_name("ready.onnx"), file.with_name("int8.onnx")
    quant_pre_process(file, ready)  # batch norms become part of convolutions
    quantization.quantize_static(
        ready,
        out,
        Shown(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    return out


PEERS: dict[str, Callable[[Case], Callable[[], Any]]] = {
    "onnxruntime": lambda case: _onnx_pass(case, quantised=False),
    "onnxruntime-int8": lambda case: _onnx_pass(case, quantised=True),
    "torch": _torch_pass,
    "spikingjelly": _rate_pass,
}
