"""PyTorch modules by name, through the job of `convert.py --torch`."""

import jax
import numpy as np
import pytest
from PIL import Image

from bitsnn_jax import convert, spiking
from bitsnn_jax.interop.imported_files import load_imported
from bitsnn_jax.interop.torch_factories import named_module
from bitsnn_jax.interop.torch_files import write_state_dict
from bitsnn_jax.interop.torch_weights import load_weights
from bitsnn_jax.jobs.import_network import ImportOptions, import_network
from bitsnn_jax.jobs.module_sources import ModuleSource
from bitsnn_jax.results.imported import ImportResult
from bitsnn_jax.runtime.reading import read_typed
from bitsnn_jax.scripts.convert import main

torch = pytest.importorskip("torch")

NETS = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(4, 2),
    )

def broken():
    raise RuntimeError("no such width\\nsecond line")

number = 3
text = str
"""
PREFIXED = "the tensors of Sequential in .*missing: 0.weight.*strip_prefix=model."


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield "own_nets"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(4):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def weights(nets, tmp_path_factory):
    """Those of `net`, twice as large, under names with a prefix."""
    state = named_module(f"{nets}:net").module.state_dict()
    file = tmp_path_factory.mktemp("weights") / "net.safetensors"
    write_state_dict(file, {f"model.{k}": 2 * a.numpy() for k, a in state.items()})
    return file


def test_a_module_of_ones_own_leaves_spiking_and_can_be_loaded(
    nets, pictures, weights, tmp_path, capsys
):
    out = tmp_path / "out"
    main(
        f"--torch {nets}:net --weights {weights} --strip_prefix model. --size 32 "
        f"--mean 0.5 0.5 0.5 --std 0.25 0.25 0.25 --calibrate {pictures} --steps 2 "
        f"--certificate float64 --out {out}".split()
    )
    results = read_typed(out / "import.json", ImportResult, advice="")
    [row] = results.steps
    assert row.certificate["float64"].exact
    assert (results.neuron_layers, results.left) == (1, ())
    # Folders are the two classes.
    assert 0 <= results.ann_accuracy <= 1 and 0 <= row.accuracy <= 1
    assert "top-1" in capsys.readouterr().out

    loaded = load_imported(out / "quantised")
    assert (loaded.setting.size, loaded.setting.mean) == (32, [0.5] * 3)
    x = np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype(np.float32)
    module = named_module(f"{nets}:net").module
    load_weights(module, weights, strip_prefix=["model."])
    with torch.no_grad():
        theirs = module(torch.from_numpy(x).movedim(-1, 1)).numpy()
    ours = loaded.float_fn(loaded.float_variables, x)
    assert np.allclose(ours, theirs, atol=1e-5)  # float32
    network = (loaded.apply_fn, loaded.variables)
    converted = convert(*network, x, steps=2).variables
    logits, _ = jax.jit(spiking(loaded.apply_fn, steps=2))(converted, x)
    assert np.allclose(logits, loaded.apply_fn(loaded.variables, x), atol=1e-5)


@pytest.mark.parametrize(
    "name, message",
    [
        ("{nets}:broken", "cannot be built: RuntimeError: no such width$"),
        ("{nets}:missing", "has no function missing"),
        ("{nets}:number", "has no function number"),
        ("{nets}:text", "must return a torch.nn.Module, got str"),
        ("no_such_package:net", "needs no_such_package, which cannot be imported"),
    ],
)
def test_a_name_that_leads_to_no_module_is_said_in_a_line(nets, name, message):
    with pytest.raises(ValueError, match=message) as error:
        named_module(name.format(nets=nets))
    assert "\n" not in str(error.value)


def test_names_that_libraries_do_not_know_are_answered_with_close_ones():
    for library in ("torchvision", "timm"):
        pytest.importorskip(library)
        with pytest.raises(ValueError, match="no model 'resnet18x'.*did you.*resnet18"):
            named_module(f"{library}:resnet18x")


def test_a_library_says_what_pictures_its_models_take():
    pytest.importorskip("torchvision")
    pictures = named_module("torchvision:mobilenet_v3_small").pictures
    assert pictures == (224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pytest.importorskip("timm")
    assert named_module("timm:lcnet_050").pictures.size == 224


def test_weights_of_another_model_leave_nothing_behind(
    nets, pictures, weights, tmp_path
):
    options = ImportOptions(out=tmp_path / "out", calibrate=pictures, steps=(2,))
    source = ModuleSource(f"{nets}:net", pictures=pictures, weights=weights)
    with pytest.raises(ValueError, match=PREFIXED) as error:
        import_network(source, options)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()

    other = tmp_path / "other.safetensors"
    state = named_module(f"{nets}:net").module.state_dict()
    tensors = {k: a.numpy() for k, a in state.items() if k != "4.bias"}
    tensors |= {"0.bias": np.ones(5, np.float32), "head": np.ones(1, np.float32)}
    write_state_dict(other, tensors)
    message = r"missing: 4.bias \[2\]; unknown: head \[1\]; of another shape: 0.bias"
    with pytest.raises(ValueError, match=message):
        load_weights(named_module(f"{nets}:net").module, other)
