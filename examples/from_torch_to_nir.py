"""Take a PyTorch checkpoint, run it as spikes, and write it for other tools.

Reads a state dict with the names of the public QCFS networks (Bu et al., 2022),
converts the network, lowers it to integers, and writes it as NIR, the exchange format
of neuromorphic tools, and as StableHLO, which runs without this package.

    pip install -e '.[nir,stablehlo]'
    python examples/from_torch_to_nir.py

Takes about 15 seconds on two CPU cores. Expect 0 differing codes, and the same
logits from both files. So that nothing is downloaded, the checkpoint is made on the
spot, narrow and with random weights; put your own file in its place.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax import config, in_float64, verify
from bitsnn_jax.exports import nir_writer, stablehlo
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.interop.torch_files import read_state_dict, write_state_dict
from bitsnn_jax.interop.torch_networks import to_torch, variables_from_torch
from bitsnn_jax.models import build_model

# What no tensor says: the levels L that the network was trained with, above all.
MODEL = config.Model(name="resnet20", levels=15, width=0.5)


def make_checkpoint(path, images):
    """Write a network with random weights, as PyTorch would."""
    init = jax.jit(
        lambda: build_model(MODEL).init(jax.random.key(0), images, train=False)
    )
    return write_state_dict(path, to_torch(init(), MODEL))


def main(folder, steps=4):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3))
    images = jnp.asarray(pixels / 128 - 1, jnp.float32)
    checkpoint = make_checkpoint(folder / "resnet20.safetensors", images[:1])

    # In: `.safetensors` as here, or `.pth` if PyTorch is installed.
    variables = variables_from_torch(read_state_dict(checkpoint), MODEL)
    model = build_model(MODEL)

    def apply_fn(variables, x):
        return model.apply(variables, x, train=False)

    # Run it spike by spike beside the quantised network, and compare every code.
    with jax.enable_x64(True):
        certificate = verify(apply_fn, *in_float64((variables, images)), steps=steps)
    print(f"{certificate.differing} of {certificate.neurons:,} codes differ")
    assert certificate.exact

    # In integers, with 8-bit pixels as its input.
    def on_pixels(variables, pixels):
        return apply_fn(variables, pixels / 128 - 1)

    graph = lower(on_pixels, variables, jnp.asarray(pixels[:1], jnp.float32))
    network = fixed_point(graph, steps=steps)
    logits = jax.jit(one_shot(network))(pixels).outputs["output"]

    # Out, as NIR: weights are standard nodes, neurons a node type of their own.
    nir_writer.write(folder / "network.nir", network)
    back = nir_writer.read(folder / "network.nir")
    assert (jax.jit(one_shot(back))(pixels).outputs["output"] == logits).all()

    # Out, as StableHLO: a function for any batch, its weights inside.
    file = folder / "network.stablehlo"
    stablehlo.write(file, one_shot(network), pixels, steps=steps)
    outputs, _ = stablehlo.read(file).call(pixels[:2])
    assert (outputs["output"] == logits[:2]).all()
    for path in sorted(folder.iterdir()):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
