"""Which files of a folder are classes and pictures, links and hidden names included."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from bitsnn_jax.config import Data
from bitsnn_jax.data import load
from bitsnn_jax.data.folder import open_folder, open_pictures
from bitsnn_jax.data.listing import SUFFIXES, is_hidden

CLASSES = ("cat", "dog")


def picture(path, grey=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (grey,) * 3).save(path)


@pytest.fixture
def tree(tmp_path):
    """Two classes of three pictures, in both parts."""
    for part in ("train", "val"):
        for name in CLASSES:
            for i in range(3):
                picture(tmp_path / "data" / part / name / f"{i}.png")
    return tmp_path / "data"


def found(root, part="train"):
    """Pictures of each class."""
    folder = open_folder(str(root), part)
    assert folder.classes == CLASSES
    return np.bincount(folder.labels, minlength=2).tolist()


# Names that are no examples


@pytest.mark.parametrize("parts", [["train"], ["val"], ["train", "val"]])
@pytest.mark.parametrize("content", [[], ["0.png"]])
@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir", "$RECYCLE.BIN"]
)
def test_hidden_and_system_folders_are_no_classes(tree, name, content, parts):
    for part in parts:
        (tree / part / name).mkdir()
        for file in content:
            picture(tree / part / name / file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they are nothing to be told of
        assert found(tree) == found(tree, "val") == [3, 3]
        assert len(open_pictures(tree / "train")) == 6


@pytest.mark.parametrize(
    "name",
    ["._0.png", ".0.png", "Thumbs.db", "desktop.ini", ".DS_Store", "__MACOSX/0.png"],
)
def test_hidden_and_system_files_are_no_pictures(tree, name):
    file = tree / "train" / "cat" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"\0\5\26\7")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(tree) == [3, 3]
        assert len(open_pictures(tree / "train" / "cat")) == 3


def test_a_folder_that_is_hidden_itself_is_read(tree):
    assert found(tree.rename(tree.with_name(".data"))) == [3, 3]
    assert len(open_pictures(tree.with_name(".data"))) == 12


def test_names_that_only_resemble_those_are_examples():
    assert not any(map(is_hidden, ("thumbs", "MACOSX", "_a.png", "a.b", "desktop")))


# All pictures, wherever they lie


def test_both_readers_find_the_same_pictures_of_all_types_and_in_all_folders(tree):
    cat = tree / "train" / "cat"
    kinds = ["a.webp", "b.BMP", "c.ppm", "d.tif", "e.TIFF", "f.JPG", "g.jpeg", "h.pgm"]
    for name in kinds:
        file = cat / name
        mode = "L" if name.endswith("pgm") else "RGB"
        Image.new(mode, (8, 8), 77 if mode == "L" else (77,) * 3).save(file)
    for name in ("siamese/0.png", "siamese/old/0.png", "wild.png/0.png"):
        picture(cat / name)
    # What torchvision's ImageFolder finds: 3, 8, and 3 below.
    assert found(tree) == [14, 3]
    pictures = open_pictures(cat)
    folder = open_folder(str(tree), "train")
    paths = [os.path.join(cat, os.fsdecode(name)) for name in folder.names[:14]]
    listed = [str(pictures.root / name) for name in pictures.names]
    assert sorted(listed) == sorted(paths)
    data = Data(name="image_folder", directory=str(tree), image_size=8)
    whole = load(data, "train"), load(data, "validation")
    greys = [int(part[i]["image"].max()) for part in whole for i in range(len(part))]
    # A JPEG of one grey is that grey.
    assert sorted(greys) == [0] * 9 + [77] * 8


def test_linked_classes_folders_and_files_are_read(tree, tmp_path):
    linked = tmp_path / "linked"
    for part in ("train", "val"):
        (linked / part).mkdir(parents=True)
        for name in CLASSES:
            (linked / part / name).symlink_to(tree / part / name)
    assert found(linked) == [3, 3]
    assert len(open_pictures(linked / "train")) == 6
    picture(tmp_path / "more" / "below" / "0.png")
    (tree / "train" / "dog" / "more").symlink_to(tmp_path / "more")
    (tree / "train" / "dog" / "one.png").symlink_to(tree / "val" / "dog" / "0.png")
    assert found(linked) == [3, 5]
    assert len(open_pictures(linked)) == 14


@pytest.mark.parametrize("target", ["train/cat", "train", ".", ".."])
def test_links_in_a_circle_end_and_are_said(tree, target):
    (tree / "train" / "cat" / "loop").symlink_to(tree / target)
    (tree / "train" / "dog" / "self").symlink_to("self")
    with pytest.warns(UserWarning, match="1 links to a folder that is read already"):
        assert found(tree) == [3, 3]
    with pytest.warns(UserWarning, match="1 links"):
        assert len(open_pictures(tree / "train")) == 6


def test_folders_that_are_linked_with_each_other_are_read_once(tree):
    # Without a memory of what was read, 12 folders have 12! ways through them.
    inside = tree / "train" / "cat"
    names = [f"folder{i}" for i in range(12)]
    for name in names:
        picture(inside / name / "0.png")
        for other in names:
            (inside / name / f"to_{other}").symlink_to(inside / other)
    with pytest.warns(UserWarning, match="144 links"):
        assert found(tree) == [15, 3]


def test_a_class_that_links_back_is_none(tree):
    (tree / "train" / "all").symlink_to(tree / "train")
    with pytest.warns(UserWarning, match="1 links back to a folder above"):
        assert found(tree) == [3, 3]


def test_pictures_of_any_name_are_read(tree):
    names = [b"\xff\xfe.png", b"two\nlines.png", b" .PNG", "ü🐈.png".encode()]
    names += [b"x" * 251 + b".png", b"-.jpg", b"%s{0}.png"]
    content = (tree / "train" / "cat" / "0.png").read_bytes()
    for name in names:
        path = tree / "train" / "cat" / os.fsdecode(name)
        path.write_bytes(content)
    assert found(tree) == [3 + len(names), 3]
    for examples in (open_folder(str(tree), "train"), open_pictures(tree)):
        assert {examples[i].content for i in range(len(examples))} == {content}


# What is left out is said


def test_files_of_other_types_are_counted_in_one_line(tree):
    cat = tree / "train" / "cat"
    for name in ("a.gif", "b.gif", "c.avif", "notes.txt", "LICENSE"):
        (cat / name).write_bytes(b"x")
    (cat / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(cat / "pipe.png")  # whoever opens it waits for ever
    picture(tree / "train" / "beside.png")
    with pytest.warns(UserWarning) as caught:
        assert found(tree) == [3, 3]
    [message] = [str(warning.message) for warning in caught]
    assert message.startswith(f"{tree / 'train'}: left out 8 ") and "\n" not in message
    for part in ("1 .avif", "2 .gif", "2 broken links or no files", "1 other kinds"):
        assert part in message
    assert all(suffix in message for suffix in SUFFIXES)
    with pytest.warns(UserWarning, match="left out 7 .* 2 .gif"):
        assert len(open_pictures(tree / "train")) == 7


def test_a_folder_that_cannot_be_read_is_an_error(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "secret":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    (tree / "train" / "cat" / "secret").mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    for read in (found, open_pictures):
        with pytest.raises(PermissionError, match="secret"):
            read(tree)
