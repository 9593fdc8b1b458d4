"""Files of PyTorch: read as they were written, and never run."""

import argparse
import builtins
import os
import pickle
import zipfile

import numpy as np
import pytest

from bitsnn_jax.interop.torch_files import read_state_dict, write_state_dict

TENSORS = {
    "conv.weight": np.arange(24, dtype="f4").reshape(2, 3, 2, 2),
    "fc.weight": np.arange(6, dtype="f8").reshape(2, 3).T,  # not contiguous
    "bn.num_batches_tracked": np.zeros((), np.int64),
}


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs bitsnn-jax[torch]")


def assert_same(got, expected=TENSORS):
    assert got.keys() == expected.keys()
    for name, a in expected.items():
        assert got[name].dtype == a.dtype and got[name].shape == a.shape
        assert np.array_equal(got[name], a)


def test_safetensors_come_back_as_they_were(tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    assert write_state_dict(path, TENSORS) == path
    assert_same(read_state_dict(path))
    assert os.listdir(path.parent) == ["a.safetensors"]


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.pth.tar", "a.safetensors"])
def test_both_formats_come_back_as_they_were(torch, tmp_path, name):
    assert_same(read_state_dict(write_state_dict(tmp_path / name, TENSORS)))


def test_pytorch_reads_what_is_written(torch, tmp_path):
    loaded = torch.load(write_state_dict(tmp_path / "a.pth", TENSORS))
    assert_same({name: a.numpy() for name, a in loaded.items()})


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = write_state_dict(tmp_path / "a.safetensors", TENSORS)
    with pytest.raises(Exception, match="object"):
        write_state_dict(path, {"a": np.array([None])})
    assert_same(read_state_dict(path))


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net", "model_state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_a_training_script_put_around_is_taken_off(
    torch, tmp_path, wrapper, zipped
):
    tensors = {f"module.{k}": torch.tensor(a) for k, a in TENSORS.items()}
    saved = {"epoch": 3, wrapper: tensors, "optimizer": {"state": {}}}
    file = tmp_path / "a.pth.tar"
    torch.save(saved, file, _use_new_zipfile_serialization=zipped)
    assert_same(read_state_dict(file))


def test_module_is_taken_off_all_names_or_none(tmp_path):
    tensors = {"module.a": np.ones(1), "b": np.ones(2)}
    path = write_state_dict(tmp_path / "a.safetensors", tensors)
    assert_same(read_state_dict(path), tensors)


def test_parameters_and_bfloat16_become_plain_arrays(torch, tmp_path):
    half = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    expected = {"a": np.array([1.5, -2], "f4"), "b": np.ones(2, "f4")}
    torch.save({"a": half, "b": torch.nn.Parameter(torch.ones(2))}, tmp_path / "a.pt")
    assert_same(read_state_dict(tmp_path / "a.pt"), expected)
    from safetensors.torch import save_file

    save_file({"a": half, "b": torch.ones(2)}, tmp_path / "a.safetensors")
    assert_same(read_state_dict(tmp_path / "a.safetensors"), expected)


class Touch:
    """Makes a file, when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
def test_code_in_a_checkpoint_is_named_and_not_run(torch, tmp_path, form):
    made, path = tmp_path / "made", tmp_path / "a.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Touch(made), protocol=2))
    else:
        torch.save(Touch(made), path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ValueError, match=r"a.pth calls posix.mkdir when"):
        read_state_dict(path)
    assert not made.exists()


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (lambda torch: torch.nn.Linear(2, 3), r"calls torch.nn.modules.linear.Linear"),
        (lambda torch: {"a": argparse.Namespace()}, "save model.state_dict.. alone"),
        (lambda torch: [torch.ones(2)], "must hold a dictionary of tensors, got list"),
        (lambda torch: {}, "got an empty dictionary"),
        (lambda torch: {"model": {}}, "got an empty dictionary"),
        (lambda torch: {"a": torch.ones(2), "epoch": 3}, r"got epoch \(int\)$"),
        (lambda torch: {i: i for i in range(5)}, r"2 \(int\) and 2 more$"),
        (lambda torch: {"a": torch.ones(2).to_sparse()}, r"got a \(Tensor\)$"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_what_is_no_state_dict_is_told(torch, tmp_path, saved, message):
    torch.save(saved(torch), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message) as caught:
        read_state_dict(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"PK\x03\x04" + b"junk" * 9])
def test_damaged_files_are_told(torch, tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match="a.pth is no checkpoint that torch can read"):
        read_state_dict(tmp_path / "a.pth")


def test_a_file_that_was_cut_off_is_told(torch, tmp_path):
    torch.save({"w": torch.ones(10_000)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content[:20_000])
    with pytest.raises(ValueError, match="a.pth is no checkpoint that torch can read"):
        read_state_dict(tmp_path / "a.pth")


class StandIn:
    """What `torch.load` gives, without torch: a tensor whose numbers nobody copies."""

    strided, bfloat16, Tensor = "strided", "bfloat16", property(lambda s: type(s))
    layout, is_quantized, dtype = "strided", False, "bfloat16"

    def __init__(self, numel):
        self.numel, self.element_size = lambda: numel, lambda: 2

    def detach(self):
        return self

    def load(self, path, **_):
        return self.loaded

    def float(self):
        raise AssertionError("all of it is copied")


@pytest.fixture
def standing_in(monkeypatch, tmp_path):
    """A .pth file, and a function that says what is in it."""
    torch, path = StandIn(0), tmp_path / "a.pth"
    path.write_bytes(bytes(2000))
    monkeypatch.setattr("bitsnn_jax.interop.torch_files._torch", lambda: torch)

    def holds(value):
        torch.loaded = value
        return path

    return holds


def test_a_dictionary_inside_itself_is_told(standing_in):
    for wrapper in ("model", "state_dict"):
        itself = {}
        itself[wrapper] = {"net": itself}
        with pytest.raises(ValueError, match="a.pth holds a dictionary that is inside"):
            read_state_dict(standing_in(itself))
    # Where no wrapper leads to, there is nothing to follow.
    itself = {}
    itself["a"] = itself
    with pytest.raises(ValueError, match=r"got a \(dict\)$"):
        read_state_dict(standing_in(itself))


def test_one_number_that_stands_for_many_is_not_copied(standing_in):
    # torch.zeros(1, dtype=torch.bfloat16).expand(40_000, 40_000)
    path = standing_in({"w": StandIn(40_000**2)})
    with pytest.raises(
        ValueError, match="a.pth: its 2,000 bytes declare 6,400,000,000"
    ):
        read_state_dict(path)


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/data/0", bytes(2**27))
        archive.writestr("a/data/1", b"x")  # 2**27 are read, whatever the file
    with pytest.raises(ValueError, match=r"declare 134,217,729; at most 134,217,728"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_damaged_safetensors_are_told(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="a.safetensors is no safetensors file"):
        read_state_dict(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("name", ["a.npz", "a"])
def test_other_suffixes_are_told(tmp_path, name):
    for call in (read_state_dict, lambda path: write_state_dict(path, TENSORS)):
        with pytest.raises(ValueError, match=r"one of .safetensors, .pth, .* got"):
            call(tmp_path / name)


def test_without_torch_the_way_out_is_told(tmp_path, monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "torch":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "a.pth").write_bytes(b"")
    for call in (read_state_dict, lambda path: write_state_dict(path, TENSORS)):
        with pytest.raises(ValueError, match=r"pip install 'bitsnn-jax\[torch\]', or"):
            call(tmp_path / "a.pth")
    path = write_state_dict(tmp_path / "a.safetensors", TENSORS)
    assert_same(read_state_dict(path))
