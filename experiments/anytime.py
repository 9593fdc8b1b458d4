"""How early the read-out may stop: accuracy against the steps of its last layers.

    python experiments/anytime.py [--networks NAME ...]

The networks in integers at T = 4 on all test images: accuracy after each prefix of the
spikes that feed the output, and mean steps at the margins where accuracy is within 0.1
points of all T steps. The margin is chosen on the first half of the images, what is
printed is of the second.
"""

import jax
import numpy as np

from bitsnn_jax import data
from bitsnn_jax.integers.anytime import (
    accuracy_curve,
    early_exit,
    mean_missing,
    prefix_logits,
)
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.jobs.integers import BATCH, lower_pixels
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runtime.cli import Distinct, Parser, as_script, filled

NETWORKS = ("resnet20_fashion_mnist", "vgg_fashion_mnist")
STEPS = 4
LOSS = 0.001


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--networks",
        nargs="+",
        type=filled,
        action=Distinct,
        default=NETWORKS,
        metavar="NAME",
    )
    options = parser.parse_args()
    found = ((name, *prefixes(name)) for name in options.networks)
    for i, (name, logits, labels) in enumerate(found):
        if not i:
            print("| network | t = 1 | 2 | 3 | 4 | mean steps | accuracy there |")
            print("|---|---|---|---|---|---|---|")
        half = len(labels) // 2
        # What the later bits add on average is known from the first half.
        logits = logits + mean_missing(logits[:, :half])[:, None]
        right = (logits[:, half:].argmax(-1) == labels[half:]).mean(1)
        curve = accuracy_curve(logits[:, :half], labels[:half])
        enough = curve.accuracy >= curve.accuracy[-1] - LOSS
        margin = curve.margins[enough][np.argmin(curve.mean_steps[enough])]
        predictions, steps = early_exit(logits[:, half:], margin)
        cells = [f"{r:.2%}" for r in right]
        cells += [f"{steps.mean():.2f}", f"{(predictions == labels[half:]).mean():.2%}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def prefixes(name: str):
    """Logits [T, n, classes] after each step, and labels [n]."""
    apply_fn, run = load_ann(name)
    test = data.load(run.config.data, "test")
    network = fixed_point(lower_pixels(apply_fn, run.variables, test), steps=STEPS)
    read, once = prefix_logits(network), one_shot(network)
    logits, labels = [], []
    after = jax.jit(lambda images: read(once(images).codes))
    for batch in data.eval_batches(
        run.config.data, test, batch_size=BATCH, pixels=True
    ):
        kept = batch["mask"]
        logits.append(np.asarray(after(batch["image"]))[:, kept])
        labels.append(batch["label"][kept])
    return np.concatenate(logits, 1), np.concatenate(labels)


if __name__ == "__main__":
    as_script(main)
