"""PyTorch modules by name: those of torchvision, timm and transformers, and your own.

A module comes with what its library says about its pictures: their size, and the mean
and deviation of their pixels. Nothing is downloaded.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FORMS = (
    "torchvision:NAME, timm:NAME, transformers:NAME or package.module:function, "
    "which returns a module"
)


class Pictures(NamedTuple):
    """What pictures a module takes.

    Attributes:
      size: their side.
      mean, std: of the pixels of each channel, on the scale 0..1.
    """

    size: int = 224
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]


class NamedModule(NamedTuple):
    """A module in inference, and what it is shown."""

    module: Any
    pictures: Pictures


def is_named(name: str) -> bool:
    """Tell names of modules from names of files."""
    return ":" in name and not os.path.exists(name)


def named_module(name: str, *, weights: str | os.PathLike | None = None) -> NamedModule:
    """Build the module of a name, with random weights.

    Args:
      name: see `FORMS`. NAME of transformers is a folder with `config.json`, a model
        that is in the cache of the hub, or a type, such as "resnet", whose default
        configuration is taken. A function of your own is called without arguments.
      weights: the file that will be loaded. The only thing that counts here is its
        name: torchvision has files for different preprocessing.

    Raises:
      ValueError: a library that is not installed or does not know the name, and a
        function that fails or returns no module.
    """
    library, _, rest = name.partition(":")
    if not library or not rest:
        raise ValueError(f"a PyTorch module is named as {FORMS}; got {name!r}")
    build = _LIBRARIES.get(library, _own)
    torch = _imported("torch", needed_by=name)
    found = build(library, rest, weights)
    if not isinstance(found.module, torch.nn.Module):
        kind = type(found.module).__name__
        raise ValueError(f"{name} must return a torch.nn.Module, got {kind}")
    return found._replace(module=found.module.eval())


def _torchvision(library: str, name: str, weights) -> NamedModule:
    models = _imported("torchvision.models", needed_by=f"torchvision:{name}")
    if name not in (known := models.list_models()):
        raise ValueError(_unknown(library, name, known))
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in models.get_model_builder(name).__annotations__:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        # Its own weights want pixels in another scale, which the module makes.
        options |= {"init_weights": False, "transform_input": True}
    module = _built(f"{library}:{name}", models.get_model, name, **options)
    try:
        entries = list(models.get_model_weights(name))
    except ValueError:  # a model without weights
        return NamedModule(module, Pictures())
    chosen = [w for w in entries if weights and w.url.endswith(Path(weights).name)]
    chosen += [entry for entry in entries if "IMAGENET1K_V1" in entry.name]
    preset = (chosen + entries)[0].transforms()
    size = getattr(preset, "crop_size", None) or getattr(preset, "resize_size", [224])
    mean, std = (getattr(preset, key, IMAGENET[i]) for i, key in enumerate(_MOMENTS))
    return NamedModule(module, Pictures(_side(size), tuple(mean), tuple(std)))


def _timm(library: str, name: str, weights) -> NamedModule:
    timm = _imported("timm", needed_by=f"timm:{name}")
    if not timm.is_model(name):
        raise ValueError(_unknown(library, name, timm.list_models()))
    module = _built(f"{library}:{name}", timm.create_model, name, pretrained=False)
    known = timm.data.resolve_model_data_config(module)
    size = _side(known["input_size"][1:])
    return NamedModule(module, Pictures(size, known["mean"], known["std"]))


def _transformers(library: str, name: str, weights) -> NamedModule:
    package = _imported("transformers", needed_by=f"transformers:{name}")
    types = package.models.auto.configuration_auto.CONFIG_MAPPING
    whole = f"{library}:{name}"
    if name in types:
        config = _built(whole, package.AutoConfig.for_model, name)
    else:
        config = _built(
            whole, package.AutoConfig.from_pretrained, name, local_files_only=True
        )
    for kind in ("ImageClassification", "SemanticSegmentation"):
        auto = getattr(package, f"AutoModelFor{kind}")
        if type(config) in auto._model_mapping:
            module = _built(whole, auto.from_config, config)
            return NamedModule(module, _processed(Path(name), config))
    raise ValueError(
        f"{whole} classifies no pictures: give a function package.module:function that "
        "returns the part you want, or use from_torch"
    )


def _processed(folder: Path, config) -> Pictures:
    """Read what the folder of a model says about pictures, or its configuration."""
    found: dict[str, Any] = {}
    if (file := folder / "preprocessor_config.json").is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
    size = found.get("crop_size") or found.get("size")
    size = size or getattr(config, "image_size", None) or 224
    mean, std = (
        tuple(found.get(f"image_{key}") or IMAGENET[i])
        for i, key in enumerate(_MOMENTS)
    )
    return Pictures(_side(size), mean, std)


def _own(module: str, function: str, weights) -> NamedModule:
    """Call a function of the user's own."""
    whole = f"{module}:{function}"
    if os.getcwd() not in sys.path:  # as `python -m` has it
        sys.path.insert(0, os.getcwd())
    found = _imported(module, needed_by=whole)
    make = getattr(found, function, None)
    if not callable(make):
        raise ValueError(f"{whole}: {module} has no function {function}")
    return NamedModule(_built(whole, make), Pictures())


def _imported(name: str, *, needed_by: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ValueError(
            f"{needed_by} needs {package}, which cannot be imported ({error}): "
            f"pip install {package}, or name a module of your own as "
            "package.module:function"
        ) from error


def _built(name: str, make: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return make(*args, **options)
    except Exception as error:  # whatever a library or the user's function raises
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0]:.200}"
        raise ValueError(f"{name} cannot be built: {reason}") from error


def _unknown(library: str, name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, 3)
    like = f"; did you mean {', '.join(close)}?" if close else ""
    return f"{library} has no model {name!r}, only {len(known)} others{like}"


def _side(size: Any) -> int:
    """Read a side from the forms in which libraries give it.

    >>> _side([256]), _side((3, 2)), _side({"shortest_edge": 8}), _side(5)
    (256, 3, 8, 5)
    """
    if isinstance(size, Mapping):
        size = list(size.values())
    return int(size if isinstance(size, int) else max(size))


_MOMENTS = ("mean", "std")
_LIBRARIES = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}
