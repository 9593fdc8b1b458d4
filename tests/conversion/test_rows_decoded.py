"""Networks with softmax, LayerNorm and tables of vectors: certificate and report."""

import jax
import numpy as np
import pytest

from bitsnn_jax.conversion.bias_shift import convert
from bitsnn_jax.conversion.certificate import verify
from bitsnn_jax.conversion.relu_to_qcfs import quantise
from bitsnn_jax.numerics.mixing import lookup, normalise, softmax
from bitsnn_jax.numerics.qcfs import qcfs, signed_qcfs
from bitsnn_jax.tracing.precision import in_float64

VARIABLES = {
    "table": np.random.default_rng(0).normal(size=(9, 6)),
    "w": np.random.default_rng(1).normal(size=(6, 6)),
}
IDS = np.random.default_rng(2).integers(0, 9, (4, 3))


def network(v, ids):
    with jax.named_scope("layer_0"):
        x = signed_qcfs(normalise(lookup(v["table"], ids)), 2.0)
        p = softmax(x @ v["w"])
    return qcfs(p, 0.7) @ v["w"]


def test_rows_are_decoded_without_a_code_that_differs_and_listed_by_name():
    with jax.enable_x64(True):
        variables = in_float64(VARIABLES)
        certificate = verify(network, variables, IDS, steps=4, nonspiking="decode")
        assert certificate.exact
    report = convert(network, VARIABLES, IDS, steps=4, nonspiking="decode").report
    listed = [(n.operation, n.path) for n in report.nonspiking]
    assert listed == [("normalise", "layer_0"), ("softmax", "layer_0")]


def test_no_code_is_put_on_rows():
    def relu_network(v, ids):
        x = normalise(lookup(v["table"], ids))
        return softmax(jax.nn.relu(x @ v["w"])) @ v["w"]

    with pytest.warns(UserWarning, match="left as they are"):
        quantised = quantise(relu_network, VARIABLES, [IDS])
    assert list(quantised.variables["theta"]) == ["neuron"]
    assert [each.operation for each in quantised.left] == ["normalise", "softmax"]
