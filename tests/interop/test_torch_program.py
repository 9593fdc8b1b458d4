"""Programs of PyTorch, where torch is not installed."""

import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from bitsnn_jax import from_torch
from bitsnn_jax.interop.torch_program import (
    DType,
    Input,
    Items,
    Number,
    Program,
    Ref,
    Step,
    TorchModule,
)


def step(name, operator, *arguments, **options):
    return Step(name, operator, "part.of", list(arguments), options)


def test_a_program_runs_without_torch_in_one_floating_type():
    sizes = Items([Ref("n"), 2])
    program = Program(
        inputs=[Input("x", [None, 2], "float32")],
        tensors={"w": "fc.weight", "i": "index"},
        steps=[
            step("n", "aten.sym_size.int", Ref("x"), 0),
            step("y", "aten.mm.default", Ref("x"), Ref("w")),
            step("m", "aten.amax.default", Ref("y"), Items([0])),
            step(
                "f",
                "aten.full.default",
                sizes,
                0.1,
                dtype=DType("float16"),
            ),
            step("z", "aten.clamp.default", Ref("y"), Number("-inf"), Ref("m")),
            step("j", "aten.index.Tensor", Ref("z"), Items([None, Ref("i")])),
            step("out", "aten.add.Tensor", Ref("j"), Ref("f")),
        ],
        outputs=[Ref("out")],
    )
    network = TorchModule(program, {"index": np.array([1, 0])})
    weights = {"fc.weight": np.eye(2)}
    x = np.arange(6.0).reshape(3, 2)
    with jax.enable_x64(True):
        y = jax.jit(network)(weights, x)
        named = jax.jit(network).lower(weights, x).as_text(debug_info=True)
    assert y.dtype == np.float64
    assert np.array_equal(y, x[:, ::-1] + 0.1)
    assert "network/part.of" in named
    with pytest.raises(ValueError, match="must hold fc.weight.*got bias"):
        network({"bias": x}, x)


@pytest.mark.parametrize(
    "torch, message",
    [
        (None, "torch, which is not installed: pip install"),
        (SimpleNamespace(__version__="2.5.1"), "2.6 or newer, got 2.5.1"),
    ],
)
def test_no_torch_or_an_old_one_is_said_in_a_line(torch, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(ValueError, match=message):
        from_torch(object(), np.ones((1, 2)))
