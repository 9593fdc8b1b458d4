"""Signed digits in the place of bits: spikes and operations on trained networks.

    python experiments/signed_digits.py [--limit 1000]

compare.py runs `bit_serial` at T = 4 and `signed_digits` at T = 5, one step more, on
each network that comes with the package and was trained with QCFS: the same codes, sent
in other ways. Rows are added to docs/results/signed_digits.json; what is there is not
computed again.
"""

import subprocess
import sys
from pathlib import Path

from bitsnn_jax.runs.pretrained import names
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole
from bitsnn_jax.runtime.reading import read_json
from bitsnn_jax.runtime.rows import Rows

RUNS = Path("runs/signed_digits")
NUMBERS = Path("docs/results/signed_digits.json")
STEPS = {"bit_serial": 4, "signed_digits": 5}
COLUMNS = ("accuracy", "agreement", "spikes_per_neuron", "synaptic_operations")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--limit", type=whole(1, 10**9), help="of images")
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    rows = Rows(options.out, ("network", "method"))
    for network in names():
        if network.endswith(("_relu", "_clipped")):
            continue
        for method, steps in STEPS.items():
            if rows.known({"network": network, "method": method}):
                continue
            rows.add(measured(network, method, steps, options.limit))
            print(rows[-1], flush=True)


def measured(network: str, method: str, steps: int, limit: int | None) -> dict:
    out = RUNS / f"{network}_{method}"
    command = ["compare.py", "--ckpt", network, "--out", str(out)]
    command += ["--methods", method, "--steps", str(steps)]
    command += ["--limit", str(limit)] if limit else []
    subprocess.run([sys.executable, *command], check=True)
    found = read_json(out / "compare.json", advice="remove it to measure again")
    [row] = found["rows"]
    return {
        "network": network,
        "method": method,
        "steps": steps,
        "images": found["examples"],
        **{column: row[column] for column in COLUMNS},
        "about": about_numbers(config=network, seed=None),
    }


if __name__ == "__main__":
    as_script(main)
