"""Checkpoints: written by Orbax, read back only if they are whole and make sense."""

import json
import math
import os
import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import args as ocp_args
from orbax.checkpoint import checkpoint_managers

from bitsnn_jax.config import Config, from_dict
from bitsnn_jax.runs.checkpoint_checks import (
    check_sizes,
    checked_metrics,
    metrics_checksum,
    metrics_with_checksum,
)
from bitsnn_jax.runtime.files import beside, naming, remove, replaced_folder, standing
from bitsnn_jax.tasks import task_of

FOLDER = "checkpoints"  # inside a run folder
_JSON = {"metadata", "progress", "checksums"}  # items; the others are trees of arrays
# Inside it: a step is renamed into this folder before its files are deleted one by one.
_DELETED = ".deleted"
_ATTEMPTS = 3  # to read the best checkpoint of a run that goes on


class CheckpointError(ValueError):
    """A checkpoint that is not there, is damaged, or does not fit its model."""


@dataclass(frozen=True)
class Run:
    """The checkpoint of a finished or unfinished run that is to be used.

    Attributes:
      config: of the run.
      variables: {"params", "batch_stats"}, NumPy arrays.
      step: after which they were saved.
      metadata: what was saved beside them: image shape, version, commit.
    """

    config: Config
    variables: dict
    step: int
    metadata: dict

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of an example, of any task."""
        return tuple(self.metadata["image_shape"])


class Checkpoints:
    """The checkpoints of one run folder: the newest few and the best.

    Saving is asynchronous. A checkpoint has its final name only while it is complete,
    so that a kill at any time leaves those before it. Use as a context manager: leaving
    waits for the save under way. With `read_only`, a run that goes on elsewhere is left
    in peace: what it is about to save is not taken for the remains of a kill.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        keep: int = 2,
        read_only: bool = False,
        folder: str = FOLDER,
    ):
        self.folder = Path(workdir).absolute() / folder
        self._writes = not read_only and jax.process_index() == 0
        self._empty_deleted()
        self._remove_half_deleted()

        def score(metrics):
            found = _score(metrics)
            return -math.inf if found is None else found

        newest = checkpoint_managers.LatestN(keep)
        best = checkpoint_managers.BestN(get_metric_fn=score, n=1)
        options = ocp.CheckpointManagerOptions(
            best_fn=score,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [newest, best]
            ),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            todelete_subdir=None if read_only else _DELETED,
        )
        with _readable(self.folder, advice=_ADVICE_ALL):
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        try:
            for step in self._manager.all_steps():
                self._metrics(step)
        except CheckpointError:
            self._manager.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with _writable(self.folder):
            self._manager.close()
        self._empty_deleted()
        # A run that failed before its first step leaves nothing behind.
        if self._writes and self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _empty_deleted(self):
        if self._writes:
            remove(self.folder / _DELETED)

    def _remove_half_deleted(self):
        """Remove steps that earlier versions half deleted, which lack metrics."""
        if self._writes and self.folder.is_dir():
            for step in self.folder.iterdir():
                if step.name.isdigit() and not (step / "metrics").exists():
                    remove(step)

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the best on validation, the later of equals.

        Without any that was evaluated, the newest.
        """
        # Complete, and with its score on disk, before it is chosen.
        with _writable(self.folder):
            self._manager.wait_until_finished()
        with _readable(self.folder, advice=_ADVICE_ALL):
            return self._manager.best_step()

    def score(self, step: int) -> float | None:
        """Return that of the validation split after a step; None if not evaluated."""
        with _readable(self.folder / str(step)):
            return _score(self._metrics(step))

    def _metrics(self, step):
        """Read the metrics of that step, if they are as saved; {} without any."""
        with _readable(where := self.folder / str(step)):
            metrics = self._manager.metrics(step)
            return {} if metrics is None else checked_metrics(where, metrics)

    def save(
        self,
        step: int,
        *,
        variables: dict,
        optimizer: Any,
        progress: dict,
        metadata: dict,
        score: float | None = None,
    ) -> None:
        """Start to save. The arrays must not change from here on.

        Args:
          step: how many steps were done.
          variables: {"params", "batch_stats"}.
          optimizer: any pytree of arrays.
          progress: what else the run needs to go on; for JSON.
          metadata: "config" as a dictionary and "image_shape" at least; for JSON.
          score: of the validation split, if it was evaluated; more is better.
        """
        metrics = {"score": score}
        items = _to_save(
            {"metrics": metrics_checksum(metrics)},
            variables=variables,
            optimizer=optimizer,
            progress=progress,
            metadata=metadata,
        )
        with _writable(self.folder):  # also of the save before, which goes on till then
            # What that one has thrown out takes no room for longer.
            self._manager.wait_until_finished()
            self._empty_deleted()
            self._manager.save(
                step, args=items, metrics=metrics_with_checksum(metrics), force=True
            )

    def read(self, step: int, *names: str, optimizer: Any = None) -> tuple:
        """Read the named arguments of `save` of that step, bit by bit as given.

        Args:
          step: one that is there.
          names: "variables", "optimizer", "progress" or "metadata".
          optimizer: a pytree of the structure that "optimizer" is to have.

        Raises:
          CheckpointError: files that are not there, or not as they were written.
        """
        restore = partial(self._manager.restore, step)
        where = self.folder / str(step)
        return _read(restore, where, names, {"optimizer": optimizer})


def load_run(path: str | os.PathLike) -> Run:
    """Load the best checkpoint of a run folder and check it against its config's model.

    Args:
      path: the `workdir` of a training run.

    Raises:
      CheckpointError: no such folder, no checkpoint in it, damaged files, arrays that
        are not those of the model, theta <= 0, or a value that is not finite.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder: expected the folder of a run")
    folder = standing(path / FOLDER)
    # Orbax would create the folder that it does not find.
    if not folder.is_dir():
        raise CheckpointError(f"{path} holds no {FOLDER}: expected the folder of a run")
    if not _steps(folder):
        raise CheckpointError(f"{folder} is empty: train first")
    step, variables, metadata = _read_best(folder, attempts=_ATTEMPTS)
    where = folder / str(step)
    with _readable(where):
        config = from_dict(metadata["config"])
        input_shape = tuple(metadata["image_shape"])
    check_fit(variables, config, input_shape, where=where)
    check_values(variables, where=where)
    return Run(config, variables, step, metadata)


