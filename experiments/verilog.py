"""The circuits of two networks: run by Verilator, taken apart by yosys.

    python experiments/verilog.py [--networks NAME ...]

Writes the layers of trained networks, in integers at T = 4, as SystemVerilog, and runs
each in Verilator on the first test images of Fashion-MNIST: spikes, and how many
weights are added, which `operations.count` derives from the codes. A few layers are
synthesised by yosys: their adders, registers and multiplexers, and what they take of a
Xilinx chip of the 7 series. Needs Verilator 5 and yosys. Writes
docs/results/verilog.json.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitsnn_jax import data
from bitsnn_jax.config import Data
from bitsnn_jax.exports.verilog_layers import design
from bitsnn_jax.exports.verilog_writer import (
    EXAMPLES,
    module_names,
    values_of,
    write,
)
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.operations import count
from bitsnn_jax.jobs.integers import lower_pixels
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Distinct, Parser, a_path, as_script, filled

FASHION = Data(name="idx", directory="/usr/share/datasets/fashion-mnist")
STEPS = 4
# The layers that are synthesised: the image, plain, residual, strided, both, the last.
SYNTHESISED = {
    "resnet20_fashion_mnist": (
        "stem_act",
        "stages_0_0/act_1",
        "stages_0_0/act_2",
        "stages_1_0/act_1",
        "stages_1_0/act_2",
        "output",
    ),
    "vgg_fashion_mnist": ("act_1_0",),
}
NUMBERS = Path("docs/results/verilog.json")
CELLS = {
    "luts": r"LUT\d",
    "flip_flops": r"FD\w+",
    "carries": r"CARRY4",
    "multipliers": r"DSP\w+",
    "ram18": r"RAMB18E1",
    "ram36": r"RAMB36E1",
}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--networks",
        nargs="+",
        type=filled,
        action=Distinct,
        choices=SYNTHESISED,
        default=tuple(SYNTHESISED),
        metavar="NAME",
    )
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    test = data.load(FASHION, "test").first(EXAMPLES)
    rows = []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(row(name, test, Path(scratch)))
    tools = {"verilator": version("verilator"), "yosys": version("yosys")}
    names = ", ".join(options.networks)
    store_numbers(options.out, rows, config=names, seed=None, **tools)


def row(name: str, test: data.Examples, folder: Path) -> dict[str, Any]:
    """Measure the layers of a network."""
    apply_fn, run = load_ann(name)
    graph = lower_pixels(apply_fn, run.variables, test)
    network = fixed_point(graph, steps=STEPS)
    images = np.stack([test[i]["image"] for i in range(len(test))])
    write(network, {"input": images}, folder)
    values = values_of(network, images)
    counted = count(network, values, examples=len(test))
    layers = []
    names = module_names([node.name for node in network.nodes[1:]])
    for node, module in zip(network.nodes[1:], names, strict=True):
        made = design(network, node)
        layer = {
            "layer": node.name,
            "lanes": made.lanes,
            "positions": made.positions,
            "width": made.width,
            **simulated(folder, module, images=len(test)),
            "counted": counted[node.name].synaptic_operations / len(test),
            "products": counted[node.name].paths / len(test),
        }
        if node.name in SYNTHESISED[name]:
            layer |= synthesised(folder, module)
        layers.append(layer)
        print(layer, flush=True)
    return {"network": name, "images": len(test), "layers": layers}


def simulated(folder: Path, module: str, *, images: int) -> dict[str, Any]:
    """Run the testbench of a layer; a layer that differs is named in its place."""
    done = told(["make", module], folder)
    pattern = rf"^{module}: (\d+) words agree, (\d+) additions, (\d+) cycles"
    found = re.search(pattern, done, re.M)
    if not found:
        lines = [line for line in done.splitlines() if "rror" in line]
        return {"difference": (lines or ["make has failed"])[0]}
    words, additions, cycles = (int(text) / images for text in found.groups())
    return {"words": words, "additions": additions, "cycles": cycles}


def synthesised(folder: Path, module: str) -> dict[str, Any]:
    """Count the cells of a layer, before and after they are mapped to a chip."""
    told(["make", f"{module}/cells"], folder)
    general = (folder / module / "cells").read_text()
    script = (
        f"hierarchy -top {module}; "
        "synth_xilinx -family xc7 -flatten -noiopad; tee -q -o xc7 stat"
    )
    files = ["../neurons.sv", "../synapses.sv", "layer.sv"]
    told(
        ["yosys", "-q", "-f", "verilog -sv -defer", "-p", script, *files],
        folder / module,
    )
    mapped = (folder / module / "xc7").read_text()
    return {
        "adders": cells(general, r"\$(?:add|sub|alu)_(\d+)"),
        "multiplexers": cells(general, r"\$p?mux_(\d+)"),
        "registers": cells(general, r"\$\w*dff\w*_(\d+)"),
        "multipliers": sum(cells(general, r"\$(?:mul|macc)\w*?_?(\d*)").values()),
        "xc7": {
            kind: sum(map(int, re.findall(rf"^ +{cell} +(\d+)$", mapped, re.M)))
            for kind, cell in CELLS.items()
        },
    }


def cells(listed: str, pattern: str) -> dict[str, int]:
    """Number of cells by their bits."""
    found: dict[str, int] = {}
    for bits, number in re.findall(rf"^ +{pattern} +(\d+)$", listed, re.M):
        found[bits] = found.get(bits, 0) + int(number)
    return found


def version(tool: str) -> str:
    return " ".join(told([tool, "--version"], Path()).split()[:2])


def told(command: Sequence[str], folder: Path) -> str:
    """Run a command, and return what it prints."""
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    return done.stdout + done.stderr


if __name__ == "__main__":
    as_script(main)
