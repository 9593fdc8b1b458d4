"""Every kind of file that the project reads: how one is made, and how it is read.

Importing this starts JAX. `run.py` changes the files and reads them again.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import networks
import numpy as np
import tensorstore
from damaged_bundles import change_arrays, change_text
from fuzz.mutate import VALUES, mutations, values_changed
from PIL import Image
from row_networks import TOKENS, tokens_to_logits
from safetensors.numpy import save

from bitsnn_jax import config as configuration
from bitsnn_jax import data, referee
from bitsnn_jax.data.idx import read_pair
from bitsnn_jax.exports import bundle_writer, nir_writer
from bitsnn_jax.exports.nir_files import contents, digest
from bitsnn_jax.exports.stablehlo import read as read_stablehlo
from bitsnn_jax.exports.stablehlo import write as write_stablehlo
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.interop.torch_files import read_state_dict
from bitsnn_jax.jobs.compare_store import ComparisonStore
from bitsnn_jax.models import build_model
from bitsnn_jax.results.comparison import ComparisonResult
from bitsnn_jax.results.conversion import ConversionResult
from bitsnn_jax.results.training import TrainingResult
from bitsnn_jax.runs import pretrained
from bitsnn_jax.runs.checkpoint import (
    Checkpoints,
    load_run,
    load_variables,
    save_variables,
)
from bitsnn_jax.runs.pretrained.card import make_card, to_markdown
from bitsnn_jax.runtime.reading import read_typed, typed
from bitsnn_jax.training.log import metrics_log

Files = Mapping[str, bytes]


class Refused(Exception):
    """What `referee.main` says with status 2."""


def some(files: Files, seed: int, count: int) -> Iterator[Files]:
    """One file changed, each in its turn."""
    names = sorted(name for name, content in files.items() if content)
    share = -(-count // len(names))
    copies = {
        name: mutations(files[name], seed=seed + i, count=share)
        for i, name in enumerate(names)
    }
    for i in range(count):
        yield {names[i % len(names)]: next(copies[names[i % len(names)]])}


class Format(NamedTuple):
    """A kind of file.

    Attributes:
      make: writes them into an empty folder.
      read: what they hold; compared by all its values.
      count: of changed files, in `make fuzz`.
      is_checksummed: each other value must be noticed.
      cases: of the files and a seed, as many changes of some of them.
      errors: that `read` says it raises.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    count: int
    is_checksummed: bool = True
    cases: Callable[[Files, int, int], Iterator[Files]] = some
    errors: tuple[type[Exception], ...] = (ValueError,)


def fingerprint(value: Any) -> str:
    """The same for equal values, types and shapes of arrays included."""
    sha = hashlib.sha256()

    def add(value):
        if isinstance(value, Mapping):
            for key in sorted(value, key=str):
                sha.update(f"{key!r}:".encode())
                add(value[key])
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            add(vars(value))
        elif isinstance(value, list | tuple):
            sha.update(f"{type(value).__name__}{len(value)}".encode())
            for entry in value:
                add(entry)
        elif isinstance(value, np.ndarray | np.generic | jax.Array):
            array = np.asarray(value)
            sha.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            sha.update(repr(value).encode())

    add(value)
    return sha.hexdigest()


# Exports.


def integers():
    return fixed_point(networks.lowered(networks.Residual), steps=4)


def make_export(folder):
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3))
    bundle_writer.save(integers(), folder / "net", vectors=images)


def make_rows(folder):
    bundle_writer.save(tokens_to_logits(), folder / "net", vectors=TOKENS)


def read_export(folder):
    vectors = bundle_writer.load_vectors(folder / "net")
    return bundle_writer.load(folder / "net"), vectors


def run_referee(folder):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = referee.main([str(folder / "net")])
    if status == 2:
        raise Refused(err.getvalue().removesuffix("\n"))
    return status, out.getvalue()


def resealed(files, seed, count):
    """Other numbers, in a text and arrays whose checksums are right."""
    rng = random.Random(seed)
    for i in range(count):
        folder = Path(_scratch)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "net").mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if i % 3:
            change_text(folder / "net", lambda text: _become(text, rng))
        else:
            name = ("network.safetensors", "vectors.safetensors")[i % 2]
            change_arrays(folder / "net", lambda a: _array_changed(a, rng), name)
        yield {name: (folder / name).read_bytes() for name in files}


