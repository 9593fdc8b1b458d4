"""An imported network as files: quantised, ready to be converted again.

    program.json           the steps of the module, or the nodes of the file
    constants.safetensors  indices and the like
    quantised.json         levels, and what pictures it takes
    variables.safetensors  network/NAME, a weight; theta/NAME, a threshold

None of them holds code, and reading them needs no torch and no onnx.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from bitsnn_jax.conversion.relu_to_qcfs import ReplacedReLU, replace_relu
from bitsnn_jax.interop import onnx_nodes, onnx_program, torch_program
from bitsnn_jax.interop.torch_files import read_state_dict, write_state_dict
from bitsnn_jax.runtime.files import replace_json, replaced_folder
from bitsnn_jax.runtime.reading import read_typed

_ADVICE = "import the network again"
# How a program is written, and what runs it.
_KINDS: dict[str, tuple[type, type]] = {
    "torch": (torch_program.Program, torch_program.TorchModule),
    "onnx": (onnx_nodes.Program, onnx_program.OnnxNetwork),
}


@dataclass(frozen=True)
class ChannelsFirst:
    """Show images [N, H, W, C] to a network that takes [N, C, H, W].

    Outputs with places come channels last too, so that classes are the last axis.

    Attributes:
      apply_fn: (variables, x) -> output.
    """

    apply_fn: Any

    def __call__(self, variables: Any, x: Any) -> Any:
        output = self.apply_fn(variables, jnp.moveaxis(x, -1, 1))
        return jax.tree.map(lambda a: jnp.moveaxis(a, 1, -1), output)


class Setting(Struct, frozen=True, kw_only=True):
    """What is in `quantised.json`.

    Attributes:
      steps: T that the thresholds were found for.
      levels: 2**T - 1.
      channel_axis: as of `replace_relu`.
      size, mean, std: of the pictures, on the scale 0..1.
      kind: "torch" or "onnx", what the program is from.
      channels_first: whether the program takes [N, C, H, W].
    """

    steps: int
    levels: int
    channel_axis: int | None
    size: int
    mean: list[float]
    std: list[float]
    kind: Literal["torch", "onnx"] = "torch"
    channels_first: bool = True


class Imported(NamedTuple):
    """A network that was imported, as `load_imported` reads it.

    Attributes:
      apply_fn, variables: the quantised network, for `convert`, `spiking`, `verify`,
        `lower` and training. It takes images [N, H, W, C].
      float_fn, float_variables: the one that was imported.
      setting: T, levels and pictures.
    """

    apply_fn: ReplacedReLU
    variables: dict[str, Any]
    float_fn: Any
    float_variables: dict[str, np.ndarray]
    setting: Setting


def save_imported(
    folder: Path, network_fn: Any, variables: Mapping[str, Any], setting: Setting
) -> None:
    """Write a quantised network; the folder is replaced whole or not at all.

    Args:
      folder: for the files.
      network_fn: that was imported: a `TorchModule` or an `OnnxNetwork`, maybe behind
        `ChannelsFirst`.
      variables: of `quantise`.
      setting: what the variables do not say.
    """
    is_first = isinstance(network_fn, ChannelsFirst)
    network = network_fn.apply_fn if is_first else network_fn
    [kind] = [k for k, (_, made) in _KINDS.items() if isinstance(network, made)]
    setting = replace(setting, kind=kind, channels_first=is_first)
    with replaced_folder(folder) as new:
        new.mkdir(parents=True, exist_ok=True)
        replace_json(new / "program.json", network.program)
        replace_json(new / "quantised.json", setting)
        held = {
            f"{part}/{name}": np.asarray(a)
            for part, arrays in variables.items()
            for name, a in arrays.items()
        }
        write_state_dict(new / "variables.safetensors", held)
        write_state_dict(new / "constants.safetensors", network.constants)


def load_imported(folder: str | os.PathLike[str]) -> Imported:
    """Read a network that `convert.py --torch NAME` or `--onnx` wrote.

    Args:
      folder: for instance runs/resnet18_torchvision/quantised.

    Raises:
      ValueError: files that are damaged; OSError: those that are not there.
    """
    folder = Path(folder)
    setting = read_typed(folder / "quantised.json", Setting, advice=_ADVICE)
    written, made = _KINDS[setting.kind]
    program = read_typed(folder / "program.json", written, advice=_ADVICE)
    constants = _arrays(folder / "constants.safetensors")
    variables: dict[str, dict[str, np.ndarray]] = {"network": {}, "theta": {}}
    for path, a in _arrays(folder / "variables.safetensors").items():
        part, _, name = path.partition("/")
        variables.setdefault(part, {})[name] = a
    float_fn = made(program, constants)
    if setting.channels_first:
        float_fn = ChannelsFirst(float_fn)
    apply_fn = replace_relu(
        float_fn, levels=setting.levels, channel_axis=setting.channel_axis
    )
    return Imported(apply_fn, variables, float_fn, variables["network"], setting)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Read arrays by name, of which there may be none."""
    try:
        return read_state_dict(path)
    except ValueError as error:
        if "an empty dictionary" in str(error):
            return {}
        raise
