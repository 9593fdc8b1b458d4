"""The job of `export.py`: a network in integers, written in other formats."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bitsnn_jax.exports.bundle_reader import NETWORK, sha256
from bitsnn_jax.exports.bundle_writer import load, load_vectors
from bitsnn_jax.exports.formats import FORMATS
from bitsnn_jax.runs.checkpoint import CheckpointError
from bitsnn_jax.runs.loading import check_qcfs, find_run, snn_folder
from bitsnn_jax.runs.provenance import commit
from bitsnn_jax.runtime.files import make_folder, replace_json, replaced_folder
from bitsnn_jax.runtime.reading import ReadingError, parse_json, read_json
from bitsnn_jax.version import __version__

DESCRIPTION = "export.json"  # the mark of a folder that may be written over
FIXED_POINT = "fixed_point"  # below RUN/snn
RESULTS = "conversion.json"  # beside it


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is exported, and in which formats.

    Attributes:
      source: folder of a run or name of a network of the package, whose integers
        `convert.py --fixed-point` has written; or the folder of these integers.
      formats: of `FORMATS`.
      out: a folder for one of each format; None for that of the integers' own.
    """

    source: str
    formats: Sequence[str]
    out: Path | None = None


def export(options: ExportOptions) -> list[Path]:
    """Write the network in each format; return the folders.

    Raises:
      ExchangeError: integers that are not there, or damaged.
      ValueError: a folder that holds anything else, a library that is missing, or a
        network that a format does not have; nothing is written of that format.
    """
    bundle = _bundle(options.source)
    network, vectors = load(bundle), load_vectors(bundle)
    out = options.out or bundle.parent
    folders = [out / name for name in options.formats]
    for folder in folders:
        _check_replaceable(folder)
    for name, folder in zip(options.formats, folders, strict=True):
        row = FORMATS[name]
        make_folder(out)
        with replaced_folder(folder) as new:
            new.mkdir()
            try:
                row.write(network, vectors, new)
            except ImportError as error:
                raise ValueError(_missing(name, error)) from error
            described = {
                "format": name,
                "network": sha256((bundle / NETWORK).read_bytes()),
                "steps": network.steps,
                "bits": network.bits,
                "version": __version__,
                "commit": commit(),
            }
            replace_json(new / DESCRIPTION, described)
    return folders


def _bundle(source: str) -> Path:
    """Find the folder of integers."""
    if (Path(source) / NETWORK).exists():
        return Path(source)
    bundle = snn_folder(source) / FIXED_POINT
    if bundle.exists() and not _has_integers(bundle.parent / RESULTS):
        raise ValueError(
            f"{bundle} is not of the last conversion of {source}, which had no "
            "integers or did not end: run convert.py --fixed-point again, or give that "
            "folder itself"
        )
    if not bundle.exists():
        with suppress(CheckpointError):
            run = find_run(source)
            check_qcfs(run, source, advice="convert.py takes no other")
        raise ValueError(
            f"{bundle} is not there: expected a network in integers; write it with "
            f"convert.py --ckpt {source} --fixed-point"
        )
    return bundle


def _has_integers(results: Path) -> bool:
    """Tell whether a conversion ended, and was in integers too."""
    if not results.exists():
        return False
    found = read_json(results, advice="run convert.py again")
    return bool(found.get("fixed_point"))


def _missing(name: str, error: ImportError) -> str:
    extra = FORMATS[name].extra
    return (
        f"{name} needs {error.name or error}: install it with pip install "
        f"'bitsnn-jax[{extra}]'"
    )


def _check_replaceable(folder: Path) -> None:
    """Refuse to write over what no export has written."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        described = parse_json((folder / DESCRIPTION).read_bytes())
    except (OSError, ReadingError):
        described = None
    if not isinstance(described, dict) or described.get("format") not in FORMATS:
        raise ValueError(
            f"{folder} is there and not an export: remove it, or choose another --out"
        )