_scratch = "/nowhere"  # `run.py` sets it


def _become(text, rng):
    changed = values_changed(text, rng)
    for key in list(text):
        if key not in changed:
            del text[key]
    text.update(changed)


def _array_changed(arrays, rng):
    name = rng.choice(sorted(arrays))
    array = arrays.pop(name)
    array = array.copy()
    kind = rng.randrange(5)
    if kind == 0 and array.size:
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice((0, -1, 1, 100))
    elif kind == 1:
        limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
        array[...] = rng.choice((limits.max, limits.min)) if limits else np.nan
    elif kind == 2:
        array = array.reshape(-1)
    elif kind == 3:
        array = array.astype(rng.choice((np.int8, np.int64, np.float32, np.bool_)))
    else:
        array = array[:0] if array.ndim else array[None]
    arrays[name if rng.randrange(9) else "x"] = array


def make_nir(folder):
    nir_writer.write(folder / "net.nir", integers())


def read_nir(folder):
    return nir_writer.read(folder / "net.nir")


def nir_resealed(files, seed, count):
    """Other arrays, with a checksum that is right."""
    rng = random.Random(seed)
    path = Path(_scratch) / "net.nir"
    for _ in range(count):
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        path.write_bytes(files["net.nir"])
        with h5py.File(path, "r+") as file:
            node = file["node"]
            names = [n for n in _arrays_in(node) if n != "metadata/sha256"]
            name = rng.choice(names)
            value = node[name][()]
            del node[name]
            if rng.randrange(8):
                node[name] = _other(value, rng)
        found = contents(path, max_bytes=None)
        found["metadata"].pop("sha256", None)
        with h5py.File(path, "r+") as file:
            file["node/metadata/sha256"][()] = digest(found)
        yield {"net.nir": path.read_bytes()}


def _arrays_in(group):
    names: list[str] = []

    def found(name, item):
        if isinstance(item, h5py.Dataset):
            names.append(name)

    group.visititems(found)
    return names


def _other(value, rng):
    if isinstance(value, bytes):
        return rng.choice((b"", b"x", b"Affine", b"Conv2d", b"BitSerialPool", 7))
    arrays = {"a": np.asarray(value)}
    if arrays["a"].dtype.kind in "OS":  # names
        return rng.choice((value[::-1], value[1:], value[:1]))
    if rng.randrange(2):
        number = rng.choice([v for v in VALUES if isinstance(v, int | float)])
        return np.full_like(arrays["a"], 0) + np.float64(number)
    with contextlib.suppress(TypeError):
        _array_changed(arrays, rng)
    return next(iter(arrays.values()), 0)


def make_stablehlo(folder):
    write_stablehlo(folder / "net", lambda x: x * 2, np.ones((1, 3)), steps=4)


def read_stablehlo_file(folder):
    found = read_stablehlo(folder / "net")
    return found.call(np.arange(6.0).reshape(2, 3)), found.description


# Arrays.

TENSORS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "bn.running_var": np.ones(5),
    "steps": np.array(7),
}


def make_safetensors(folder):
    (folder / "a.safetensors").write_bytes(save(TENSORS))


def read_safetensors(folder):
    return read_state_dict(folder / "a.safetensors")


