"""Checkpoints of PyTorch as arrays by name: read without running code, and written."""

import os
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from bitsnn_jax.runtime.files import write_files
from bitsnn_jax.runtime.reading import check_size, check_zip

# Keys under which training scripts put the tensors, beside epoch and optimiser.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint, by the names that PyTorch has for them.

    A pickle is a program, so PyTorch's restricted reader reads it: it builds tensors
    and plain containers and calls nothing else. Wrappers of training scripts are
    removed: {"state_dict": ...}, {"model": ...} and the like, and the "module." that
    DataParallel puts before each name.

    Args:
      path: a .safetensors file, or one of `torch.save`, which needs torch: .pth, .pt,
        .pth.tar, .ckpt or .bin.

    Returns:
      Arrays in the order of the file; bfloat16 as float32.

    Raises:
      ValueError: another suffix, no torch, a file that is damaged, holds no state dict,
        would run code, or unpacks to far more than its size.
      OSError: no such file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_state_dict(f"{folder}/a.safetensors", {"fc.bias": np.ones(2)})
    ...     read_state_dict(f"{folder}/a.safetensors")
    {'fc.bias': array([1., 1.])}
    """
    path = Path(path)
    read, _ = _format(path)
    with path.open("rb"):  # a missing file is an OSError, whoever reads it
        pass
    tensors = _arrays(read(path), path)
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): a for name, a in tensors.items()}
    return tensors


def write_state_dict(path: str | os.PathLike[str], tensors: Mapping[str, Any]) -> Path:
    """Write arrays by name, as `load_state_dict` of PyTorch takes them.

    The file is written whole or not at all.

    Args:
      path: .safetensors, or a suffix of PyTorch, which needs torch.
      tensors: arrays of NumPy or JAX.

    Returns:
      The path.

    Raises:
      ValueError: another suffix, or no torch.
      OSError: the file cannot be written.
    """
    path = Path(path)
    _, serialised = _format(path)
    # Copied, because safetensors ignores strides.
    arrays = {name: np.array(a, order="C") for name, a in tensors.items()}
    return write_files({path.name: serialised(arrays)}, path.parent)


def _format(path):
    """Choose how a file of this name is read, and how arrays become its bytes."""
    if path.suffix not in _FORMATS:
        raise ValueError(
            f"{path} must end in one of {', '.join(_FORMATS)}; got "
            f"{path.suffix or 'no suffix'}"
        )
    return _FORMATS[path.suffix]


def _read_safetensors(path) -> dict[str, np.ndarray]:
    try:
        return {name: _wide(a) for name, a in load_file(path).items()}
    except Exception as error:
        # Besides its own errors, those of NumPy for unknown types or sizes.
        raise ValueError(f"{path} is no safetensors file ({_line(error)})") from error


def _read_torch(path):
    with suppress(zipfile.BadZipFile, NotImplementedError):  # torch says it better
        check_zip(path, path)
    torch = _torch()
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The file exists, so all that torch, zipfile and pickle raise is about its
        # contents, even an OSError.
        if wanted := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} calls {wanted[1]} when it is unpickled, and code in a "
                "checkpoint is not run: in PyTorch, save model.state_dict() alone"
            ) from error
        raise ValueError(
            f"{path} is no checkpoint that torch can read ({_line(error)})"
        ) from error
    found = _unwrapped(loaded, path)
    if not isinstance(found, Mapping):
        return found
    dense = {
        name: value.detach()
        for name, value in found.items()
        if isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
    }
    # A tensor declares a size but may hold less: with a stride of 0 it may be one
    # number until it is copied.
    declared = sum(a.numel() * max(a.element_size(), 4) for a in dense.values())
    check_size(path, declared, held=path.stat().st_size)

    def array(name, tensor):
        try:
            wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            return wide.numpy()
        except (TypeError, RuntimeError) as error:
            raise ValueError(
                f"{path}: {name} has no form in NumPy ({_line(error)})"
            ) from None

    return {k: array(k, dense[k]) if k in dense else v for k, v in found.items()}


def _serialised_torch(arrays) -> bytes:
    torch = _torch()
    buffer = BytesIO()
    torch.save({name: torch.from_numpy(a) for name, a in arrays.items()}, buffer)
    return buffer.getvalue()


def _torch():
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            "files of PyTorch need torch, which is not installed: pip install "
            "'bitsnn-jax[torch]', or use .safetensors"
        ) from error
    return torch


def _unwrapped(value, path):
    """Return the innermost dictionary, or what there is in place of one."""
    seen = set()
    while isinstance(value, Mapping):
        if id(value) in seen:
            raise ValueError(f"{path} holds a dictionary that is inside itself")
        seen.add(id(value))
        inside = [key for key in _WRAPPERS if isinstance(value.get(key), Mapping)]
        if not inside:
            break
        value = value[inside[0]]
    return value


def _arrays(value, path):
    """Return the value, which must be a dictionary of arrays by name."""
    if not isinstance(value, Mapping) or not value:
        found = "an empty dictionary" if value == {} else type(value).__name__
        raise ValueError(f"{path} must hold a dictionary of tensors, got {found}")
    others = [
        f"{' '.join(str(name).split()):.80} ({type(a).__name__})"
        for name, a in value.items()
        if not isinstance(a, np.ndarray) or not isinstance(name, str)
    ]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ValueError(
            f"{path} must hold a dictionary of dense tensors by name, got "
            f"{', '.join(others[:3])}{more}"
        )
    return dict(value)


def _wide(array):
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _line(error) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]:.120}"


_SAFETENSORS = (_read_safetensors, save)
_TORCH = (_read_torch, _serialised_torch)
_FORMATS = {".safetensors": _SAFETENSORS} | dict.fromkeys(
    (".pth", ".pt", ".tar", ".ckpt", ".bin"), _TORCH
)
