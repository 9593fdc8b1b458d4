"""Run the NIR files of this folder in readers of others, and compare every spike.

    python check.py [FOLDER] [--reader NAME ...] [--limit N]

It needs NumPy, nir, nirtorch, PyTorch and the reader, and nothing of the package that
wrote the folder, so the folder can be copied. It prints a line for each reader, by
default for all that are installed. The exit status is 0 if every code and every output
agrees, 1 if one does not (the line names the first), and 2 if something cannot be read.

Readers:

    nirtorch       threshold.nir; it has no Threshold, so it is told x > threshold
    snntorch       lif.nir, by its import_from_nir, as it is
    norse          if.nir, by nirtorch with the neuron of Norse
    sinabs         if.nir, by nirtorch with the neuron of sinabs
    spikingjelly   if.nir, by its import_from_nir with a time step of 1, as it is

Norse's and sinabs' own functions `from_nir` run nodes before all that feeds them (see
`nirtorch.load` 2.6), which is wrong wherever two edges meet.
"""

import argparse
import hashlib
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT, VERSION = "bitsnn nir", 1
VECTORS = "vectors.npz"
BATCH = 50


class CheckError(ValueError):
    """A folder that cannot be read, or a reader that is missing."""


class Reader(NamedTuple):
    """A reader of NIR.

    Attributes:
      file: what it reads.
      load: makes a PyTorch module of a NIR graph.
    """

    file: str
    load: Callable[[Any], Any]


def save_vectors(
    folder: Path, files: Mapping[str, bytes], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write the test vectors, with checksums of the files that they belong to."""
    named: dict[str, Any] = {"format": np.array(FORMAT), "version": np.array(VERSION)}
    named |= {f"sha256 {name}": np.array(_sha256(data)) for name, data in files.items()}
    named |= arrays
    np.savez_compressed(folder / VECTORS, **named)


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


def compare(folder: Path, reader: str, limit: int | None = None) -> Tally:
    """Run the test vectors of a folder and compare every code and every output.

    Raises:
      CheckError: files that cannot be read, or a reader that is not installed or does
        not run them.
    """
    arrays = _vectors(folder)
    file, load = READERS[reader]
    inputs = arrays["input"][:limit]
    graph = _graph(folder / file, arrays.get(f"sha256 {file}"))
    names = [name for name in arrays if name.startswith(("codes/", "outputs/"))]
    compared, differing, first = 0, 0, ""
    for start in range(0, len(inputs), BATCH):
        some = slice(start, min(start + BATCH, len(inputs)))
        # A new module, since neurons may keep their membranes.
        sent = run(graph, load, inputs[some])
        for name in names:
            wanted = arrays[name][some]
            found = sent[name].reshape(wanted.shape)
            odd = np.argwhere(found != wanted)
            compared, differing = compared + wanted.size, differing + len(odd)
            if len(odd) and not first:
                example, *place = (int(i) for i in odd[0])
                first = (
                    f"{name} differs first at example {start + example}, place {place}:"
                    f" {found[tuple(odd[0])]:g}, expected {wanted[tuple(odd[0])]}"
                )
    return Tally(len(inputs), compared, differing, first)


def run(graph: Any, load: Callable[[Any], Any], inputs: np.ndarray) -> dict[str, Any]:
    """Run a graph on inputs, channels last; return its codes and outputs, by name."""
    import torch

    found: dict[str, Any] = {}
    try:
        module = load(graph)
        for name, layer, value in _neurons(graph):
            module.get_submodule(name).register_forward_hook(
                _adding(found, f"codes/{layer}", value)
            )
        x = np.moveaxis(inputs, -1, 1).reshape(
            -1, *next(iter(graph.input_type.values()))
        )
        with torch.no_grad():
            result = module(torch.from_numpy(x.astype(np.float32)))
    except ImportError as error:
        raise CheckError(f"{error.name or error} is not installed") from None
    except Exception as error:  # readers have no class of their own for them
        message = " ".join(str(error).split())
        raise CheckError(
            f"the reader fails: {type(error).__name__}: {message:.300}"
        ) from None
    [output] = graph.outputs.values()
    found[f"outputs/{output.metadata['layer']}"] = result[0].numpy()
    return {name: np.moveaxis(x, 1, -1) for name, x in found.items()}


def _neurons(graph) -> Iterator[tuple[str, str, int]]:
    """Yield the nodes that layers are sums of, the layer, and what a spike is worth."""
    for name, node in graph.nodes.items():
        if "value" in node.metadata and name not in graph.inputs:
            yield name, node.metadata["layer"], int(node.metadata["value"])


def _adding(found, name, value):
    def add(module, inputs, output):
        spikes = output[0] if isinstance(output, tuple) else output
        found[name] = found.get(name, 0) + value * spikes.numpy().astype(np.int32)

    return add


# Readers.


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


READERS = {
    "nirtorch": Reader("threshold.nir", _nirtorch),
    "snntorch": Reader("lif.nir", _snntorch),
    "norse": Reader("if.nir", _norse),
    "sinabs": Reader("if.nir", _sinabs),
    "spikingjelly": Reader("if.nir", _spikingjelly),
}


# Files.


def _vectors(folder: Path) -> dict[str, np.ndarray]:
    path = folder / VECTORS
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise CheckError(f"{path} is not there: export with test vectors") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CheckError(f"{path} is damaged: {error}") from None
    known = {"format": FORMAT, "version": VERSION}
    for name, expected in known.items():
        if (found := arrays.pop(name, np.array(None)).item()) != expected:
            raise CheckError(f"{path}: {name} {found}, this script reads {expected}")
    return arrays


def _graph(path: Path, digest: np.ndarray | None) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckError(f"{path} cannot be read: {error.strerror}") from None
    if digest is None or _sha256(data) != str(digest):
        raise CheckError(f"{path} is damaged: its checksum is another")
    try:
        import nir
    except ImportError:
        raise CheckError("nir is not installed: pip install nir") from None
    return nir.read(path)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_installed(reader: str) -> bool:
    try:
        return bool(version(reader))
    except ImportError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parent
    parser.add_argument("folder", nargs="?", type=Path, default=here)
    parser.add_argument("--reader", nargs="+", choices=READERS, help="default: all")
    parser.add_argument("--limit", type=int, help="inputs, at most (default: all)")
    options = parser.parse_args()
    readers = options.reader or [name for name in READERS if _is_installed(name)]
    if not readers:
        print(f"no reader is installed: {', '.join(READERS)}", file=sys.stderr)
        return 2
    agreed = True
    for reader in readers:
        try:
            found = compare(options.folder, reader, options.limit)
        except CheckError as error:
            print(f"{reader}: {error}", file=sys.stderr)
            return 2
        agreed &= not found.differing
        text = (
            f"all {found.compared:,} codes and outputs of {found.inputs} inputs agree"
        )
        print(f"{reader} {version(reader)}: {found.first or text}", flush=True)
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
