"""A module of PyTorch, all the way to onnxruntime: no code and no logit differs."""

import jax
import numpy as np
import pytest

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
models = pytest.importorskip("torchvision.models")

from bitsnn_jax import from_torch, quantise  # noqa: E402
from bitsnn_jax.exports.onnx_writer import export_onnx  # noqa: E402
from bitsnn_jax.integers.execution import one_shot  # noqa: E402
from bitsnn_jax.integers.fixed_point import fixed_point  # noqa: E402
from bitsnn_jax.integers.lowering import lower  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("steps", [4, 8])
def test_resnet18_of_torchvision_is_exact_in_onnxruntime(steps):
    torch.manual_seed(0)
    module = models.resnet18(num_classes=10).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32)).astype(np.uint8)

    def normalised(pixels):
        return (pixels - 128.0) / 64

    images = normalised(pixels).astype(np.float32)
    apply_fn, variables = from_torch(module, torch.from_numpy(images))
    quantised = quantise(apply_fn, variables, [images])

    def of_pixels(variables, x):
        return quantised.apply_fn(variables, normalised(x))

    graph = lower(of_pixels, quantised.variables, np.zeros((1, 3, 32, 32), np.float32))
    network = fixed_point(graph, steps=steps)
    expected = jax.jit(one_shot(network))(pixels)
    wanted = {f"code_{name}": code for name, code in expected.codes.items()}
    wanted |= expected.outputs
    for mode in ("one_shot", "stepped"):
        model = export_onnx(network, mode=mode)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(names, {"input": pixels}), strict=True))
        assert found.keys() == wanted.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, wanted[name], err_msg=name)
        assert sum(array.size for array in found.values()) > 10**5
