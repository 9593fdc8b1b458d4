"""Any PyTorch module in inference, as a JAX function of its variables and inputs.

`torch.export` writes the module down as a program of ATen operators. Those that have a
JAX form are left whole, PyTorch takes others apart until only core ATen remains.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bitsnn_jax.interop.program_inputs import traced
from bitsnn_jax.interop.torch_program import OPERATORS, TorchModule
from bitsnn_jax.interop.torch_reading import Variables, read_exported

OLDEST = (2, 6)  # torch.export with sizes that it finds to be dynamic by itself


def from_torch(module: Any, example: Any) -> tuple[TorchModule, dict[str, np.ndarray]]:
    """Turn a PyTorch module in inference into (apply_fn, variables).

    Neurons are named after their modules, such as `layer1.0.relu`, and variables have
    their names in the state dict. Arrays have the layout of PyTorch: channels first.
    Activations stay whole for `quantise` to see. Anything goes that `torch.export`
    takes; the first axis of the example is the batch, and other batches may be of any
    size if the module allows it.

        net = torchvision.models.resnet18(weights="DEFAULT").eval()
        apply_fn, variables = from_torch(net, torch.ones(1, 3, 224, 224))

    Gradient: that of JAX, with respect to variables and inputs.

    Args:
      module: a `torch.nn.Module` after `module.eval()`.
      example: a tensor or array as the module takes it; a tuple for several arguments,
        a dictionary for arguments by name.

    Returns:
      apply_fn(variables, x), which can be pickled and needs no torch, with x as the
      example was: an array, a tuple or a dictionary; and the variables by name, NumPy
      arrays of float32 at least.

    Raises:
      ValueError: no torch or one before 2.6, no module, a module in training mode, one
        that `torch.export` cannot write down, such as one whose control flow depends on
        values, and operators without a JAX form.
    """
    torch = _torch()
    _check_module(torch, module)
    given = _example(torch, example)
    keys = list(given.options) or None
    try:
        exported = _exported(torch, module, given.doubled(torch), any_batch=True)
    except ValueError:
        return read_exported(torch, _exported(torch, module, given), keys)
    apply_fn, variables = read_exported(torch, exported, keys)
    if _runs(apply_fn, variables):
        return apply_fn, variables
    return read_exported(torch, _exported(torch, module, given), keys)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            "from_torch needs torch, which is not installed: pip install "
            "'bitsnn-jax[torch]'"
        ) from error
    version = tuple(int(n) for n in torch.__version__.split(".")[:2])
    if version < OLDEST:
        raise ValueError(
            f"from_torch needs torch {OLDEST[0]}.{OLDEST[1]} or newer, got "
            f"{torch.__version__}: pip install --upgrade torch"
        )
    return torch


def _check_module(torch, module) -> None:
    if not isinstance(module, torch.nn.Module):
        raise ValueError(
            f"module must be a torch.nn.Module, got {type(module).__name__}"
        )
    training = [
        f"{path or 'the module'} ({type(part).__name__})"
        for path, part in module.named_modules()
        if part.training
    ]
    if training:
        # The innermost says more than the whole, which is in training with it.
        raise ValueError(
            f"module must be in inference, but {training[-1]} is in training mode: "
            "call module.eval() first"
        )


class _Example(NamedTuple):
    """Tensors that the module takes, in order and by name."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def doubled(self, torch) -> "_Example":
        """Make a batch of one two, since `torch.export` takes a 1 for a constant."""

        def wide(a):
            return torch.cat([a, a]) if len(a) == 1 else a

        options = {name: wide(a) for name, a in self.options.items()}
        return _Example(tuple(map(wide, self.arguments)), options)


def _example(torch, example) -> _Example:
    def tensor(array):
        if not isinstance(array, torch.Tensor):
            array = torch.from_numpy(np.array(array))
        return array.detach().cpu()

    if isinstance(example, Mapping):
        given = _Example((), {k: tensor(a) for k, a in example.items()})
    else:
        several = example if isinstance(example, (tuple, list)) else [example]
        given = _Example(tuple(tensor(a) for a in several), {})
    tensors = [*given.arguments, *given.options.values()]
    if not tensors:
        raise ValueError("example must hold at least one tensor, got none")
    if any(not a.ndim for a in tensors) or len({len(a) for a in tensors}) > 1:
        shapes = ", ".join(str(list(a.shape)) for a in tensors)
        raise ValueError(f"example must have one batch as its first axis, got {shapes}")
    return given


def _exported(torch, module, example: _Example, *, any_batch: bool = False) -> Any:
    """Write the module down in operators that have a JAX form, as far as they do."""
    batch = {0: torch.export.Dim.AUTO} if any_batch else {}
    arguments, options = example
    in_order = tuple(batch for _ in arguments)
    by_name = {name: batch for name in options}
    fast = torch.backends.mha.get_fastpath_enabled()
    # A kernel of its own for whole encoder layers, used in inference only.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            exported = torch.export.export(
                module,
                arguments,
                options,
                dynamic_shapes=by_name if options else in_order,
                strict=False,
            )
            parts = torch.export.default_decompositions()
            for operator in list(parts):
                if str(operator) in OPERATORS:
                    parts.pop(operator)
            return exported.run_decompositions(parts)
    except Exception as error:  # its own errors are of many types
        raise ValueError(_reason(error)) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _runs(apply_fn: TorchModule, variables: Variables) -> bool:
    """Whether other batches than that of the example go through."""
    shapes = [
        jax.ShapeDtypeStruct([3 if n is None else n for n in each.shape], each.dtype)
        for each in apply_fn.program.inputs
    ]
    keys = apply_fn.program.input_keys
    x = tuple(shapes) if keys is None else dict(zip(keys, shapes, strict=True))
    return traced(apply_fn, variables, x) is not None


def _reason(error) -> str:
    name = type(error).__name__
    lines = str(error).strip().splitlines() or [name]
    depends = "data-dependent" in str(error).lower() or "DataDependent" in name
    if depends:
        where = [
            line.strip() for line in lines if "File " in line and "torch/" not in line
        ]
        place = f" ({where[-1]})" if where else ""
        return (
            "module must not decide by values what it computes, but its forward "
            f"branches on data{place}: use torch.where, or take that part out"
        )
    return f"torch.export cannot write the module down: {name}: {lines[0]:.200}"
