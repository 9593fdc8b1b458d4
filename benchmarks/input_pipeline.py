"""What a batch costs on its way from the disk to the network, against bare decoding.

    python benchmarks/input_pipeline.py [--batches 24] [--rounds 5] [--workers 2]
        [--before CHECKOUT]

JPEGs of 500x375 pixels with smooth content, quality 90, are written to a temporary
folder and cached by the system when they are read. Each line is one pipeline; their
runs are interleaved, and each ratio is the median over rounds of the ratio within a
round, so that the machine's drift cancels. The limit of a folder is the decoding of the
same files to RGB by simplejpeg, which decodes them here too, in a single thread; sets
in memory have none. With --before, the folders are also read by the code of another
checkout of this repository, in the same rounds. With --out the numbers are stored.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import simplejpeg
import timings
from PIL import Image

from bitsnn_jax.config import Data
from bitsnn_jax.data import load, train_batches
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script, whole, with_huge_pages

IDX = "/usr/share/datasets/fashion-mnist"
FILES = 80
# Of each file: grain's order of a few dozen examples takes it 0.4 ms an example.
NAMES = 16
BATCH = {"image_folder": 16}  # of others 64
AHEAD = 6  # batches that may lie ready; they are taken before the clock starts
PAUSE = 0.5  # seconds in which batches are made that then lie ready
BEFORE = ", before"


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--batches", type=whole(1, 10**6), default=24, help="that are timed"
    )
    parser.add_argument("--rounds", type=whole(2, 10**6), default=5)
    parser.add_argument("--workers", type=whole(0, 1024), default=2)
    parser.add_argument("--only", metavar="NAME", help="this pipeline and decoding")
    parser.add_argument(
        "--before", type=a_path, metavar="CHECKOUT", help="of the code to compare with"
    )
    parser.add_argument("--out", type=a_path, help="JSON file that keeps the numbers")
    options = parser.parse_args()
    if options.before and not Path(options.before, "bitsnn_jax").is_dir():
        parser.error(
            "--before must be a checkout of this repository, with the folder "
            f"bitsnn_jax, got {options.before}"
        )
    print(
        f"{os.cpu_count()} cores, simplejpeg {simplejpeg.__version__}, Pillow "
        f"{PIL.__version__}, NumPy {np.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder))
        give_more_names(Path(folder))
        passes = pipelines(folder, options)
        rates = interleaved(passes, options.rounds)
    print(f"{'':36}workers   images/s   of bare decoding (quartiles)")
    rows, bare = [], rates["bare decoding", 0]
    for (name, workers), found in rates.items():
        row = {"pipeline": name, "workers": workers, "rate": statistics.median(found)}
        rows.append(row)
        line = f"{name:36}{workers:7}{statistics.median(found):11.0f}"
        if "folder" in name or "Pillow" in name:
            low, middle, high = row["ratio"] = timings.quartiles(found, bare)
            line += f"   {middle:.2f} ({low:.2f}-{high:.2f})"
            if (earlier := (f"{name}{BEFORE}", workers)) in rates:
                row["ratio_to_before"] = timings.quartiles(found, rates[earlier])
                line += "   {1:.2f} ({0:.2f}-{2:.2f}) x before".format(
                    *row["ratio_to_before"]
                )
        print(line)
    if options.out:
        facts = {"batches": options.batches, "rounds": options.rounds}
        facts |= {"pillow": PIL.__version__, "numpy": np.__version__}
        facts["simplejpeg"] = simplejpeg.__version__
        if options.before:
            facts["before"] = commit_of(options.before)
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


def give_more_names(root: Path) -> None:
    for path in list(root.glob("*/a/*.jpg")):
        for i in range(1, NAMES):
            os.link(path, path.with_stem(f"{path.stem}_{i}"))


def pipelines(folder: str, options: argparse.Namespace) -> dict:
    """(name, workers) -> a function that runs, and returns images per second."""
    files = sorted(Path(folder, "train", "a").iterdir())[::NAMES]
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
        ("bare decoding", 0): lambda: bare_decoding(files, simplejpeg.decode_jpeg),
        ("bare decoding by Pillow", 0): lambda: bare_decoding(files, by_pillow),
    }
    if options.only:
        if options.only not in recipes:
            raise ValueError(
                f"--only must be one of {'; '.join(recipes)}, got {options.only}"
            )
        recipes = {options.only: recipes[options.only]}
    for name, fields in recipes.items():
        # Of examples in memory, only much work could be worth a worker.
        worth = "folder" in name or "AutoAugment" in name
        for number in dict.fromkeys((0, options.workers if worth else 0)):
            data = fields | {"workers": number}
            passes[name, number] = pipeline(data, options.batches)
            if options.before and "folder" in name:
                earlier = pipeline_of(options.before, data, options.batches)
                passes[f"{name}{BEFORE}", number] = earlier
    return passes


def bare_decoding(files: list[Path], decode: Callable[[bytes], Any]) -> float:
    started = time.perf_counter()
    for path in files:
        decode(path.read_bytes())
    return len(files) / (time.perf_counter() - started)


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def pipeline_of(checkout: Path, fields: dict, batches: int) -> Callable[[], float]:
    """The pipeline of another checkout, in a process of its own."""
    code = (
        "import json, sys\n"
        "*paths, fields, batches = json.loads(sys.argv[1])\n"
        "sys.path[:0] = paths\n"
        "import input_pipeline\n"
        "run = input_pipeline.pipeline(fields, batches)\n"
        "for _ in sys.stdin: print(run(), flush=True)"
    )
    paths = str(checkout.resolve()), str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps([*paths, fields, batches])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    asked, answered = process.stdin, process.stdout
    assert asked and answered

    def run():
        print(file=asked, flush=True)
        return float(answered.readline())

    return run


def commit_of(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def pipeline(fields: dict, batches: int) -> Callable[[], float]:
    settings = Data(**fields)
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
            # The last pass still makes batches ahead.
            time.sleep(PAUSE)
            rates[name].append(run())
    return rates


if __name__ == "__main__":
    with_huge_pages()  # as train.py does
    as_script(main)