def _read_best(folder, *, attempts):
    there = _steps(folder)
    try:
        with Checkpoints(
            folder.parent, read_only=True, folder=folder.name
        ) as checkpoints:
            step = checkpoints.best
            if step is None:
                raise CheckpointError(f"{folder} holds no complete checkpoint")
            return step, *checkpoints.read(step, "variables", "metadata")
    except CheckpointError:
        # A run that goes on may have thrown out what was just to be read.
        if attempts == 1 or _steps(folder) == there:
            raise
    return _read_best(folder, attempts=attempts - 1)


def _score(metrics: dict) -> float | None:
    """Return the score; None where the step was not evaluated."""
    if "score" in metrics:
        return metrics["score"]
    accuracy = metrics["accuracy"]  # as earlier versions have it, with -1 for None
    return None if accuracy == -1 else accuracy


def _steps(folder):
    return {path.name for path in folder.iterdir() if path.name.isdigit()}


def save_variables(path: str | os.PathLike, variables: dict, metadata: dict) -> None:
    """Write a folder that holds one set of variables and nothing else of a run.

    The folder appears under its name when it is complete, and replaces one before it.
    Of several hosts, all call this, the first writes, and none goes on before it has.

    Args:
      path: the folder.
      variables: nested dictionaries of arrays.
      metadata: what belongs to them; for JSON.
    """
    path = Path(path).absolute()
    items = _to_save({}, variables=variables, metadata=metadata)
    first = jax.process_index() == 0
    with (
        # The others need its name only: Orbax lets the first write.
        replaced_folder(path) if first else nullcontext(beside(path)) as new,
        _writable(path),
        ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer,
    ):
        checkpointer.save(new, args=items, force=True)
    multihost_utils.sync_global_devices(f"saved {path}")


def load_variables(path: str | os.PathLike) -> tuple[dict, dict]:
    """Read (variables, metadata) of a folder of `save_variables`; NumPy arrays.

    Raises:
      CheckpointError: no such folder, damaged files, theta <= 0, or a value that is not
        finite.
    """
    path = standing(Path(path))
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder: expected saved variables")

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        restore = partial(checkpointer.restore, path.absolute())
        variables, metadata = _read(restore, path, ("variables", "metadata"))
    check_values(variables, where=path)
    return variables, metadata


