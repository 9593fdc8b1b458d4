"""Weights of BERT and its relatives from a folder in Hugging Face's layout."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from bitsnn_jax import config as configuration
from bitsnn_jax.interop.huggingface_names import modern, table_of
from bitsnn_jax.interop.huggingface_sizes import Sizes, read_sizes
from bitsnn_jax.interop.torch_files import read_state_dict
from bitsnn_jax.interop.torch_networks import check_same
from bitsnn_jax.models import Bert, build_model
from bitsnn_jax.models.bert import BERT_SIZES
from bitsnn_jax.runtime.reading import ReadingError

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class HuggingFace(NamedTuple):
    """A network that came in a folder.

    Attributes:
      folder: where it is.
      sizes: what its `config.json` says.
      params: parameters of `models.Bert` without codes, float32; those that the file
        does not have are not there.
      missing: modules behind the encoder that it does not have, of pooler and
        classifier.
      sha256: of the file of weights.
    """

    folder: Path
    sizes: Sizes
    params: dict[str, Any]
    missing: tuple[str, ...]
    sha256: str


def is_huggingface(folder: str | os.PathLike) -> bool:
    """Say whether a folder has a file of Hugging Face's layout."""
    return any((Path(folder) / name).is_file() for name in (CONFIG, WEIGHTS))


def from_huggingface(folder: str | os.PathLike) -> HuggingFace:
    """Read a BERT, MiniLM or DistilBERT in Hugging Face's layout.

    The folder must hold `config.json` and `model.safetensors`. The prefixes "bert." and
    "distilbert." may be missing, and so may the pooler and the classifier. All other
    tensors must be there, with the names and shapes that `config.json` implies.
    Position ids and heads of other tasks are left out.

    Args:
      folder: where both files are.

    Raises:
      ValueError: files that are missing, damaged, or do not fit each other; a network
        of another kind, or with functions that this one does not have.
    """
    folder = Path(folder)
    sizes, file = read_sizes(folder), folder / WEIGHTS
    if not file.is_file():
        raise ReadingError(f"{folder} must hold {WEIGHTS}: there is no such file")
    tensors = modern(read_state_dict(file), sizes)
    classes = np.shape(tensors.get("classifier.weight", np.zeros(1)))[0]
    table = table_of(sizes, num_classes=classes)
    heads = dict.fromkeys(tensor.module for tensor in table.values() if tensor.head)
    given = {name.rpartition(".")[0] for name in tensors}
    table = {
        path: tensor
        for path, tensor in table.items()
        if not tensor.head or tensor.module in given
    }
    check_same(
        {name: np.shape(tensor) for name, tensor in tensors.items()},
        {tensor.name: tensor.shape for tensor in table.values()},
        what=f"tensors of {file} that {CONFIG} implies",
    )
    params = {
        path: _array(tensors[tensor.name], f"{tensor.name} of {file}", path)
        for path, tensor in table.items()
    }
    missing = tuple(head.split(".")[0] for head in heads if head not in given)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return HuggingFace(folder, sizes, unflatten_dict(params), missing, digest)


def _array(tensor, name, path) -> np.ndarray:
    """Return a leaf of the parameters, in its layout here."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ReadingError(f"{name} must be of a floating type, got {tensor.dtype}")
    tensor = np.asarray(tensor, np.float32)
    if not np.isfinite(tensor).all():
        raise ReadingError(f"{name} must have finite values alone")
    return np.ascontiguousarray(tensor.T) if path[-1] == "kernel" else tensor


def check_fit(found: HuggingFace, model: configuration.Model) -> None:
    """Compare a network that came in a folder with the one of a config.

    Raises:
      ValueError: the first field in which they differ.
    """
    net = build_model(model)
    if not isinstance(net, Bert) or net.block.batch_norm is not None:
        raise ValueError(
            f"{found.folder} needs a model with its layers: set model.name to one of "
            f"{', '.join(sorted(BERT_SIZES))}, and model.norm to layer; got "
            f"{model.name}, {model.norm}"
        )
    sizes = found.sizes
    theirs = {**sizes.size._asdict(), "epsilon of the norms": sizes.epsilon}
    ours = net.size._replace(hidden=net.block.hidden)._asdict()
    ours |= {"epsilon of the norms": net.block.epsilon}
    if "classifier" in found.params:
        theirs["num_classes"] = len(found.params["classifier"]["bias"])
        ours["num_classes"] = model.num_classes
    for field, value in theirs.items():
        if value != ours[field]:
            raise ValueError(
                f"{found.folder} does not fit model.name={model.name}: {field} is "
                f"{value} there, {ours[field]} here"
            )
