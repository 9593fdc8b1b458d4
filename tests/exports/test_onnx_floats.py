"""The float network as ONNX: the same codes, up to the order of additions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import Residual, build

from bitsnn_jax import qcfs
from bitsnn_jax.numerics.convolutions import convolve
from bitsnn_jax.numerics.stored import stored

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("jax2onnx")

from bitsnn_jax.exports.onnx_floats import OnnxFloatsError, write  # noqa: E402

RNG = np.random.default_rng(0)
KERNEL = np.float32(RNG.normal(size=(3, 3, 3, 4)) / 4)


def run(path, x):
    session = onnxruntime.InferenceSession(path.read_bytes())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": x}), strict=True))


def test_codes_are_those_of_jax_for_any_batch_size(tmp_path):
    apply_fn, variables, x = build(Residual)
    path = tmp_path / "net.onnx"
    write(path, apply_fn, variables, x, activations=True)
    for batch in (np.asarray(x), np.asarray(x[:3])):
        found = run(path, batch)
        logits = jax.jit(apply_fn)(variables, batch)
        # Sums of some hundred floats of size 1, in another order.
        np.testing.assert_allclose(found.pop("output_0"), logits, rtol=0, atol=1e-5)
        assert list(found) == [f"activation_{i}" for i in range(4)]
        for values in found.values():
            codes = values * 15 / values.max()
            np.testing.assert_allclose(codes, np.rint(codes), rtol=0, atol=1e-4)


def test_primitives_of_this_package_are_written_out(tmp_path):
    def apply_fn(variables, x):
        options = {"strides": (1, 1), "padding": "SAME"}
        y = convolve(x, variables, dimensions=("NHWC", "HWIO", "NHWC"), **options)
        # The size of the batch, which is open in ONNX.
        return stored(qcfs(y, jnp.float32(2))).reshape(len(x), -1)

    x = np.float32(RNG.normal(size=(2, 5, 5, 3)))
    path = tmp_path / "net.onnx"
    write(path, apply_fn, KERNEL, x)
    for batch in (x[:1], x):
        found = run(path, batch)["output_0"]
        np.testing.assert_allclose(found, apply_fn(KERNEL, batch), rtol=0, atol=1e-6)
    assert len(np.unique(found)) == 16


def test_what_cannot_be_written_is_an_error_of_one_line(tmp_path):
    def in_a_loop(v, x):
        return jax.lax.fori_loop(0, 3, lambda i, x: qcfs(x, 1.0), x)

    x, path = np.ones((2, 3), np.float32), tmp_path / "net.onnx"
    for fn, example, words in (
        (in_a_loop, x, "in a scan cannot be written: write the loop out"),
        (lambda v, x: x, x.astype(np.int32), "must be float32, got int32"),
        (lambda v, x: jax.pure_callback(np.sin, x, x), x, "net.onnx: jax2onnx"),
    ):
        with pytest.raises(OnnxFloatsError, match=words) as caught:
            write(path, fn, None, example)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
