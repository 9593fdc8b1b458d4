"""Run the files of this folder on their test vectors, and compare bit for bit.

    python check.py [FOLDER] [--runtime NAME ...] [--limit N]

It needs NumPy and the runtime, and nothing of the package that wrote the folder. So the
folder can be copied to the machine that is to run the network. It prints a line for
each runtime, by default for all that are installed and find their files here. The exit
status is 0 if every code and every output agrees, 1 if one does not (the line names the
first), and 2 if something cannot be read.

    onnxruntime    one_shot.onnx, stepped.onnx
    qonnx          network.onnx, in its executor
    jax            one_shot.stablehlo, stepped.stablehlo
    nirtorch       threshold.nir; it has no Threshold, so it is told x > threshold
    snntorch       lif.nir, by its import_from_nir, as it is
    norse          if.nir, by nirtorch with the neuron of Norse
    sinabs         if.nir, by nirtorch with the neuron of sinabs
    spikingjelly   if.nir, by its import_from_nir with a time step of 1, as it is

Norse's and sinabs' own functions `from_nir` run nodes before all that feeds them (see
`nirtorch.load` 2.6), which is wrong wherever two edges meet. onnxruntime on x86 without
VNNI saturates sums of two products of bytes at 16 bits, so run this on each kind of
machine.
"""

import argparse
import hashlib
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT, VERSION = "bitsnn vectors", 1
VECTORS, SCRIPT = "vectors.npz", "check.py"
BATCH = 16

Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class CheckError(ValueError):
    """A folder that cannot be read, or a runtime that is missing."""


class Runtime(NamedTuple):
    """What runs files.

    Attributes:
      files: that it runs, one after the other.
      load: makes a function of one: inputs [n, ...] -> codes and outputs, by name.
    """

    files: tuple[str, ...]
    load: Callable[[Path], Run]


class Tally(NamedTuple):
    """What a comparison found.

    Attributes:
      inputs: how many.
      compared: codes and outputs.
      differing: of these.
      first: the first that differs, in words; "" where all agree.
    """

    inputs: int
    compared: int
    differing: int
    first: str


def complete(folder: Path, vectors: Mapping[str, np.ndarray]) -> None:
    """Add this script to a folder, and test vectors with checksums of its files.

    Args:
      folder: which holds all that a runtime reads, and no more.
      vectors: "input" [n, ...], "codes/NAME" and "outputs/NAME", as the files have
        them; none for the script alone.
    """
    facts: dict[str, Any] = {"format": np.array(FORMAT), "version": np.array(VERSION)}
    for path in folder.iterdir():
        facts[f"sha256 {path.name}"] = np.array(_sha256(path.read_bytes()))
    shutil.copyfile(__file__, folder / SCRIPT)
    if vectors:
        facts |= vectors
        np.savez_compressed(folder / VECTORS, **facts)


def compare(folder: Path, runtime: str, limit: int | None = None) -> Tally:
    """Run the test vectors of a folder and compare every code and every output.

    Raises:
      CheckError: files that cannot be read, or a runtime that is not installed or does
        not run them.
    """
    arrays = _vectors(folder / VECTORS)
    inputs = arrays["input"][:limit]
    names = [name for name in arrays if name.startswith(("codes/", "outputs/"))]
    compared, differing, first = 0, 0, ""
    files, load = RUNTIMES[runtime]
    for file in files:
        _check_digest(folder / file, arrays.get(f"sha256 {file}"))
        for start, found in _batches(folder / file, load, inputs):
            for name in names:
                if name not in found:
                    raise CheckError(
                        f"{folder / file} has no {name}: take both from one export"
                    )
                wanted = arrays[name][start : start + BATCH][: len(inputs) - start]
                got = np.asarray(found[name])
                odd = np.argwhere(got.reshape(wanted.shape) != wanted)
                compared, differing = compared + wanted.size, differing + len(odd)
                if len(odd) and not first:
                    at = tuple(int(i) for i in odd[0])
                    first = (
                        f"{file}: {name} differs first at example {start + at[0]}, "
                        f"place {[*at[1:]]}: {got.reshape(wanted.shape)[at]:g}, "
                        f"expected {wanted[at]}"
                    )
    return Tally(len(inputs), compared, differing, first)


