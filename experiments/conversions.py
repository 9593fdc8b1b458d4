"""Run convert.py for the tables of the documents, and keep what they need.

    python experiments/conversions.py [--parts digits certificates ...]

Each command writes to a folder of its own below runs/; where one has already written
its conversion.json, that is taken. docs/results/conversions.json has a row for each
command, without the numbers of single layers. Part "digits" needs the run of `make
demo`.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.runtime.rows import Rows

RESNET, VGG = "resnet20_fashion_mnist", "vgg_fashion_mnist"
TUNED = f"{RESNET}_sparse_tuned"
TRAINED = (RESNET, f"{RESNET}_sparse", TUNED, VGG)
PARTS = ("digits", "certificates", "stepped", "integers")
NUMBERS = Path("docs/results/conversions.json")
KEYS = ("part", "network")


class Command(NamedTuple):
    """One conversion: `convert.py --ckpt CKPT` with these options, written to `out`."""

    part: str
    network: str
    ckpt: str
    options: str
    out: str


def commands() -> Iterator[Command]:
    yield Command("digits", "digits_resnet", "runs/digits_resnet", "", "")
    for name in TRAINED:
        yield _command("certificates", name, "--steps 4 --limit 2000")
    steps = "--steps 1 2 3 4 --mode stepped --certificate none"
    yield _command("stepped", TUNED, steps)
    integers = "--mode fused --certificate none --fixed-point --rounding nearest"
    carriers = "--carriers float32 int8 bfloat16 int32"
    for name in (VGG, RESNET):
        yield _command("integers", name, f"--steps 2 4 7 8 {integers} {carriers}")


def _command(part: str, name: str, options: str) -> Command:
    return Command(part, name, name, options, f"runs/{part}/{name}")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--parts", nargs="+", action=Distinct, choices=PARTS, default=PARTS
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, KEYS)
    for command in commands():
        known = rows.known({"part": command.part, "network": command.network})
        if command.part in options.parts and not known:
            rows.add(run(command))
            print(command.part, command.network, flush=True)


def run(command: Command) -> dict[str, Any]:
    """Convert, unless that is done, and keep the numbers of whole networks."""
    shown = f"convert.py --ckpt {command.ckpt} {command.options}".strip()
    file = Path(command.out or f"{command.ckpt}/snn", "conversion.json")
    if not file.exists():
        given = [*shown.split(), *(["--out", command.out] if command.out else [])]
        subprocess.run([sys.executable, *given], check=True)
    found = read_json(file, advice="remove it, and the network is converted again")
    about = about_numbers(config=command.network, seed=found["run"]["seed"])
    integers = found.get("fixed_point") or {"steps": []}
    return {
        "part": command.part,
        "network": command.network,
        "examples": found["examples"],
        "ann_accuracy": found["ann"]["accuracy"],
        "steps": [_without_layers(row) for row in found["steps"]],
        "fixed_point": [_without_layers(row) for row in integers["steps"]],
        "about": about | {"command": f"python {shown}"},
    }


def _without_layers(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {k: _without_layers(v) for k, v in row.items() if k != "layers"}


if __name__ == "__main__":
    as_script(main)
