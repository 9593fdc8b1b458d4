"""`compare.json` while it grows: whole after each row, gone on with after a stop."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs, to_builtins

from bitsnn_jax.results.comparison import (
    ComparisonResult,
    Failure,
    MethodRecord,
    MethodRow,
    StepCost,
    TrainedRun,
)
from bitsnn_jax.runtime.files import replace_json
from bitsnn_jax.runtime.reading import read_typed
from bitsnn_jax.runtime.rows import StoredRows

_ADVICE = "expected what compare.py wrote; remove it to begin anew"
# What an earlier call must have in common with this one.
_SAME = ("run", "examples", "batch", "neurons", "depth", "profile")


class ComparisonStore:
    """Keep a comparison on disk while rows are added to it.

    Args:
      file: `compare.json`, which may not be there yet.
      begun: this comparison, as yet without rows. What is in the file already is kept.

    Raises:
      ValueError: a file that is damaged, or of other networks or images.
    """

    def __init__(self, file: Path, begun: ComparisonResult):
        self.file, self.results = file, begun
        if file.exists():
            before = read_typed(file, ComparisonResult, advice=_ADVICE)
            _check_same(before, begun, file)
            self.results = structs.replace(
                begun,
                networks=before.networks | begun.networks,
                methods=before.methods,
                rows=before.rows,
                failed=before.failed,
                trained=before.trained | _with_costs(begun.trained, before.trained),
            )
            print(f"{len(before.rows)} rows are in {file} already")
        self._rows = StoredRows(
            self.results.rows, key=lambda row: row.key, store=self._store
        )

    def has(self, method: str, steps: int, seed: int) -> bool:
        """Tell whether there is such a row."""
        return (method, steps, seed) in self._rows.found

    def check_run(self, method: str, steps: int, seed: int, run: str) -> None:
        """Raise ValueError if there is such a row of another run."""
        for row in self._rows:
            if row.key == (method, steps, seed) and row.run != run:
                raise ValueError(
                    f"{self.file} has {method} at T = {steps} with seed {seed} of "
                    f"{row.run}, not of {run}: give that, or another --out"
                )

    def add_costs(self, costs: Mapping[str, StepCost]) -> None:
        """Note what steps of runs cost, and write the file."""
        there = self.results.trained
        found = {n: structs.replace(there[n], cost=cost) for n, cost in costs.items()}
        self.results = structs.replace(self.results, trained=there | found)
        self._rows.save()

    def add(self, row: MethodRow, method: MethodRecord) -> None:
        """Add a row, and what is known of its method, and write the file."""
        methods = {**self.results.methods, row.method: method}
        self.results = structs.replace(self.results, methods=methods)
        self._rows.add(row)

    def begin(self, method: str, missing: Iterable[Failure]) -> None:
        """Forget how a method failed before; `missing` is what it lacks now."""
        kept = [f for f in self.results.failed if f.method != method]
        failed = (*kept, *(f for f in missing if f.method == method))
        self.results = structs.replace(self.results, failed=failed)

    def fail(self, failure: Failure) -> None:
        """Note a failure, once; it is written with the next row, or at the end."""
        if failure not in self.results.failed:
            failed = (*self.results.failed, failure)
            self.results = structs.replace(self.results, failed=failed)

    def finish(self, order: Iterable[str]) -> ComparisonResult:
        """Write the file in the order that one call has, whatever the calls.

        Args:
          order: of methods; those that are not known any more come last.
        """
        there = self.results.methods
        methods = {name: there[name] for name in order if name in there} | there
        names = list(methods)
        self.results = structs.replace(self.results, methods=methods)
        self._rows.sort(key=lambda row: (names.index(row.method), *row.key[1:]))
        self._rows.save()
        return self.results

    def _store(self, rows: Sequence[MethodRow]) -> None:
        self.results = structs.replace(self.results, rows=tuple(rows))
        replace_json(self.file, self.results)


def _check_same(before: ComparisonResult, now: ComparisonResult, file: Path) -> None:
    """Raise ValueError if the earlier rows are of something else."""
    pairs = [(getattr(before, name), getattr(now, name)) for name in _SAME]
    pairs += [  # those that methods need now
        (network, now.networks[name])
        for name, network in before.networks.items()
        if name in now.networks
    ]
    pairs += [
        (before.trained[name].run, now.trained[name].run)
        for name in before.trained.keys() & now.trained.keys()
    ]
    if any(_identity(to_builtins(a)) != _identity(to_builtins(b)) for a, b in pairs):
        raise ValueError(
            f"{file} is of other networks or images: remove it, or give another --out"
        )


def _with_costs(
    now: Mapping[str, TrainedRun], before: Mapping[str, TrainedRun]
) -> dict[str, TrainedRun]:
    """Keep what was measured of runs before."""
    return {
        name: structs.replace(run, cost=before[name].cost) if name in before else run
        for name, run in now.items()
    }


def _identity(value: Any) -> Any:
    """Keep what must not differ: neither times nor the command."""
    if not isinstance(value, dict):
        return value
    ignored = ("command", "milliseconds", "version")
    return {k: v for k, v in value.items() if k not in ignored}
