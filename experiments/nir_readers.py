"""Every spike of two networks, in readers of NIR that others wrote.

    python experiments/nir_readers.py [--images 50]

The trained ResNet-20 and VGG on the first test images of Fashion-MNIST, in integers at
T = 4, are exported with `nir_stock.write` and run by each reader of
`exports/check.py`, all of which must be installed. Writes
docs/results/nir_readers.json.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nir
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.config import Data
from bitsnn_jax.exports import bundle_writer, check, nir_stock
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.jobs.integers import lower_pixels
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole

FASHION = Data(name="idx", directory="/usr/share/datasets/fashion-mnist")
STEPS = 4
NETWORKS = ("resnet20_fashion_mnist", "vgg_fashion_mnist")
READERS = ("nirtorch", "snntorch", "norse", "sinabs", "spikingjelly")
NUMBERS = Path("docs/results/nir_readers.json")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--images", type=whole(1), default=50)
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    test = data.load(FASHION, "test").first(options.images)
    rows = []
    for name in NETWORKS:
        rows += rows_of(name, test)
    store_numbers(options.out, rows, config=", ".join(NETWORKS), seed=0)


def rows_of(name: str, test: data.Examples) -> list[dict[str, Any]]:
    """Export a network and compare it in all readers."""
    apply_fn, run = load_ann(name)
    network = fixed_point(lower_pixels(apply_fn, run.variables, test), steps=STEPS)
    images = np.stack([test[i]["image"] for i in range(len(test))])
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        bundle, folder = Path(scratch) / "bundle", Path(scratch) / "nir"
        bundle_writer.save(network, bundle, vectors=images)
        folder.mkdir()
        nir_stock.write(network, bundle_writer.load_vectors(bundle), folder)
        for reader in READERS:
            [file] = check.RUNTIMES[reader].files
            nodes = nir.read(folder / file).nodes.values()
            found = check.compare(folder, reader)
            rows.append(
                {
                    "network": name,
                    "steps": STEPS,
                    "reader": reader,
                    "version": version(reader),
                    "file": file,
                    "images": found.inputs,
                    "compared": found.compared,
                    "differing": found.differing,
                    "difference": found.first or None,
                    "nodes": len(nodes),
                    "bytes": (folder / file).stat().st_size,
                }
            )
            print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    as_script(main)