def check_fit(
    variables: dict, config: Config, input_shape: tuple[int, ...], *, where: Path
) -> None:
    """Raise CheckpointError unless `variables` has the model's names and shapes."""
    if any(type(n) is not int or not 1 <= n < 2**16 for n in input_shape):
        raise CheckpointError(f"{where}: there are no inputs of {input_shape}")
    task = task_of(config)
    model = task.build(config, input_shape)
    init = partial(model.init, train=False)
    placeholder = task.placeholder(input_shape)
    expected: Any = jax.eval_shape(init, jax.random.key(0), placeholder)
    expected = {name: expected.get(name, {}) for name in variables}
    want, have = (
        {name: leaf.shape for name, leaf in _leaves(tree)}
        for tree in (expected, variables)
    )
    offsets = {name for name in have.keys() - want.keys() if _is_offset(name, want)}
    for name in sorted((want.keys() | have.keys()) - offsets):
        if want.get(name) != have.get(name):
            raise CheckpointError(
                f"{where} does not fit model.name={config.model.name}: {name} has "
                f"shape {have.get(name, 'none')}, the model {want.get(name, 'none')}"
            )
    if offsets:
        try:
            jax.eval_shape(partial(model.apply, train=False), variables, placeholder)
        except (TypeError, ValueError) as error:  # of an addition that does not fit
            raise CheckpointError(
                f"{where} does not fit model.name={config.model.name}: an offset has "
                "not one number for each channel"
            ) from error


def _is_offset(name: str, expected: Collection[str]) -> bool:
    """Tell the offsets that bias correction puts beside thetas."""
    module, _, leaf = name.rpartition("/")
    return leaf == "offset" and f"{module}/theta" in expected


def check_values(variables: dict, *, where: Path | str = "variables") -> None:
    """Raise CheckpointError for a value that makes no sense in any network.

    That is one that is not finite, a threshold that is not positive, a variance of
    batch norm below 0.
    """
    for name, leaf in _leaves(variables):
        values = np.asarray(leaf)
        # Widened, because NumPy has no isfinite for every small float.
        if not np.isfinite(values.astype(np.float64)).all():
            raise CheckpointError(f"{where}: {name} holds values that are not finite")
        if name.endswith("/theta") and not (values > 0).all():
            raise CheckpointError(
                f"{where}: {name} must be positive, its minimum is {values.min()}"
            )
        if name.endswith("/var") and (values < 0).any():
            raise CheckpointError(
                f"{where}: {name} must not be below 0, its minimum is {values.min()}"
            )


def _leaves(tree):
    """List (name, array) of every leaf, names as in params/conv_1/kernel."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def _to_save(checksums, **items):
    """Prepare the items of one checkpoint for Orbax, with their checksums."""
    for name in items.keys() - _JSON:
        items[name] = jax.tree.map(np.asarray, items[name])
    items["checksums"] = checksums | {
        name: _checksum(name, item) for name, item in items.items()
    }
    return ocp_args.Composite(
        **{
            name: (ocp_args.JsonSave if name in _JSON else ocp_args.StandardSave)(item)
            for name, item in items.items()
        }
    )


def _read(restore, where, names, templates=None):
    """Read the named items, if they are as saved; `restore` takes Orbax's args."""
    templates = templates or {}
    wanted = {
        name: ocp_args.JsonRestore()
        if name in _JSON
        else ocp_args.StandardRestore(templates.get(name))
        for name in (*names, "checksums")
    }
    with _readable(where):
        check_sizes(Path(where))
        items = restore(args=ocp_args.Composite(**wanted))
        for name in names:
            if _checksum(name, items[name]) != items["checksums"][name]:
                raise CheckpointError(
                    f"{where}: {name} is not what was saved. {_ADVICE}"
                )
        return tuple(items[name] for name in names)


def _checksum(name, item):
    """Compute CRC-32 of all names and values: the files that hold them have none."""
    if name in _JSON:
        return zlib.crc32(json.dumps(item, sort_keys=True).encode())
    crc = 0
    for leaf_name, leaf in _leaves(item):
        crc = zlib.crc32(
            np.asarray(leaf).tobytes(), zlib.crc32(leaf_name.encode(), crc)
        )
    return crc


_ADVICE = "Delete this folder to use the checkpoint before it, or copy it again"
_ADVICE_ALL = "Delete the folder of the damaged step inside it, or copy it again"


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Turn an error of the system into an OSError that names the folder.

    TensorStore has a page of its own words for it, of another type each time.
    """
    try:
        with naming(path):
            yield
    except Exception as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if isinstance(error, OSError) or code is None:
            raise
        number = int(code[1])
        raise OSError(number, os.strerror(number), str(path)) from error


@contextmanager
def _readable(path: Path, *, advice: str = _ADVICE) -> Iterator[None]:
    """Turn whatever a reader of damaged files raises into a line that names them."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0]:.120}"
        raise CheckpointError(f"{path} cannot be read ({reason}). {advice}") from error
