"""A checkpoint of PyTorch becomes a spiking network in one call."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from bitsnn_jax.interop.torch_files import write_state_dict
from bitsnn_jax.interop.torch_networks import TORCHVISION, to_torch
from bitsnn_jax.jobs import sources
from bitsnn_jax.jobs.import_network import ImportOptions, import_network
from bitsnn_jax.jobs.sources import TorchSource
from bitsnn_jax.models import build_model
from bitsnn_jax.results.imported import ImportResult
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.runtime.reading import read_typed
from bitsnn_jax.scripts import convert

SIZE = 32
NARROW = dataclasses.replace(TORCHVISION["resnet18"], width=0.05, num_classes=7)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(5):
        inside = folder / str(i % 2)
        inside.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (40 + i, 50, 3), np.uint8)
        Image.fromarray(pixels).save(inside / f"{i}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def imported(pictures, tmp_path_factory):
    """What was written to a file, and what came of it."""
    folder = tmp_path_factory.mktemp("imported")
    model = build_model(NARROW, image_shape=(SIZE, SIZE, 3))
    x = np.zeros((1, SIZE, SIZE, 3), np.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), x, train=False))()
    variables = jax.tree.map(np.asarray, dict(variables))
    file = folder / "narrow.safetensors"
    write_state_dict(file, to_torch(variables, NARROW))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sources.TORCHVISION, "resnet18", NARROW)
        results = import_network(
            TorchSource(file, model="resnet18", pictures=pictures, size=SIZE),
            ImportOptions(
                out=folder / "out",
                calibrate=pictures,
                steps=(2,),
                method="output",
                correct_biases=True,
            ),
        )
    return variables, results, folder / "out"


def test_every_code_is_that_of_the_quantised_network(imported):
    _, results, _ = imported
    assert [row.steps for row in results.steps] == [2]
    for row in results.steps:
        certificate = row.certificate["float64"]
        assert certificate.exact and certificate.examples == 5
        assert 0 <= row.agreement <= 1
    assert results.same_images and results.compared_on == 5
    assert results.sequential and results.correct_biases


def test_the_record_is_on_disk(imported):
    _, results, out = imported
    assert read_typed(out / "import.json", ImportResult, advice="") == results


def test_the_imported_network_is_kept_as_it_was(imported):
    variables, _, out = imported
    apply_fn, run = load_ann(out / "ann")
    assert run.config.model.activation == "relu"
    jax.tree.map(np.testing.assert_array_equal, run.variables, variables)


def test_the_quantised_network_is_a_run(imported):
    variables, _, out = imported
    _, run = load_ann(out)
    assert (run.config.steps, run.config.model.levels) == (2, 3)
    leaves = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(run.variables)
    }
    thetas = [leaf for path, leaf in leaves.items() if path.endswith("['theta']")]
    assert len(thetas) == 17 and all(theta > 0 for theta in thetas)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        np.testing.assert_array_equal(leaves[jax.tree_util.keystr(path)], leaf)


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"model": "alexnet"}, "model must be one of mobilenetv2, resnet18"),
        ({"pictures": "nowhere"}, "nowhere: expected a folder of images"),
        ({"steps": (0,)}, "steps must be"),
        ({"size": 31}, "size must be at least 32"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"path": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_bad_input_leaves_nothing_behind(changed, words, pictures, tmp_path):
    out = tmp_path / "out"
    options = {"path": "weights.pth", "model": "resnet18", "pictures": pictures}
    options |= {"calibrate": pictures, "steps": (4,)} | changed
    steps, calibrate = options.pop("steps"), options.pop("calibrate")
    with pytest.raises((ValueError, OSError)) as error:
        import_network(
            TorchSource(**options),
            ImportOptions(out=out, calibrate=calibrate, steps=steps),
        )
    assert words in str(error.value)
    assert not out.exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--torch", "a.pth"], "--torch needs --model"),
        (["--torch", "a.pth", "--model", "vgg16"], "--torch needs --calibrate"),
        (["--torch", "a.pth", "--fixed-point"], "--fixed-point belongs to --ckpt"),
        (["--torch", "a.pth", "--num_hosts", "2"], "--num_hosts belongs to --ckpt"),
        (["--ckpt", "a", "--model", "vgg16"], "--model belongs to --torch"),
        ([], "one of the arguments --ckpt --torch --onnx is required"),
    ],
)
def test_options_of_the_other_source_are_one_line(options, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        convert.main(options)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