def _batches(path, load, inputs) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
    """Run a file on all inputs, a part at a time."""
    try:
        run = load(path)
        for start in range(0, len(inputs), BATCH):
            yield start, run(inputs[start : start + BATCH])
    except (CheckError, GeneratorExit):
        raise
    except ImportError as error:
        name = error.name or error
        raise CheckError(f"{name} is not installed: pip install {name}") from None
    except Exception as error:  # runtimes have no class of their own for them
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckError(f"{path} cannot be run: {message:.300}") from None


# Runtimes.


def _onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run(inputs):
        found = zip(names, session.run(names, {"input": inputs}), strict=True)
        return {_key(name): array for name, array in found}

    return run


def _key(name: str) -> str:
    """Return the name in the test vectors of an output of an ONNX file."""
    if name.startswith("code_"):
        return f"codes/{name.removeprefix('code_')}"
    return f"outputs/{name}"


def _qonnx(path: Path) -> Run:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    model = ModelWrapper(str(path))
    source, outputs = model.graph.input[0].name, {o.name for o in model.graph.output}

    def run(inputs):  # of a batch of 1, in float32
        found: dict[str, list[np.ndarray]] = {}
        for one in inputs:
            fed = {source: one[None].astype(np.float32)}
            tensors = execute_onnx(model, fed, return_full_exec_context=True)
            for name, array in tensors.items():
                if np.shape(array)[:1] == (1,):
                    kind = "outputs" if name in outputs else "codes"
                    found.setdefault(f"{kind}/{name}", []).append(array)
        return {name: np.concatenate(arrays) for name, arrays in found.items()}

    return run


def _jax(path: Path) -> Run:
    import jax.export

    program = jax.export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(program.call)

    def run(inputs):
        outputs, codes, *_ = call(inputs)
        found = {f"outputs/{name}": array for name, array in outputs.items()}
        return found | {f"codes/{name}": array for name, array in codes.items()}

    return run


def _of_nir(module_of: Callable[[Any], Any]) -> Callable[[Path], Run]:
    """Make a loader of NIR of what turns a graph into a PyTorch module."""

    def load(path):
        import nir

        graph = nir.read(path)
        # A new module for each batch, since neurons may keep their membranes.
        return lambda inputs: _sent(graph, module_of(graph), inputs)

    return load


