"""Sentences: read as GLUE writes them, split into word pieces, wrong files refused."""

import numpy as np
import pytest
from sentences import write_sst2, write_vocabulary

from bitsnn_jax.config import Data
from bitsnn_jax.data import load_sentences
from bitsnn_jax.data.wordpieces import read_vocabulary


def pairs(directory, name, *, train, dev="", **fields):
    (directory / "train.tsv").write_text(train)
    (directory / "dev.tsv").write_text(dev or train)
    vocabulary = write_vocabulary(directory)
    fields = {"max_length": 8, "vocabulary": vocabulary} | fields
    return Data(name=name, directory=str(directory), **fields)


def test_a_sentence_is_its_pieces_their_types_and_a_mask(tmp_path):
    data = pairs(tmp_path, "sst2", train='sentence\tlabel\nA "Badly" fílm \t1\n')
    example = load_sentences(data, "test")[0]
    # [CLS] a [UNK] bad ##ly [UNK] film [SEP]: lower case, no accents, no quoting.
    want = [[2, 4, 1, 6, 10, 1, 7, 3], [0] * 8, [1] * 8]
    np.testing.assert_array_equal(example["tokens"], want)
    assert example["tokens"].dtype == np.int32 and example["label"] == 1


def test_a_pair_has_two_types_and_the_longer_sentence_is_cut_first(tmp_path):
    header = "index\tquestion\tsentence\tlabel\n"
    rows = ["0\twhy ?\ta film\tentailment", "1\twhy ?\t" + "a " * 9 + "\tentailment"]
    data = pairs(tmp_path, "qnli", train=header + "\n".join(rows) + "\n", max_length=10)
    test = load_sentences(data, "test")
    short = [[2, 9, 12, 3, 4, 7, 3, 0, 0, 0], [0] * 4 + [1] * 3 + [0] * 3]
    np.testing.assert_array_equal(test[0]["tokens"], [*short, [1] * 7 + [0] * 3])
    cut = [[2, 9, 12, 3, 4, 4, 4, 4, 4, 3], [0] * 4 + [1] * 6]
    np.testing.assert_array_equal(test[1]["tokens"], [*cut, [1] * 10])
    assert test.words(0) == ["[CLS]", "why", "?", "[SEP]", "a", "film", "[SEP]"]


