"""What pip installs: built offline, as files, from nothing but the sources."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest

import bitsnn_jax
from bitsnn_jax.numerics import neurons, qcfs, spikes
from bitsnn_jax.scripts.train import config_file, configs

ROOT = Path(__file__).parents[1]
CONFIGS = {
    path.relative_to(ROOT / "configs").as_posix()
    for path in (ROOT / "configs").rglob("*.py")
}
BUILD = """
from setuptools import build_meta
print(build_meta.build_sdist("dist"), build_meta.build_wheel("dist"), sep="\\n")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The files of the sdist and of the wheel, without their first folder."""
    # A copy: a folder `build` of earlier days would end in the wheel.
    skipped = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
    copy = tmp_path_factory.mktemp("b") / "s"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.name.startswith(".") or path.suffix == ".egg-info":
            continue
        if path.is_file():
            shutil.copy(path, copy)
        elif path.name not in ("runs", "build", "dist", "site"):
            shutil.copytree(path, copy / path.name, ignore=skipped)
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    sdist, wheel = (copy / "dist" / name for name in done.stdout.splitlines()[-2:])
    return sdist, wheel


def wheel_files(built):
    return set(zipfile.ZipFile(built[1]).namelist())


def test_the_wheel_has_every_module_and_data_file_of_the_package_and_no_more(built):
    package = ROOT / "bitsnn_jax"
    files = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.suffix in {".py", ".html", ".json", ".md", ".npz", ".sv"}
    }
    configs = {f"bitsnn_jax/configs/{name}" for name in CONFIGS}
    installed = {name for name in wheel_files(built) if ".dist-info/" not in name}
    assert installed == files | configs


def test_the_sdist_has_what_the_tests_and_the_site_need(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"tests/conftest.py", "docs/design.md", "docs/images/overview.png"}
    needed |= {"examples/relu_network.py", "examples/relu_network.ipynb"}
    needed |= {"Makefile", "mkdocs.yml", "train.py", "README.md", "LICENSE"}
    needed |= {f"configs/{name}" for name in CONFIGS}
    assert needed <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_version_and_commands_are_those_of_the_package(built):
    with zipfile.ZipFile(built[1]) as wheel:
        [info] = {name.split("/")[0] for name in wheel.namelist() if "-info/" in name}
        commands = wheel.read(f"{info}/entry_points.txt").decode()
        metadata = wheel.read(f"{info}/METADATA").decode()
    assert info == f"bitsnn_jax-{bitsnn_jax.__version__}.dist-info"
    assert f"\nVersion: {bitsnn_jax.__version__}\n" in metadata
    for name in ("train", "convert", "compare", "export"):
        assert f"bitsnn-{name} = bitsnn_jax.scripts.{name}:run" in commands
        assert (ROOT / f"{name}.py").is_file()  # the same command in a clone


def test_the_version_is_that_of_the_changelog_and_the_citation():
    version = bitsnn_jax.__version__
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_a_config_is_a_file_or_a_name_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {f"{name}.py" for name in configs()} == CONFIGS
    assert Path(config_file("digits_small")) == ROOT / "configs" / "digits_small.py"
    direct = ROOT / "configs" / "direct" / "fashion_mnist.py"
    assert config_file("direct/fashion_mnist:plif") == f"{direct}:plif"
    Path("digits_small").write_text("")  # a file comes first
    assert config_file("digits_small") == "digits_small"
    with pytest.raises(FileNotFoundError, match="--config=none: .* one of bert_base_"):
        config_file("none")


def test_importing_the_package_imports_neither_pictures_nor_data_nor_checkpoints():
    heavy = "matplotlib grain orbax tensorflow_datasets tensorboardX safetensors PIL"
    code = f"import bitsnn_jax, sys; print(*set(sys.modules) & set({heavy.split()}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "\n", done.stdout + done.stderr


def test_the_shapes_of_the_equations_are_checked_while_the_tests_run():
    """The hook of conftest.py names modules by strings; a wrong one does nothing."""
    for call in (
        lambda: neurons.integrate(jnp.zeros((4, 2), int), jnp.zeros(2)),
        lambda: spikes.pack(jnp.zeros((4, 2))),
        lambda: qcfs.codes(jnp.zeros(2, int), 1.0),
    ):
        with pytest.raises(jaxtyping.TypeCheckError):
            call()
