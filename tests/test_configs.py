"""The files of configs/: each one loads, is valid, and describes a network."""

import importlib.util
from functools import partial
from pathlib import Path

import jax
import pytest

from bitsnn_jax.binary import METHODS as BINARY
from bitsnn_jax.config import Config, from_dict, read_config, to_dict
from bitsnn_jax.detection import flat
from bitsnn_jax.direct import METHODS
from bitsnn_jax.tasks import task_of
from bitsnn_jax.training.validation import validate

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.py"))
DIRECT = ROOT / "configs" / "direct"
FILES.append(DIRECT / "tet_small_fashion_mnist.py")
RECIPES = DIRECT / "fashion_mnist.py"  # of all methods, by their names
# Shape of the examples and number of classes: what a task finds in the files, which are
# not here. 0 is for data.image_size or data.max_length.
DATA = {
    "digits": ((8, 8, 1), 10),
    "idx": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "image_folder": ((0, 0, 3), 1000),
    "coco": ((0, 0, 3), 80),
    "coco of scenes": ((0, 0, 1), 10),
    "coco of deepforest": ((0, 0, 3), 1),
    **dict.fromkeys(("sst2", "qqp", "qnli"), ((3, 0), 2)),
}


def data_of(config: Config) -> str:
    """Say what the files hold, where two data sets have them in the same form."""
    for what in ("scenes", "deepforest"):
        if config.data.directory.endswith(what):
            return f"{config.data.name} of {what}"
    return config.data.name


each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def load(file) -> Config:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@each_file
def test_every_file_is_valid_and_named_after_itself(file):
    config = load(file)
    validate(config)
    assert config.name == file.stem
    assert from_dict(to_dict(config)) == config
    # A config of its own each time: the command line changes fields in place.
    assert load(file) == config and load(file) is not config


@each_file
def test_the_name_of_a_file_says_model_and_data(file):
    config, words = load(file), file.stem.split("_")
    known_as = {"idx": "fashion", "image_folder": "imagenet"}
    if config.data.directory.endswith("reviews"):  # in the form of SST-2
        known_as["sst2"] = "reviews"
    if data_of(config).startswith("coco of "):
        known_as["coco"] = data_of(config).split()[-1]
    assert known_as.get(config.data.name, config.data.name) in words
    assert any(config.model.name.startswith(word) for word in words)


@each_file
def test_the_network_of_every_file_fits_its_examples_and_classes(file):
    config, task = load(file), task_of(load(file))
    shape, num_classes = DATA[data_of(config)]
    size = config.data.image_size or config.data.max_length
    shape = tuple(side or size for side in shape)
    model = task.build(config, shape)
    outputs, _ = jax.eval_shape(
        partial(model.init_with_output, train=False),
        jax.random.key(0),
        task.placeholder(shape),
    )
    if config.task == "detection":  # which has logits for each anchor
        outputs, _ = jax.eval_shape(flat, outputs)
    assert (outputs.shape[0], outputs.shape[-1]) == (1, num_classes)


@each_file
def test_every_network_is_trained_for_a_lossless_conversion(file):
    config = load(file)
    if config.direct.method:
        return  # it is trained as a spiking one
    assert config.model.levels == 2**config.steps - 1 and config.model.pool == "average"
    if config.model.activation != "qcfs":  # a second command makes it that
        header = file.read_text().split('"""')[1]
        assert "--config.model.activation=qcfs" in header
        assert f"--config.start_from=runs/{config.name}" in header


@each_file
def test_the_header_of_every_file_is_complete(file):
    header = file.read_text().split('"""')[1]
    name = file.relative_to(ROOT).as_posix()
    assert f"python train.py --config {name}" in header
    for word in ("Hardware:", "Time:", "Accuracy"):
        assert word in header, word


@pytest.mark.parametrize("name", ["qcfs", "relu", "plif_net", *METHODS])
def test_every_method_of_direct_training_has_a_valid_config(name):
    config = read_config(f"{RECIPES}:{name}")
    validate(config)
    assert config.name.startswith(name) and config.name.endswith("_fashion_mnist")
    assert config.direct.method in (name, name.partition("_")[0], "")
    task_of(config).build(config, DATA[config.data.name][0])


@pytest.mark.parametrize("name", ["qcfs", *BINARY])
def test_every_binary_method_has_a_valid_config(name):
    config = read_config(f"{ROOT / 'configs' / 'binary' / 'fashion_mnist.py'}:{name}")
    validate(config)
    assert config.name == f"{name}_small_fashion_mnist"
    assert config.binary.method == ("" if name == "qcfs" else name)
    task_of(config).build(config, DATA[config.data.name][0])


def test_what_goes_on_starts_from_a_network_of_the_same_file():
    sources = {
        f"runs/{read_config(f'{RECIPES}:{name}').name}": name
        for name in ("qcfs", "relu")
    }
    for method in METHODS.values():
        config = read_config(f"{RECIPES}:{method.name}")
        assert bool(config.start_from) == method.needs_start
        if config.start_from:
            assert sources[config.start_from] in method.starts_from


@pytest.mark.parametrize(
    ("data", "batch_size", "paper"),
    [("cifar", 128, 1e-8), ("imagenet", 256, 5e-10)],
)
def test_the_weight_of_spikes_is_the_papers_times_its_batch(data, batch_size, paper):
    configs = [load(file) for file in FILES if data in file.stem]
    assert configs
    for config in configs:
        assert config.data.batch_size == batch_size
        # A decimal number against a product of two.
        assert config.loss.spike_lambda == pytest.approx(paper * batch_size, rel=1e-12)


def test_fine_tuning_starts_from_the_network_of_the_first_command():
    file = ROOT / "configs" / "resnet20_cifar10_from_relu.py"
    header, config = file.read_text().split('"""')[1], load(file)
    before = load(ROOT / "configs" / "resnet20_cifar10.py")
    assert f"--config.name={config.start_from.removeprefix('runs/')} " in header
    assert config.model == before.model
    assert config.data == before.data
    assert config.optimizer.epochs == 30