def test_every_line_is_in_one_split_and_validation_is_a_fixed_part_of_train(tmp_path):
    data = write_sst2(tmp_path)
    splits = [load_sentences(data, split) for split in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [36, 4, 12]
    rows = np.concatenate([split.order for split in splits[:2]])
    assert sorted(rows) == list(range(40))
    np.testing.assert_array_equal(
        load_sentences(data, "validation").order, splits[1].order
    )
    assert splits[0].part is splits[1].part  # split into pieces once
    assert len(splits[2].first(5)) == 5 and splits[2].first(None) is splits[2]


def test_classes_have_the_numbers_of_tensorflow_datasets(tmp_path):
    header = "id\tquestion1\tquestion2\tis_duplicate\n"
    data = pairs(tmp_path, "qqp", train=header + "0\ta\tb\t0\n1\ta\tb\t1\n")
    test = load_sentences(data, "test")
    assert [int(test[i]["label"]) for i in range(2)] == [0, 1]
    header = "index\tquestion\tsentence\tlabel\n"
    train = header + "0\ta\tb\tentailment\n1\ta\tb\tnot_entailment\n"
    test = load_sentences(pairs(tmp_path, "qnli", train=train), "test")
    assert [int(test[i]["label"]) for i in range(2)] == [0, 1]
    # CoLA has no header.
    test = load_sentences(
        pairs(tmp_path, "cola", train="x\t1\t*\ta film\n" * 2), "test"
    )
    assert test[0]["label"] == 1 and test.words(0)[1:3] == ["a", "film"]


HEADER = "sentence\tlabel\n"


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["the columns sentence, label", "line 1", "got ''"]),
        ("text\tlabel\na\t1\n", ["the columns sentence, label", "text, label"]),
        (HEADER, ["expected examples", "none"]),
        (HEADER + "a\t1\na film\n", ["line 3 has 1 columns, not 2", "unreadable"]),
        (HEADER + "a\t1\n\nb\t0\n", ["line 3 has 1 columns, not 2", "(1 of 3)"]),
        (HEADER + "a\tb\t1\n", ["line 2 has 3 columns, not 2"]),
        (HEADER + "a\t2\n", ["line 2 has the label '2', not 0 or 1"]),
        (HEADER + "a\tgood\n", ["line 2 has the label 'good', not 0 or 1"]),
        (b"sentence\tlabel\n\xff\t1\n", ["expected UTF-8", "byte 15"]),
    ],
)
def test_a_wrong_file_is_named_in_one_line(tmp_path, content, parts):
    data = write_sst2(tmp_path)
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / "dev.tsv").write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_sentences(data, "test")
    for part in [*parts, "dev.tsv"]:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_broken_lines_are_left_out_where_that_is_asked_for(tmp_path):
    data = write_sst2(tmp_path)
    (tmp_path / "dev.tsv").write_text(HEADER + "a\t1\nbroken\nfilm\t0\nwhy\t3\n")
    data.unreadable = "skip"
    with pytest.warns(UserWarning, match="2 of 4 lines are left out; line 3 has 1 col"):
        assert len(load_sentences(data, "test")) == 2


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (None, "found no file"),
        (["a", "b"], "got 2 lines without [PAD], [UNK], [CLS], [SEP]"),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "a"], "got the line 'a' 2 times"),
    ],
)
def test_a_wrong_vocabulary_is_named_in_one_line(tmp_path, lines, part):
    path = tmp_path / "vocab.txt"
    if lines:
        path.write_text("\n".join(lines))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read_vocabulary(str(path))
    for word in (part, "data.vocabulary", "expected the vocab.txt"):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_are_named(tmp_path):
    data = write_sst2(tmp_path)
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(
        FileNotFoundError, match="train.tsv and dev.tsv in it, found no"
    ):
        load_sentences(data, "train")
    data.vocabulary = ""
    with pytest.raises(FileNotFoundError, match="data.vocabulary '': expected"):
        load_sentences(data, "test")


def prepare(directory, labels=(0, 1)):
    """What `tfds build glue/qnli` writes, of few examples."""
    import tensorflow_datasets as tfds

    text, classes = tfds.features.Text(), ["entailment", "not_entailment"]
    features = tfds.features.FeaturesDict(
        {
            "question": text,
            "sentence": text,
            "label": tfds.features.ClassLabel(names=classes),
            "idx": np.int32,
        }
    )

    def generate(part):
        for i in range({"train": 20, "validation": 6, "test": 3}[part]):
            label = -1 if part == "test" else labels[i % len(labels)]
            row = {"question": "why ?", "sentence": f"w{label}", "label": label}
            yield i, {**row, "idx": i}

    base = tfds.core.GeneratorBasedBuilder
    members = {
        "VERSION": tfds.core.Version("2.0.0"),
        "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name="qnli", version="2.0.0")],
        "_info": lambda self: tfds.core.DatasetInfo(builder=self, features=features),
        "_split_generators": lambda self, _: {
            p: generate(p) for p in ("train", "validation", "test")
        },
        "_generate_examples": lambda self: None,
        "__module__": __name__,
    }
    with tfds.core.registered.skip_registration():
        builder = type(base)("Glue", (base,), members)
    builder(
        config="qnli", data_dir=directory, file_format="array_record"
    ).download_and_prepare()
    return Data(
        name="glue/qnli",
        directory=str(directory),
        vocabulary=write_vocabulary(directory),
        max_length=8,
    )


def test_a_prepared_set_is_read_as_the_tsv_files_are(tmp_path):
    data = prepare(tmp_path)
    splits = [load_sentences(data, split) for split in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [18, 2, 6]
    # The test part of GLUE has no labels: the development part is what tests.
    for i in range(6):
        label = splits[2][i]["label"]
        want = ["[CLS]", "why", "?", "[SEP]", f"w{label}", "[SEP]"]
        assert splits[2].words(i) == want
    assert splits[2].part.labels.sum() == 3


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path):
    data = Data(name="glue/qqp", directory=str(tmp_path))
    data.vocabulary = write_vocabulary(tmp_path)
    with pytest.raises(FileNotFoundError, match="tfds build glue/qqp --data_dir"):
        load_sentences(data, "train")