def make_pth(folder):
    """As `torch.save` does it; written without torch."""
    content = pickle.dumps({"w": list(range(5)), "model": {"net": {}}}, protocol=2)
    with zipfile.ZipFile(folder / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/data/0", np.arange(24, dtype=np.float32).tobytes())
        archive.writestr("a/version", "3\n")


def read_pth(folder):
    return read_state_dict(folder / "a.pth")


SHAPE = (8, 8, 1)


def model_config():
    config = configuration.Config(name="test")
    config.model.name = "small"
    return config


def model_variables():
    model = build_model(model_config().model, image_shape=SHAPE)
    image = np.zeros((1, *SHAPE), np.float32)
    variables = jax.jit(lambda key: model.init(key, image, train=False))
    return jax.tree.map(np.asarray, dict(variables(jax.random.key(0))))


def metadata():
    config = configuration.to_dict(model_config())
    return {"config": config, "image_shape": list(SHAPE), "version": "0", "commit": "0"}


def make_pretrained(folder):
    arrays = pretrained._packed(model_variables())
    card = {"name": "tiny", "step": 3, "metadata": metadata()}
    card["checksum"] = pretrained._checksum(card, arrays)
    (folder / "tiny").mkdir()
    (folder / "tiny" / "variables.npz").write_bytes(arrays)
    (folder / "tiny" / "card.json").write_text(json.dumps(card))


def read_pretrained(folder):
    pretrained.FOLDER = folder
    return pretrained.load("tiny")


def pretrained_resealed(files, seed, count):
    """Other arrays or another card, with a checksum that is right."""
    rng = random.Random(seed)
    arrays = mutations(files["tiny/variables.npz"], seed=seed, count=count)
    for i in range(count):
        card = json.loads(files["tiny/card.json"])
        content = files["tiny/variables.npz"]
        if i % 2:
            content = next(arrays)
        else:
            _become(card, rng)
        card["checksum"] = pretrained._checksum(card, content)
        yield {
            "tiny/variables.npz": content,
            "tiny/card.json": json.dumps(card).encode(),
        }


# Checkpoints.


def make_run(folder):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(
            3,
            variables=model_variables(),
            optimizer={"count": np.zeros((), np.int32)},
            progress={"step": 3},
            metadata=metadata(),
            score=0.5,
        )


def read_run(folder):
    with Checkpoints(folder, read_only=True) as checkpoints:
        accuracy = checkpoints.score(3)
    return load_run(folder), accuracy


def make_variables(folder):
    save_variables(folder / "snn", model_variables(), {"steps": 4})


def read_variables(folder):
    return load_variables(folder / "snn")


def described(files, seed, count):
    """Other descriptions of arrays, in files whose own checksums are right."""
    rng = random.Random(seed)
    folder = Path(_scratch)
    for _ in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        base = f"file://{folder.absolute()}/snn/variables/"
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        keys = [k for k in store.list().result() if k.endswith(b".zarray")]
        for key in rng.sample(keys, rng.choice((1, len(keys)))):
            text = json.loads(store.read(key).result().value)
            store.write(key, json.dumps(values_changed(text, rng))).result()
        yield {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }


# What commands leave for each other.


def make_results(folder):
    config = metadata()["config"]
    result = {
        **{"test": {"accuracy": 0.5, "loss": 1.5}, "validation_accuracy": 0.5},
        **{"step": 3, "seconds": 2.0, "seed": 0, "device": "cpu", "num_devices": 1},
        **metadata(),
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "conversion.json").write_text(json.dumps(conversion(config)))


def conversion(config):
    snn = {"accuracy": 0.5, "spikes_per_neuron": 0.7, "milliseconds_per_example": 1.0}
    snn |= {"compile_seconds": 1.0, "predictions_differing": 0}
    codes = {"neurons": 9, "differing": 0}
    layer = {"path": "act", "largest_membrane_difference": 1e-9, **codes}
    certificate = {"exact": True, "examples": 20, "examples_differing": 0, **codes}
    certificate |= {"largest_output_difference": 1e-9, "outputs_agree": True}
    row = {"steps": 4, "levels": 15, "requantised": False, "ann_accuracy": 0.5}
    row |= {"fused": snn, "layers": [{"path": "act", "neurons": 9, "spikes": [0.7]}]}
    row |= {"certificate": {"float64": {**certificate, "layers": [layer]}}}
    neurons = [{"path": "act", "shape": [9], "theta": 1.0, "levels": 15}]
    found = {"changed": [{"path": "bias", "largest_change": 0.1}], "neurons": neurons}
    found |= {"nonspiking": [], "analog": [], "bias_shift": "parameters"}
    return {
        "run": {**RUN, "steps": 4, "levels": 15, "config": config},
        "machine": MACHINE,
        **{"examples": 20, "ann": {"accuracy": 0.5}, "steps": [row]},
        **{"conversion": found, "fixed_point": None, "raster": None},
    }


RUN = {
    **{"name": "a", "model": "small", "dataset": "digits", "checkpoint_step": 3},
    **{"seed": 0, "version": "0", "commit": None, "command": ""},
}
MACHINE = {"jax": "0", "device": "cpu", "num_devices": 1, "time": ""}


def read_results(folder):
    run = pretrained.Run(model_config(), {}, 3, metadata())
    result = read_typed(folder / "result.json", TrainingResult, advice="train")
    conversion = read_typed(
        folder / "conversion.json", ConversionResult, advice="convert"
    )
    card = make_card("a", run, result, conversion, command="", hardware="")
    return to_markdown({**card, "checksum": ""})


def comparison():
    row = {"method": "qcfs", "steps": 4, "window": 4, "until_output": 4, "seed": 0}
    numbers = {"accuracy": 0.5, "agreement": 0.5, "spikes_per_neuron": 0.7}
    numbers |= {"synaptic_operations": 7.0, "nanojoules": 1.0, "milliseconds": 1.0}
    return {
        **{"run": RUN, "machine": MACHINE},
        **{"examples": 20, "batch": 4, "neurons": 9, "depth": 3, "profile": "mixed"},
        "networks": {"qcfs": {"accuracy": 0.5, "milliseconds": 1.0, "from": "a"}},
        "methods": {
            "qcfs": {
                **{"title": "QCFS", "source": "a paper", "trained_with": "qcfs"},
                "seconds": 1.0,
            }
        },
        "rows": [row | numbers],
        "failed": [],
    }


def make_comparison(folder):
    (folder / "compare.json").write_text(json.dumps(comparison()))


def read_comparison(folder):
    begun = typed(comparison() | {"rows": [], "methods": {}}, ComparisonResult)
    with contextlib.redirect_stdout(io.StringIO()):
        return ComparisonStore(folder / "compare.json", begun).results


def make_metrics(folder):
    lines = [{"step": i, "split": "train", "loss": 1 / i} for i in range(1, 30)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def read_metrics(folder):
    with metrics_log(folder, step=20):
        return (folder / "metrics.jsonl").read_bytes()


# Pictures.


def make_idx(folder):
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (6, 5, 4)).astype(np.uint8)
    for prefix, zipped in (("a", False), ("b", True)):
        for name, array in (
            ("images-idx3", images),
            ("labels-idx1", np.uint8([0, 1, 2] * 2)),
        ):
            header = bytes((0, 0, 8, array.ndim))
            header += b"".join(n.to_bytes(4, "big") for n in array.shape)
            content = header + array.tobytes()
            if zipped:
                content = gzip.compress(content, mtime=0)
            end = ".gz" if zipped else ""
            (folder / f"{prefix}-{name}-ubyte{end}").write_bytes(content)


def read_idx(folder):
    return [read_pair(str(folder), prefix=prefix) for prefix in "ab"]


def make_pictures(folder):
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(0, 256, (40, 36, 3)).astype(np.uint8)
    for name in ("a.png", "b.jpg", "c.webp", "d.bmp", "e.tiff", "f.ppm"):
        Image.fromarray(pixels).save(folder / name)


def read_pictures(folder):
    examples = data.load_pictures(folder, size=32)
    return [examples[i]["image"] for i in range(len(examples))]


ON_DISK = (ValueError, OSError)
FORMATS = {
    "export": Format(make_export, read_export, 450),
    "export by the referee": Format(make_export, run_referee, 450, errors=(Refused,)),
    "export, resealed": Format(make_export, read_export, 200, False, resealed),
    "export, resealed, by the referee": Format(
        make_export, run_referee, 200, False, resealed, (Refused,)
    ),
    "export of rows, resealed": Format(make_rows, read_export, 200, False, resealed),
    "export of rows, resealed, by the referee": Format(
        make_rows, run_referee, 200, False, resealed, (Refused,)
    ),
    "NIR": Format(make_nir, read_nir, 300),
    "NIR, resealed": Format(make_nir, read_nir, 150, False, nir_resealed),
    "StableHLO": Format(make_stablehlo, read_stablehlo_file, 200),
    ".safetensors": Format(make_safetensors, read_safetensors, 300, False),
    ".pth": Format(make_pth, read_pth, 150, False),
    "network of the package": Format(make_pretrained, read_pretrained, 300),
    "network of the package, resealed": Format(
        make_pretrained, read_pretrained, 150, False, pretrained_resealed
    ),
    "run": Format(make_run, read_run, 400),
    "variables": Format(make_variables, read_variables, 200),
    "variables, descriptions": Format(
        make_variables, read_variables, 150, cases=described
    ),
    "result.json and conversion.json": Format(make_results, read_results, 200, False),
    "compare.json": Format(make_comparison, read_comparison, 150, False),
    "metrics.jsonl": Format(make_metrics, read_metrics, 150, False),
    "IDX": Format(make_idx, read_idx, 200, False, errors=ON_DISK),
    "pictures": Format(make_pictures, read_pictures, 250, False, errors=ON_DISK),
}
