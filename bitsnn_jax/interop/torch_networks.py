"""Variables of our networks from PyTorch's tensors, and back.

One table lists, for each leaf of the variables, the tensors it is made of and their
layout. `variables_from_torch` reads it from left to right and `to_torch` from right to
left, so each undoes the other.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bitsnn_jax import config as configuration
from bitsnn_jax.interop.torch_names import likeliest, modern, namings
from bitsnn_jax.models import VGG, build_model

_Shape = tuple[int, int, int]

# torchvision's networks, with what no tensor says. "vgg16_bn" is torchvision's name.
_IMAGENET: dict[str, Any] = {"num_classes": 1000, "stem": "imagenet"}
_MAX: dict[str, Any] = {"activation": "relu", "pool": "max", **_IMAGENET}
TORCHVISION: dict[str, configuration.Model] = {
    "mobilenetv2": configuration.Model(
        name="mobilenetv2", activation="relu6", **_IMAGENET
    ),
    "resnet18": configuration.Model(name="resnet18", **_MAX),
    "resnet34": configuration.Model(name="resnet34", **_MAX),
    "vgg16": configuration.Model(name="vgg16", norm="none", **_MAX),
    "vgg16_bn": configuration.Model(name="vgg16", **_MAX),
}


class Layout(NamedTuple):
    """How tensors become a leaf, and the leaf these tensors."""

    read: Callable[..., Any]
    write: Callable[[Any], tuple]


class Entry(NamedTuple):
    """A row of the table: a leaf of the variables, and the tensors it is made of."""

    path: tuple[str, ...]
    keys: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    leaf: jax.ShapeDtypeStruct
    layout: Layout


def variables_from_torch(
    tensors: Mapping[str, np.ndarray],
    model: configuration.Model,
    *,
    image_shape: _Shape = (32, 32, 3),
) -> dict[str, dict]:
    """Turn the state dict of a network in PyTorch into variables of the same one here.

    Knows the names of torchvision (resnet18, resnet34, vgg16, vgg16_bn, mobilenet_v2)
    and those of the QCFS networks of Bu et al. 2022 (resnet18, resnet20, resnet34,
    vgg16 and vgg16 without batch norm), old and new, and tells them apart by the
    tensors. Each name and shape must be that of `model`. Only `num_batches_tracked` is
    ignored.

    Some fields of `model` are in no tensor and must be set: for torchvision's networks
    as in `TORCHVISION`. The QCFS networks have stem="cifar" (vgg16 for 1000 classes:
    "imagenet") and pool="average" (without batch norm: "max").

    A threshold of QCFS, `thresh` or in old files `up`, is our theta: both are the value
    of the highest code, a = theta/L clip(floor(z L/theta + 1/2), 0, L). L is in no
    file: `model.levels` must be the L of the training, or the result is another
    network. Without thresholds in the tensors the result has no theta;
    `calibrate_network` finds them. A bias before a batch norm is subtracted from the
    running mean, which is equivalent.

    Args:
      tensors: by name, as of `read_state_dict`.
      model: the network.
      image_shape: height, width and channels of the images. Height and width matter
        only for vgg16 with stem="cifar", which flattens what its poolings leave.

    Returns:
      {"params": ..., "batch_stats": ...}, NumPy arrays, float32 at least.

    Raises:
      ValueError: missing or unknown tensors, another shape or type, values that are not
        finite, thresholds that are not positive, variances below 0, a network without
        names in PyTorch, and what `build_model` raises.

    >>> model = configuration.Model(name="resnet20", activation="relu", width=0.25)
    >>> net = build_model(model)
    >>> images = jnp.zeros((1, 32, 32, 3))
    >>> leaves = jax.eval_shape(
    ...     partial(net.init, train=False), jax.random.key(0), images
    ... )
    >>> ours = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), leaves)
    >>> theirs = to_torch(ours, model)
    >>> theirs["conv1.0.weight"].shape
    (4, 3, 3, 3)
    >>> variables_from_torch(theirs, model)["params"]["stem"]["conv"]["kernel"].shape
    (3, 3, 3, 4)
    """
    tensors = {
        modern(key): a for key, a in tensors.items() if not key.endswith(_COUNTER)
    }
    naming = likeliest(tensors, model)
    thetas = any(key.endswith(".thresh") for key in tensors)
    table = _table(model, naming, image_shape, thetas=thetas)
    shapes = {key: np.shape(a) for key, a in tensors.items()}
    check_same(
        shapes,
        {k: shape for e in table for k, shape in zip(e.keys, e.shapes, strict=True)},
        what=f"tensors of {model.name} as {naming} names them",
        advice=_advice(shapes, table, model),
    )
    _check_values(tensors)
    flat = {
        entry.path: _wide(entry.layout.read(*(tensors[key] for key in entry.keys)))
        for entry in table
    }
    return {"params": {}, "batch_stats": {}} | unflatten_dict(flat)


def to_torch(
    variables: Mapping[str, Any],
    model: configuration.Model,
    *,
    naming: str | None = None,
    image_shape: _Shape = (32, 32, 3),
) -> dict[str, np.ndarray]:
    """Turn variables into the state dict of the same network in PyTorch.

    The networks of torchvision have no place for thresholds. They are written for a
    copy in which each ReLU is a module with a parameter `thresh`; in a ResNet these are
    named relu, and relu1 and relu2 in each block. Biases before a batch norm, which we
    do not have, are 0, and so are counts of batches.

    Args:
      variables: {"params": ..., "batch_stats": ...}; with or without theta.
      model: the network.
      naming: "torchvision" or "qcfs"; by default the one with the stem of `model`, or
        the only one.
      image_shape: as of `variables_from_torch`.

    Returns:
      Arrays by name, in PyTorch's layout.

    Raises:
      ValueError: variables of another model, thresholds per channel, a naming that the
        network does not have, and what `build_model` raises.
    """
    known = namings(model)
    if naming is None:
        usual = {"imagenet": "torchvision", "cifar": "qcfs"}[model.stem]
        naming = usual if usual in known else next(iter(known))
    if naming not in known:
        raise ValueError(
            f"naming of {model.name} must be one of {', '.join(known)}; got {naming!r}"
        )
    flat: dict[tuple, Any] = flatten_dict(dict(variables))
    thetas = any(path[-1] == "theta" for path in flat)
    table = _table(model, naming, image_shape, thetas=thetas)
    check_same(
        {"/".join(path): np.shape(leaf) for path, leaf in flat.items()},
        {"/".join(entry.path): entry.leaf.shape for entry in table},
        what=f"variables of {model.name}",
    )
    tensors: dict[str, np.ndarray] = {}
    for entry in table:
        written = entry.layout.write(np.asarray(flat[entry.path]))
        # Copies, because not every writer of files handles transposed views.
        copies = (np.array(a, order="C") for a in written)
        tensors |= zip(entry.keys, copies, strict=True)
        if entry.path[-1] == "var":
            counter = entry.keys[0].replace("running_var", _COUNTER)
            tensors[counter] = np.zeros((), np.int64)
    return tensors


def num_classes(tensors: Mapping[str, np.ndarray], model: configuration.Model) -> int:
    """Count the classes of the tensors, for `model.num_classes`.

    Raises:
      ValueError: no classifier under a name of this network.

    >>> model = configuration.Model(name="resnet20")
    >>> num_classes({"fc.weight": np.ones((100, 64)), "fc.bias": np.ones(100)}, model)
    100
    """
    net = build_model(model)
    heads = [f"{names(net)['head']}.weight" for names in namings(model).values()]
    for head in heads:
        if head in tensors:
            return len(tensors[head])
    raise ValueError(
        f"tensors of {model.name} must have one named {' or '.join(heads)}, got "
        f"{_some(tensors)}"
    )


# The table


def _table(model, naming, image_shape, *, thetas=False) -> list[Entry]:
    """Make an entry for each leaf, in the order of PyTorch."""
    if thetas and model.per_channel:
        raise ValueError(
            "model.per_channel must be False for thresholds of PyTorch, which are one "
            "a layer; got True"
        )
    net, leaves = _network(dataclasses.astuple(model), image_shape)
    by_module: dict[str, list] = {}
    for path in sorted(leaves, key=lambda path: list(_LEAVES).index(path[-1])):
        if thetas or path[-1] != "theta":
            by_module.setdefault("/".join(path[1:-1]), []).append(path)
    names = namings(model)[naming](net)
    assert by_module.keys() <= names.keys(), by_module.keys() - names.keys()
    return [
        _entry(path, leaves[path], names, _layout(path, leaves[path], net, image_shape))
        for module in names
        for path in by_module.get(module, ())
    ]


@lru_cache
def _network(fields, image_shape) -> tuple[Any, dict[Any, Any]]:
    """Build and trace the module of a config, by its fields; tracing takes a second."""
    net = build_model(configuration.Model(*fields), image_shape=image_shape)
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    init = partial(net.init, train=False)
    leaves: Any = jax.eval_shape(init, jax.random.key(0), image)
    return net, flatten_dict(leaves)


def _entry(path, leaf, names, layout) -> Entry:
    module = "/".join(path[1:-1])
    keys = [f"{names[module]}.{_LEAVES[path[-1]]}"]
    if layout is _MEAN_LESS_BIAS:
        keys.append(f"{names[module.replace('/norm', '/conv')]}.bias")
    shapes = tuple(a.shape for a in jax.eval_shape(layout.write, leaf))
    return Entry(path, tuple(keys), shapes, leaf, layout)


def _layout(path, leaf, net, image_shape) -> Layout:
    vgg = isinstance(net, VGG)
    if vgg and path[-2:] == ("hidden_1", "kernel"):
        height, width = (net.grid or side // 2**net.pools for side in image_shape[:2])
        return _flattened(height, width)
    if vgg and path[-1] == "mean":
        return _MEAN_LESS_BIAS
    return _LAYOUTS.get((path[-1], leaf.ndim), _SAME)


def _flattened(height, width) -> Layout:
    """Lay out a dense layer on an image: channels last here, first in PyTorch."""
    return Layout(
        lambda a: (
            a.reshape(len(a), -1, height, width)
            .transpose(2, 3, 1, 0)
            .reshape(-1, len(a))
        ),
        lambda a: (
            a.reshape(height, width, -1, a.shape[-1])
            .transpose(3, 2, 0, 1)
            .reshape(a.shape[-1], -1),
        ),
    )


_SAME = Layout(lambda a: a, lambda a: (a,))
# norm(x + b) with the mean m is norm(x) with m - b. What is written has b = 0.
_MEAN_LESS_BIAS = Layout(
    lambda mean, bias: mean - bias, lambda mean: (mean, mean - mean)
)
# By the name of a leaf and its number of axes. Depthwise kernels are transposed like
# all others.
_LAYOUTS = {
    ("kernel", 4): Layout(
        lambda a: a.transpose(2, 3, 1, 0), lambda a: (a.transpose(3, 2, 0, 1),)
    ),
    ("kernel", 2): Layout(lambda a: a.T, lambda a: (a.T,)),
    ("theta", 0): Layout(lambda a: a.reshape(()), lambda a: (a.reshape(1),)),
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "theta": "thresh",
}
_COUNTER = "num_batches_tracked"


def _wide(leaf) -> np.ndarray:
    return np.asarray(leaf, np.promote_types(leaf.dtype, np.float32))


# Errors


def check_same(
    got: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    *,
    what: str,
    advice: Sequence[str] = (),
) -> None:
    """Raise ValueError unless names and shapes are those expected."""
    missing = [f"{k} {list(expected[k])}" for k in expected if k not in got]
    unknown = [f"{k} {list(got[k])}" for k in got if k not in expected]
    other = [
        f"{k} (expected {list(expected[k])}, got {list(got[k])})"
        for k in expected
        if k in got and tuple(got[k]) != tuple(expected[k])
    ]
    clashes = [
        f"{title}: {_some(names)}"
        for title, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", other),
        )
        if names
    ]
    if clashes:
        raise ValueError(f"not the {what}: {'; '.join([*clashes, *advice])}")


def _some(names) -> str:
    """Name at most three of them, and say how many there are besides."""
    names = list(names)
    more = [f"{len(names) - 3} more"] if len(names) > 3 else []
    return ", ".join(names[:3] + more) or "none"


def _advice(got, table, model) -> list[str]:
    """Name the fields of the config that the tensors say should be otherwise."""
    rows = {"/".join(entry.path[1:]): entry for entry in table}

    def size(leaf, axis):
        """Of the tensor along an axis; None where it is as expected, or not there."""
        if leaf not in rows or rows[leaf].keys[0] not in got:
            return None
        shape, expected = got[rows[leaf].keys[0]], rows[leaf].shapes[0]
        same = len(shape) != len(expected) or shape[axis] == expected[axis]
        return None if same else shape[axis]

    other_stem = {"cifar": "imagenet", "imagenet": "cifar"}[model.stem]
    other_norm = {"batch": "none", "none": "batch"}[model.norm]
    normed = any(key.endswith(".running_mean") for key in got)
    thresholds = any(key.endswith(".thresh") for key in got)
    rules = {
        "num_classes": size("head/bias", 0),
        "stem": other_stem
        if size("stem/conv/kernel", 2) or size("hidden_1/kernel", 1)
        else None,
        "norm": other_norm
        if model.name == "vgg16" and normed != (model.norm == "batch")
        else None,
        "activation": "qcfs"
        if thresholds and model.activation not in ("qcfs", "clipped_relu")
        else None,
    }
    return [
        f"set model.{field} to {value!r}"
        for field, value in rules.items()
        if value is not None
    ]


def _check_values(tensors) -> None:
    """Check that values are finite floats, thresholds positive, variances 0 or more."""
    for key, a in tensors.items():
        a = np.asarray(a)
        if not jnp.issubdtype(a.dtype, jnp.floating):
            raise ValueError(f"{key} must be of a floating type, got {a.dtype}")
        if not np.isfinite(a).all():
            raise ValueError(f"{key} must have finite values alone")
        if key.endswith(".thresh") and not (a > 0).all():
            raise ValueError(f"{key} must be positive, got {a.min()}")
        if key.endswith(".running_var") and (a < 0).any():
            raise ValueError(f"{key} must not be below 0, got {a.min()}")