def _sent(graph: Any, module: Any, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Run a graph on inputs, channels last; return its codes and outputs."""
    import torch

    found: dict[str, Any] = {}
    for name, node in graph.nodes.items():
        if "value" in node.metadata and name not in graph.inputs:
            layer, value = node.metadata["layer"], int(node.metadata["value"])
            hook = _adding(found, f"codes/{layer}", value)
            module.get_submodule(name).register_forward_hook(hook)
    x = np.moveaxis(inputs, -1, 1).reshape(-1, *next(iter(graph.input_type.values())))
    with torch.no_grad():
        result = module(torch.from_numpy(x.astype(np.float32)))
    [output] = graph.outputs.values()
    found[f"outputs/{output.metadata['layer']}"] = result[0].numpy()
    return {name: np.moveaxis(x, 1, -1) for name, x in found.items()}


def _adding(found, name, value):
    """Add up the spikes of a layer, each times what it is worth."""

    def add(module, inputs, output):
        spikes = output[0] if isinstance(output, tuple) else output
        found[name] = found.get(name, 0) + value * spikes.numpy().astype(np.int32)

    return add


def _nirtorch(graph):
    import nir
    import nirtorch
    import torch

    class Threshold(torch.nn.Module):
        def __init__(self, node):
            super().__init__()
            self.register_buffer("threshold", torch.from_numpy(node.threshold))

        def forward(self, x):
            return (x > self.threshold).float()

    return nirtorch.nir_to_torch(graph, {nir.Threshold: Threshold, nir.Affine: _affine})


def _snntorch(graph):
    import contextlib
    import io

    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):  # it says what it does
        return import_from_nir(graph)


def _norse(graph):
    import nir
    import nirtorch
    import norse.torch as norse
    import torch

    def neuron(node):
        threshold = torch.from_numpy(node.v_threshold)
        return norse.IAFCell(norse.IAFParameters(v_th=threshold))

    return nirtorch.nir_to_torch(graph, {nir.IF: neuron, nir.Affine: _affine})


def _sinabs(graph):
    import nir
    import nirtorch
    import sinabs.layers
    import torch

    def neuron(node):
        threshold = torch.from_numpy(node.v_threshold)
        return sinabs.layers.IAFSqueeze(spike_threshold=threshold, num_timesteps=1)

    return nirtorch.nir_to_torch(graph, {nir.IF: neuron, nir.Affine: _affine})


def _spikingjelly(graph):
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    return import_from_nir(graph, dt=1.0)


def _affine(node):
    """Make a layer with the bias of the node, which nirtorch 2.6 forgets."""
    import torch

    made = torch.nn.Linear(*node.weight.shape[::-1])
    made.weight.data = torch.from_numpy(node.weight)
    made.bias.data = torch.from_numpy(node.bias)
    return made


RUNTIMES = {
    "onnxruntime": Runtime(("one_shot.onnx", "stepped.onnx"), _onnxruntime),
    "qonnx": Runtime(("network.onnx",), _qonnx),
    "jax": Runtime(("one_shot.stablehlo", "stepped.stablehlo"), _jax),
    "nirtorch": Runtime(("threshold.nir",), _of_nir(_nirtorch)),
    "snntorch": Runtime(("lif.nir",), _of_nir(_snntorch)),
    "norse": Runtime(("if.nir",), _of_nir(_norse)),
    "sinabs": Runtime(("if.nir",), _of_nir(_sinabs)),
    "spikingjelly": Runtime(("if.nir",), _of_nir(_spikingjelly)),
}


# Files.


def _vectors(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise CheckError(f"{path} is not there: export with test vectors") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckError(f"{path} is damaged: {error}") from None
    for name, expected in {"format": FORMAT, "version": VERSION}.items():
        if (found := arrays.pop(name, np.array(None)).item()) != expected:
            raise CheckError(
                f"{path}: {name} {found}, this script reads {expected}: take both from "
                "one export"
            )
    if not len(arrays.get("input", ())):
        raise CheckError(f"{path} holds no inputs: export with test vectors")
    return arrays


def _check_digest(path: Path, digest: np.ndarray | None) -> None:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckError(f"{path} cannot be read: {error.strerror}") from None
    if digest is None or _sha256(data) != str(digest):
        raise CheckError(f"{path} is damaged: its checksum is another")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_installed(runtime: str) -> bool:
    try:
        return bool(version(runtime))
    except ImportError:
        return False


def _chosen(folder: Path, named: list[str] | None) -> list[str]:
    """Return the runtimes to run, at least one."""
    if named:
        return named
    able = [
        name
        for name, row in RUNTIMES.items()
        if any((folder / file).exists() for file in row.files)
    ]
    if not able:
        raise CheckError(f"{folder} holds no file of {', '.join(RUNTIMES)}")
    if not (there := [name for name in able if _is_installed(name)]):
        raise CheckError(f"{' or '.join(able)} is not installed: pip install {able[0]}")
    return there


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parent
    parser.add_argument("folder", nargs="?", type=Path, default=here)
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, help="default: all")
    parser.add_argument("--limit", type=int, help="inputs, at most (default: all)")
    options = parser.parse_args(argv)
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit must be at least 1, got {options.limit}")
    agreed = True
    try:
        for runtime in _chosen(options.folder, options.runtime):
            found = compare(options.folder, runtime, options.limit)
            agreed &= not found.differing
            text = (
                f"all {found.compared:,} codes and outputs of {found.inputs} inputs "
                f"agree in {' and '.join(RUNTIMES[runtime].files)}"
            )
            print(f"{runtime} {version(runtime)}: {found.first or text}", flush=True)
    except CheckError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
