"""What to know of a GPU or TPU, in one file: proofs, times, and what fails.

    python benchmarks/device_check.py --out FILE [--minutes 8] [--quick]

Certificates in float64 of the package's ResNet-20; its codes in integers, in every
carrier; passes of ResNet-20 and ResNet-34 beside those of their ANN; a training step of
ResNet-34 at 224x224; evaluation over all devices. Parts run one by one, in a process
apart. Each is stored when it is done, and one that fails, or takes the process with it,
is stored with its error. What does not fit into the minutes is left out: the same
command goes on with it, and tries what failed again. `--quick` takes small shapes, to
try the command itself.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from device_parts import FULL, QUICK, Part, facts, one_line, parts

from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole
from bitsnn_jax.runtime.files import replace_json
from bitsnn_jax.runtime.reading import read_json

Row = dict[str, Any]
ENDED = "its process ended, or the time was up"


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--out", type=a_path, required=True, help="JSON file")
    parser.add_argument(
        "--minutes", type=whole(1, 1440), default=8, help="default: %(default)s"
    )
    parser.add_argument("--quick", action="store_true", help="small shapes")
    # When the process that does the parts must have ended, in seconds since 1970.
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    todo = parts(QUICK if options.quick else FULL)
    if options.until is not None:
        sys.argv.pop()  # what is stored names the command that was given
        work(options.out, todo, until=options.until, store=store)
        return
    until = time.time() + 60 * options.minutes
    forget(options.out)
    supervise([sys.executable, *sys.argv, f"--until={until}"], options.out, until=until)
    fill_up(options.out, [part.name for part in todo])
    for row in rows_of(options.out):
        print(described(row))


def work(
    path: Path,
    todo: Sequence[Part],
    *,
    until: float,
    store: Callable[[Path, list[Row]], None],
) -> None:
    """Do the parts that are not in the file, as far as the time suffices."""
    rows = rows_of(path)
    known = {row["part"] for row in rows}
    for part in todo:
        if part.name in known:
            continue
        left = until - time.time()
        if part.seconds > left:
            found = {
                "left_out": f"takes about {part.seconds} s, {left:.0f} s were left"
            }
        else:
            # Stored already if what runs takes this process with it.
            store(path, [*rows, {"part": part.name, "error": ENDED}])
            found = done(part)
        rows.append({"part": part.name, **found})
        store(path, rows)
        print(described(rows[-1]), flush=True)


def done(part: Part) -> Row:
    """What a part has found, or the one line of its error; and how long it took."""
    started = time.perf_counter()
    try:
        found = part.run()
    except Exception as error:  # whatever a compiler raises
        found = {"error": one_line(error)}
    return {"seconds": time.perf_counter() - started, **found}


def supervise(command: list[str], path: Path, *, until: float) -> None:
    """Run a command until it ends well or the time is up, again after each crash.

    Raises:
      ValueError: it ends badly without a further row.
    """
    while (left := until - time.time()) > 0:
        before = rows_of(path)
        child = subprocess.Popen(command)
        try:
            status = child.wait(timeout=left)
        except subprocess.TimeoutExpired:
            return
        finally:
            child.kill()
            child.wait()
        if status == 0:
            return
        if rows_of(path) == before:
            raise ValueError(f"no part could be begun: status {status}, see above")


def rows_of(path: Path) -> list[Row]:
    """The rows of the file; none where it is not there."""
    if not path.exists():
        return []
    return read_json(path, advice="remove it to begin anew")["rows"]


def store(path: Path, rows: list[Row]) -> None:
    store_numbers(path, rows, config="resnet20, resnet34", seed=0, **facts())


def forget(path: Path) -> None:
    """Drop the rows of what failed or was left out."""
    whole = [row for row in rows_of(path) if not {"error", "left_out"} & row.keys()]
    _replace_rows(path, whole)


def fill_up(path: Path, names: Sequence[str]) -> None:
    """Add rows of the parts that were never begun."""
    rows = rows_of(path)
    known = {row["part"] for row in rows}
    late = {"left_out": "the time was up"}
    missing = [{"part": name, **late} for name in names if name not in known]
    _replace_rows(path, rows + missing)


def _replace_rows(path: Path, rows: list[Row]) -> None:
    # This process leaves the devices to the other, so it cannot say what they are.
    if path.exists():
        content = read_json(path, advice="remove it to begin anew")
        replace_json(path, {**content, "rows": rows})


def described(row: Row) -> str:
    """One line of a row."""
    told = [f"{name} {_short(value)}" for name, value in row.items() if name != "part"]
    return f"{row['part']}: {', '.join(told)}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "; ".join(_short(each) for each in value)
    if isinstance(value, dict):
        return " ".join(f"{k} {_short(v)}" for k, v in value.items())
    return str(value)


if __name__ == "__main__":
    as_script(main)
