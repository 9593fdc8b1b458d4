"""Run a trained network in integers, and hand it to another program.

Gives a trained VGG-like network of the package int8 weights and integer thresholds,
runs it in one pass and spike by spike, and writes it to a folder. `referee.py`, one
file that needs NumPy only, reads the folder and walks through it spike by spike.

    python examples/integer_network.py

Takes about 15 seconds on two CPU cores. Expect 0 differing codes and 0
differing logits, on any machine: in integers there is nothing to round.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import referee
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.runs.loading import load_ann


def main(network_name="vgg_fashion_mnist", steps=4, examples=8):
    apply_fn, run = load_ann(network_name)

    # 8-bit pixels go in; how they are normalised becomes part of the network.
    def on_pixels(variables, pixels):
        return apply_fn(variables, (pixels / 255 - 0.286) / 0.353)

    # Random pixels. What holds in integers holds for any image.
    pixels = np.random.default_rng(0).integers(
        0, 256, (examples, *run.metadata["image_shape"])
    )

    # A graph of layers in float64, then the same one in integers.
    graph = lower(on_pixels, run.variables, jnp.asarray(pixels[:1], jnp.float32))
    network = fixed_point(graph, steps=steps, bits=8)
    print(network)  # what feeds each layer, and how many bits its sums need

    # The quantised network in one pass, and the spiking one in T passes.
    once = jax.jit(one_shot(network))(pixels)
    spikes = jax.jit(stepped(network))(pixels)
    differing = sum(int((spikes.codes[k] != once.codes[k]).sum()) for k in once.codes)
    logits = once.outputs["output"]
    differing_logits = int((spikes.outputs["output"] != logits).sum())
    print(f"{differing} codes differ, {differing_logits} logits differ")
    assert differing == differing_logits == 0

    # How far rounding the weights to 8 bits moves the logits.
    exact = jax.jit(on_pixels)(run.variables, jnp.asarray(pixels, jnp.float32))
    decoded = np.asarray(logits) * network["output"].unit
    print(f"logits move by {np.abs(decoded - exact).mean():.3f} on average")

    # JSON, safetensors and test vectors for programs in other languages.
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "network"
        bundle_writer.save(network, bundle, vectors=pixels[:1])
        for file in sorted(bundle.iterdir()):
            print(f"{file.name}: {file.stat().st_size:,} bytes")
        subprocess.run([sys.executable, referee.__file__, bundle], check=True)


if __name__ == "__main__":
    main()
