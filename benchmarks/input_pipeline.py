"""What a batch costs on its way from the disk to the network, against bare decoding.

    python benchmarks/input_pipeline.py [--batches 24] [--rounds 5] [--workers 2]

JPEGs of 500x375 pixels with smooth content, quality 90, are written to a temporary
folder and cached by the system when they are read. Each line is one pipeline; their
runs are interleaved, and each ratio is the median over rounds of the ratio within a
round, so that the machine's drift cancels. The limit of a folder is Pillow's decoding
of the same files to RGB in a single thread; sets in memory have none. With --out the
numbers are stored.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import timings
from PIL import Image

from bitsnn_jax.config import Data
from bitsnn_jax.data import load, train_batches
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole

IDX = "/usr/share/datasets/fashion-mnist"
FILES = 80
BATCH = {"image_folder": 16}  # of others 64
AHEAD = 6  # batches that may lie ready; they are taken before the clock starts


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--batches", type=whole(1, 10**6), default=24, help="that are timed"
    )
    parser.add_argument("--rounds", type=whole(2, 10**6), default=5)
    parser.add_argument("--workers", type=whole(0, 1024), default=2)
    parser.add_argument("--out", type=a_path, help="JSON file that keeps the numbers")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, Pillow {PIL.__version__}, NumPy {np.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder))
        passes = pipelines(folder, options.batches, options.workers)
        rates = interleaved(passes, options.rounds)
    print(f"{'':36}workers   images/s   of bare decoding (quartiles)")
    rows, bare = [], rates["bare decoding", 0]
    for (name, workers), found in rates.items():
        row = {"pipeline": name, "workers": workers, "rate": statistics.median(found)}
        rows.append(row)
        line = f"{name:36}{workers:7}{statistics.median(found):11.0f}"
        if "folder" in name:
            low, middle, high = row["ratio"] = timings.quartiles(found, bare)
            line += f"   {middle:.2f} ({low:.2f}-{high:.2f})"
        print(line)
    if options.out:
        facts = {"batches": options.batches, "rounds": options.rounds}
        facts |= {"pillow": PIL.__version__, "numpy": np.__version__}
        store_numbers(
            options.out, rows, config="image_folder, digits, fake, idx", seed=0, **facts
        )


def write_jpegs(root: Path) -> None:
    """Clouds of colour: as smooth, and as large in bytes, as photographs are."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        (root / part / "a").mkdir(parents=True)
        for i in range(FILES):
            noise = [
                Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8))
                for n in (6, 60, 240)
            ]
            size, smooth = (500, 375), Image.Resampling.BICUBIC
            coarse, middle, fine = (picture.resize(size, smooth) for picture in noise)
            picture = Image.blend(Image.blend(coarse, middle, 0.3), fine, 0.15)
            picture.save(root / part / "a" / f"{i}.jpg", quality=90)


def pipelines(folder: str, batches: int, workers: int) -> dict:
    """(name, workers) -> a function that runs, and returns images per second."""
    files = sorted(Path(folder, "train", "a").iterdir())
    photographs = {"name": "image_folder", "directory": folder, "image_size": 224}
    crop = photographs | {"random_resized_crop": True, "flip": True}
    cifar = {"crop": 4, "flip": True, "autoaugment": True, "cutout": 16}
    recipes: dict[str, dict] = {
        "folder, resize and crop": photographs,
        "folder, random crop, flip": crop,
        "folder, random crop, flip, jitter": crop | {"color_jitter": 0.4},
        "digits, crop, flip": {"crop": 1, "flip": True},
        "32x32, crop, flip": {"name": "fake", "crop": 4, "flip": True},
        "32x32, AutoAugment, Cutout besides": {"name": "fake"} | cifar,
    }
    if Path(IDX).is_dir():
        fields = {"name": "idx", "directory": IDX, "crop": 2, "flip": True}
        recipes["idx 28x28, crop, flip"] = fields
    passes: dict[tuple[str, int], Callable[[], float]] = {
        ("bare decoding", 0): lambda: bare_decoding(files)
    }
    for name, fields in recipes.items():
        # Of examples in memory, only much work could be worth a worker.
        worth = "folder" in name or "AutoAugment" in name
        for number in dict.fromkeys((0, workers if worth else 0)):
            passes[name, number] = pipeline(Data(**fields, workers=number), batches)
    return passes


def bare_decoding(files: list[Path]) -> float:
    started = time.perf_counter()
    for path in files:
        np.asarray(Image.open(path).convert("RGB"))
    return len(files) / (time.perf_counter() - started)


def pipeline(settings: Data, batches: int) -> Callable[[], float]:
    settings.batch_size = BATCH.get(settings.name, 64)
    # Small batches are gone too soon to be timed.
    batches *= 1 if settings.name in BATCH else 20
    stream = train_batches(settings, load(settings, "train"), seed=0)

    def run():
        for _ in range(AHEAD):
            next(stream)
        started = time.perf_counter()
        for _ in range(batches):
            next(stream)
        return batches * settings.batch_size / (time.perf_counter() - started)

    return run


def interleaved(passes: dict, rounds: int) -> dict:
    """Images per second of each pass in each round, after a warm-up."""
    rates = {name: [] for name in passes}
    for run in passes.values():
        run()
    for _ in range(rounds):
        for name, run in passes.items():
            rates[name].append(run())
    return rates


if __name__ == "__main__":
    as_script(main)
