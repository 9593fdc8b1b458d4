"""A class for each pixel: torchvision's fcn_resnet50, exact from end to end."""

import jax
import numpy as np
import pytest

from bitsnn_jax import convert, quantise, spiking, verify
from bitsnn_jax.interop.torch_factories import named_module
from bitsnn_jax.interop.torch_modules import from_torch
from bitsnn_jax.tracing.precision import in_float64

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

SIDE, STEPS = 32, 4


def test_fcn_resnet50_says_of_each_pixel_what_its_ann_says():
    torch.manual_seed(0)
    module = named_module("torchvision:fcn_resnet50").module
    x = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():  # batch statistics of the pictures, so that maps differ
        module.train()(x)
    module.eval()
    apply_fn, variables = from_torch(module, x[:1])
    with torch.no_grad():
        theirs = module.double()(x.double())["out"].numpy()
    quantised = quantise(apply_fn, variables, [x.numpy()], levels=2**STEPS - 1)
    network_fn = quantised.apply_fn
    with jax.enable_x64(True):
        wide = x.double().numpy()
        ours = apply_fn(in_float64(variables), wide)
        np.testing.assert_allclose(ours, theirs, atol=1e-10 * np.abs(theirs).max())
        weights = in_float64(quantised.variables)
        certificate = verify(network_fn, weights, wide, steps=STEPS)
        assert certificate.exact and certificate.examples_differing == 0
        converted = convert(network_fn, weights, wide, steps=STEPS).variables
        found, _ = jax.jit(spiking(network_fn, steps=STEPS))(converted, wide)
        ann = jax.jit(network_fn)(weights, wide)
    assert found.shape == (2, 21, SIDE, SIDE)
    classes = np.asarray(found).argmax(1)
    assert len(np.unique(classes)) > 1
    np.testing.assert_array_equal(classes, np.asarray(ann).argmax(1))
