"""Files of ONNX, through the job of `convert.py --onnx`."""

import numpy as np
import pytest
from onnx_models import drawn, saved
from PIL import Image

from bitsnn_jax.interop.imported_files import load_imported
from bitsnn_jax.interop.onnx_networks import from_onnx
from bitsnn_jax.jobs.onnx_sources import OnnxSource
from bitsnn_jax.results.imported import ImportResult
from bitsnn_jax.runtime.reading import read_typed
from bitsnn_jax.scripts.convert import main

onnx = pytest.importorskip("onnx")
make_node = onnx.helper.make_node


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def network(folder, shape, *, last=False):
    """A file; with channels last it begins with a transposition, as many do."""
    nodes = [make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if last else []
    nodes += [
        make_node("Conv", ["t" if last else "x", "w"], ["c"], strides=[2, 2]),
        make_node("Relu", ["c"], ["r"], name="/first/act/Relu"),
        make_node("GlobalAveragePool", ["r"], ["p"]),
        make_node("Flatten", ["p"], ["f"]),
        make_node("Gemm", ["f", "v", "b"], ["y"]),
    ]
    constants = {"w": drawn(4, 3, 3, 3), "v": drawn(4, 2), "b": drawn(2)}
    x = np.zeros([n if isinstance(n, int) else 2 for n in shape], np.float32)
    return saved(folder / "net.onnx", nodes, {"x": x}, ["y"], constants, x=shape)


@pytest.mark.parametrize("last", [False, True])
def test_a_file_leaves_spiking_and_can_be_loaded(last, pictures, tmp_path):
    shape = ["n", 32, 32, 3] if last else [1, 3, 32, 32]
    file, out = network(tmp_path, shape, last=last), tmp_path / "out"
    main(
        f"--onnx {file} --calibrate {pictures} --steps 2 --certificate float64 "
        f"--mean 0.5 0.5 0.5 --std 0.25 0.25 0.25 --out {out}".split()
    )
    results = read_typed(out / "import.json", ImportResult, advice="")
    assert (results.checkpoint, results.model) == ("net.onnx", "net")
    [row] = results.steps
    assert row.certificate["float64"].exact and not results.left
    loaded = load_imported(out / "quantised")
    assert list(loaded.variables["theta"]) == ["first.act"]
    assert (loaded.setting.size, loaded.setting.std) == (32, [0.25] * 3)
    apply_fn, variables = from_onnx(file)
    x = drawn(2, 32, 32, 3)
    expected = apply_fn(variables, x if last else np.moveaxis(x, -1, 1))
    np.testing.assert_array_equal(loaded.float_fn(loaded.float_variables, x), expected)


def test_signed_digits_send_the_same_codes_with_fewer_spikes(pictures, tmp_path):
    file, found = network(tmp_path, ["n", 3, 32, 32]), {}
    for coding in ("bits", "signed_digits"):
        out = tmp_path / coding
        main(
            f"--onnx {file} --calibrate {pictures} --steps 4 --coding {coding} "
            f"--out {out}".split()
        )
        results = read_typed(out / "import.json", ImportResult, advice="")
        assert results.coding == coding
        [found[coding]] = results.steps
    bits, digits = found.values()
    assert bits.agreement == digits.agreement
    for each in found.values():
        assert each.certificate["float64"].exact
    # Of codes of 4 bits, 7, 14 and 15 have fewer digits.
    assert digits.spikes_per_neuron < bits.spikes_per_neuron


@pytest.mark.parametrize(
    "shape, options, words",
    [
        (["n", 1, 32, 32], {}, r"one batch of pictures, .* got \[n, 1, 32, 32\]"),
        (["n", 3, 32, 64], {}, r"square pictures; it takes \[n, 3, 32, 64\]"),
        (["n", 3, 32, 32], {"size": 64}, r"square pictures of size 64; it takes"),
    ],
)
def test_a_file_that_takes_no_such_pictures_is_one_line(
    shape, options, words, pictures, tmp_path
):
    file = tmp_path / "net.onnx"
    nodes = [make_node("Relu", ["x"], ["y"])]
    x = np.zeros([n if isinstance(n, int) else 2 for n in shape], np.float32)
    saved(file, nodes, {"x": x}, ["y"], x=shape)
    with pytest.raises(ValueError, match=words) as error:
        OnnxSource(file, pictures=pictures, **options).load()
    assert "\n" not in str(error.value)


def test_a_file_that_takes_two_inputs_is_one_line(pictures, tmp_path):
    inputs = dict.fromkeys("xz", np.zeros((1, 3, 32, 32), np.float32))
    saved(tmp_path / "two.onnx", [make_node("Add", ["x", "z"], ["y"])], inputs, ["y"])
    with pytest.raises(ValueError, match="must take one batch of pictures"):
        OnnxSource(tmp_path / "two.onnx", pictures=pictures).load()


def test_a_quantised_file_is_sent_to_from_onnx(pictures, tmp_path):
    nodes = [
        make_node("QuantizeLinear", ["x", "s"], ["q"]),
        make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    x = np.zeros((1, 3, 32, 32), np.float32)
    file = saved(tmp_path / "q.onnx", nodes, {"x": x}, ["y"], {"s": np.float32(1)})
    with pytest.raises(ValueError, match="quantised already: .*from_onnx takes this"):
        OnnxSource(file, pictures=pictures).load()
