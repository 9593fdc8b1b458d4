"""A compiled network as a file of StableHLO, which runs without this package.

`write` saves a function of arrays, such as `one_shot(network)` or a fused pass with its
variables, with `jax.export`: parameters are constants in it, and the batch size is
open. JAX reads files of its last six months. A JSON file beside it has a description.

A file gives the same bits in every process of one machine. Integers also equal those of
the original function, bit by bit and on any device. Floats may differ from it in their
last bits, since XLA compiles another program for an open batch size.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import export

from bitsnn_jax.runtime.reading import ReadingError, parse_json, sealed, unsealed

FORMAT = "bitsnn_jax stablehlo"
VERSION = 2


class ArtefactError(ReadingError):
    """A function that cannot be written, or a file that is none of ours or damaged."""


class Artefact(NamedTuple):
    """The result of `read`.

    Attributes:
      call: the exported function, of arrays shaped as the example, for any batch. Like
        `jax.jit`, it compiles once for each size.
      description: the contents of the JSON file without its checksum.
    """

    call: Callable[..., Any]
    description: dict[str, Any]


def write(
    path: str | os.PathLike,
    fn: Callable[..., Any],
    *example: Any,
    steps: int,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
) -> None:
    """Write `path`, and `path` with .json at its end: both, or neither.

    `fn` is traced for one example and mapped over the batch.

    Args:
      path: of the file.
      fn: takes arrays with a batch axis, treats each example on its own, as networks in
        inference do, and returns dictionaries, lists and tuples of arrays with that
        axis. Named tuples become tuples.
      *example: arguments of `fn`, or `jax.ShapeDtypeStruct`s of them, with any batch.
      steps: T, for the description.
      platforms: the ones that the file can run on.

    Raises:
      ArtefactError: a result without a batch axis, such as a count of all spikes; a
        function that JAX cannot trace or export.
    """
    batch = export.symbolic_shape("batch")[0]

    def opened(leaf):
        return jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype)

    try:
        program = jax.jit(jax.vmap(_of_one(fn)))
        exported = export.export(program, platforms=platforms)(
            *jax.tree.map(opened, example)
        )
        contents = bytes(exported.serialize())
    except Exception as error:  # any kind, since tracing runs `fn`
        message = " ".join(str(error).split())
        raise ArtefactError(f"{path}: cannot be exported: {message}") from error
    description = {
        "format": FORMAT,
        "format_version": VERSION,
        "steps": steps,
        "jax": jax.__version__,
        "calling_convention": exported.calling_convention_version,
        "platforms": list(exported.platforms),
        "inputs": [_described(aval) for aval in exported.in_avals],
        "outputs": [_described(aval) for aval in exported.out_avals],
        "output_tree": str(exported.out_tree),
        "sha256": hashlib.sha256(contents).hexdigest(),
    }
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        (Path(folder) / "program").write_bytes(contents)
        (Path(folder) / "description").write_bytes(sealed(description))
        # If killed in between, `read` finds a wrong checksum.
        os.replace(Path(folder) / "program", path)
        os.replace(Path(folder) / "description", described_in(path))


def read(path: str | os.PathLike) -> Artefact:
    """Read the function of a file of `write`; the parameters are in it.

    Raises:
      ArtefactError: missing, damaged or other files, or another format version; in one
        line.
    """
    where = described_in(path)
    try:
        text, contents = where.read_bytes(), Path(path).read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read: {error}") from None
    try:
        description = parse_json(text)
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise ReadingError(f"does not describe a {FORMAT} file")
        if (version := description.get("format_version")) != VERSION:
            anew = ", which has no checksum: write the file anew" * (version == 1)
            raise ReadingError(f"format version {version}{anew}; expected {VERSION}")
        description = unsealed(text)
    except ReadingError as error:
        raise ArtefactError(f"{where}: {error}") from None
    digest = hashlib.sha256(contents).hexdigest()
    if digest != description.get("sha256"):
        raise ArtefactError(
            f"{path}: truncated, damaged, or not the file that its description is of: "
            f"SHA-256 {digest}, expected {description.get('sha256')}"
        )
    try:
        exported = export.deserialize(bytearray(contents))
    except Exception as error:  # of flatbuffers or XLA, depending on the damage
        message = " ".join(str(error).split())
        raise ArtefactError(f"{path}: JAX cannot read it: {message}") from None
    return Artefact(jax.jit(exported.call), description)


def described_in(path: str | os.PathLike) -> Path:
    """Return where the description of a file lies."""
    return Path(f"{os.fspath(path)}.json")


def _of_one(fn):
    """Apply `fn` to one example, without a batch axis."""

    def one(*args):
        results = fn(*jax.tree.map(lambda x: x[None], args))
        shapes = [leaf.shape for leaf in jax.tree.leaves(results)]
        if lacking := [shape for shape in shapes if shape[:1] != (1,)]:
            raise ValueError(
                f"a result of shape {lacking[0]} for a batch of 1: it has no batch axis"
            )
        return jax.tree.map(lambda y: y[0], _plain(results))

    return one


def _plain(tree):
    """Replace named tuples, which only this package could read, by plain ones."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    if isinstance(tree, tuple):
        return tuple(_plain(value) for value in tree)
    return tree


def _described(aval) -> dict[str, Any]:
    return {"shape": [str(n) for n in aval.shape], "type": str(aval.dtype)}
