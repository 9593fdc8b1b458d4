"""Detectors as spiking networks: heads that are called five times, several outputs.

See `test_second_formulation.py` for why float64 must show no difference at all.
"""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_second_formulation import randomised

from bitsnn_jax import convert, spiking, verify
from bitsnn_jax.conversion.calibration import calibrate_network
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.integers.operations import count
from bitsnn_jax.models import ResNet, RetinaNet
from bitsnn_jax.numerics.layers import QCFS
from bitsnn_jax.referee import main as referee

pytestmark = pytest.mark.slow
STEPS = 4
SHAPE = (10, 14, 3)  # maps of 10x14, 5x7, 3x4, 2x2 and 1x1: sides that do not divide
norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)
act = partial(QCFS, levels=2**STEPS - 1)
# Layers of neurons: stem and blocks; sums, maps; 4 of each head for each map.
KINDS = {
    "spikes": ({}, 1 + 6 + 3 + 5 + 2 * 4 * 5),
    "currents": ({"pyramid": "currents"}, 1 + 6 + 1 + 2 * 4 * 5),
    "norms": ({"head_norm": norm}, 1 + 6 + 3 + 5 + 2 * 4 * 5),
}
each_kind = pytest.mark.parametrize("kind", sorted(KINDS))


def network(kind, dtype):
    """A detector, random variables with values of use, two images."""
    stages = ResNet((1, 1, 1), (3, 4, 5), None, act=act, norm=norm)
    model = RetinaNet(stages, 2, 4, act=act, **KINDS[kind][0])
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, *SHAPE))
    init = partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    variables = randomised(shapes, rng)
    variables, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (variables, x))
    return partial(model.apply, train=False), variables, x


@each_kind
def test_a_detector_is_exact(kind):
    with jax.enable_x64(True):
        apply_fn, variables, x = network(kind, "f8")
        conversion = convert(apply_fn, variables, x[:1], steps=STEPS)
        proof = verify(
            apply_fn, variables, x, steps=STEPS, snn_variables=conversion.variables
        )
        assert proof.exact, proof
        assert len(proof.layers) == KINDS[kind][1]
        neurons = {path: layer.neurons for path, layer in proof.layers.items()}
        for level, places in enumerate((140, 35, 12, 4, 1), 1):
            call = f"@{level}" if level > 1 else ""
            assert neurons[f"classes/act_4{call}"] == 2 * places * 4

        # All that multiplies is named: sums and first convolutions of the heads.
        by_numbers = [layer.path for layer in conversion.report.analog]
        assert len(by_numbers) == (13 if kind == "currents" else 0)

        wanted = jax.tree.leaves(jax.jit(apply_fn)(variables, x))
        counts = {}
        for name, options, own in (
            ("stepped", {}, conversion.variables),
            ("rolled", {"unroll": False}, conversion.variables),
            ("fused", {"mode": "fused"}, variables),
        ):
            snn = jax.jit(spiking(apply_fn, steps=STEPS, **options))
            outputs, stats = snn(own, x)
            counts[name] = jax.tree.map(np.asarray, dict(stats.spikes))
            for found, output in zip(jax.tree.leaves(outputs), wanted, strict=True):
                # Sums of a few hundred float64 terms of order 1, in another order.
                np.testing.assert_allclose(found, output, rtol=0, atol=1e-12)
        for name in ("rolled", "fused"):
            jax.tree.map(np.testing.assert_array_equal, counts[name], counts["stepped"])


@cache
def integers(kind):
    """The network of integers, its pixels, and what the float network makes of them."""
    apply_fn, variables, _ = network(kind, "f4")

    def of_pixels(variables, x):
        return apply_fn(variables, x / jnp.float32(127.5) - 1)

    pixels = np.random.default_rng(1).integers(0, 256, (3, *SHAPE), np.uint8)
    lowered = lower(of_pixels, variables, pixels[:1])
    return fixed_point(lowered, steps=STEPS), pixels, of_pixels(variables, pixels)


@each_kind
def test_a_detector_in_integers_is_one_network_however_it_runs(kind):
    made, pixels, floats = integers(kind)
    wanted = jax.jit(one_shot(made, carrier="int32"))(pixels)
    assert len(wanted.codes) == KINDS[kind][1]
    assert [node.shape[1:] for node in made.of_kind("output")] == [
        level.shape[1:] for level in jax.tree.leaves(floats)
    ]
    for run in (stepped(made), one_shot(made), one_shot(made, carrier="float32")):
        found = jax.jit(run)(pixels)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


@each_kind
def test_the_referee_has_all_codes_and_outputs_of_a_detector(kind, tmp_path, capsys):
    made, pixels, _ = integers(kind)
    bundle_writer.save(made, tmp_path / "net", vectors=pixels[:2])
    assert referee([str(tmp_path / "net")]) == 0
    said = capsys.readouterr().out
    assert "spikes agree, and all outputs (2 examples)" in said

    # It adds as often as the accounts say, level by level.
    codes = jax.jit(one_shot(made))(pixels[:2]).codes
    operations = count(made, codes, examples=2)
    first, *_, last = made.of_kind("output")
    for name in ("boxes/act_2", "boxes/act_2@4", first.name, last.name):
        [row] = [line.split() for line in said.splitlines() if line.split()[0] == name]
        assert f"{operations[name].synaptic_operations:,}" in row


@pytest.mark.parametrize("sequential", [False, True])
def test_a_head_that_all_maps_share_gets_one_theta(sequential):
    apply_fn, variables, x = network("spikes", "f4")

    def without(tree):
        return {
            name: without(x) if isinstance(x, dict) else x
            for name, x in tree.items()
            if name != "theta"
        }

    bare = {**variables, "params": without(variables["params"])}
    found = calibrate_network(apply_fn, bare, [x], sequential=sequential)
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    assert found["params"]["classes"]["act_4"]["theta"].shape == ()
