"""The whole way of ImageNet on a few noisy pictures: train, be stopped, go on, convert.

    python experiments/imagenet_path.py

Trains `configs/resnet34_imagenet.py` for an epoch on 64 JPEGs of two classes, at
224x224 on eight virtual CPU devices. SIGTERM reaches it after its third step; it must
end with status 143, and go on to the end when it is started again. Then every code of
the spiking network is compared with the ANN's on 16 test pictures in float64. What is
trained in so few steps classifies nothing: this shows that the way is open. Writes
docs/results/imagenet_path.json.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script
from bitsnn_jax.runtime.files import make_folder
from bitsnn_jax.runtime.reading import read_json

RUN = Path("runs/imagenet_path")
PICTURES = Path("runs/imagenet_path_pictures")
NUMBERS = Path("docs/results/imagenet_path.json")
DEVICES, PER_CLASS, TEST = 8, 32, 16
STOP_AFTER = 3  # steps
TRAIN = f"""train.py --config configs/resnet34_imagenet.py --workdir {RUN}
    --config.data.directory={PICTURES} --config.model.num_classes=2
    --config.data.batch_size=8 --config.data.eval_batch_size=8
    --config.data.workers=1 --config.optimizer.epochs=1 --config.log_every_steps=1
""".split()
CONVERT = f"convert.py --ckpt {RUN} --steps 4 --mode stepped --certificate float64"


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    if RUN.exists():
        raise ValueError(f"{RUN} is there: remove it, for training starts from nothing")
    write_pictures()
    status, stopped_at = stopped()
    command(TRAIN)
    command(CONVERT.split())
    advice = "remove the run and start again"
    result = read_json(RUN / "result.json", advice=advice)
    found = read_json(RUN / "snn" / "conversion.json", advice=advice)
    certificate = found["steps"][0]["certificate"]["float64"]
    row = {
        "devices": DEVICES,
        "pictures": 2 * PER_CLASS,
        "status_when_stopped": status,
        "step_saved": stopped_at,
        "last_step": result["step"],
        "test_pictures": found["examples"],
        "codes": certificate["neurons"],
        "differing": certificate["differing"],
    }
    print(row)
    store_numbers(options.out, [row], config="resnet34_imagenet", seed=0)


def write_pictures() -> None:
    """Noise of two colours, at 256x256."""
    rng = np.random.default_rng(0)
    for part, number in (("train", PER_CLASS), ("val", TEST // 2)):
        for i, kind in enumerate("ab"):
            folder = PICTURES / part / kind
            make_folder(folder)
            for n in range(number):
                pixels = rng.integers(0, 128, (256, 256, 3), dtype=np.uint8)
                pixels[..., i] += 127
                Image.fromarray(pixels).save(folder / f"{n}.jpg")


def stopped() -> tuple[int, int]:
    """Train until SIGTERM comes; (status, step of the newest checkpoint)."""
    process = subprocess.Popen([sys.executable, *TRAIN], env=environment())
    log = RUN / "metrics.jsonl"
    while process.poll() is None and steps_of(log) < STOP_AFTER:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    status = process.wait()
    saved = [int(f.name) for f in (RUN / "checkpoints").rglob("*") if f.name.isdigit()]
    return status if status >= 0 else 128 - status, max(saved)


def steps_of(log: Path) -> int:
    if not log.exists():
        return 0
    lines = log.read_text().splitlines()
    return max((json.loads(line)["step"] for line in lines), default=0)


def command(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, env=environment())


def environment() -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    return os.environ | {"XLA_FLAGS": flags}


if __name__ == "__main__":
    as_script(main)
