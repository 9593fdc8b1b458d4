"""The tasks of GLUE: what their sentences and labels are called."""

from typing import NamedTuple


class Form(NamedTuple):
    """How a data set of labelled sentences, or pairs of them, is written.

    Attributes:
      sentences: columns of the TSV files with the sentences, one or two.
      label: column with the label.
      classes: what a label may be, in the order of its numbers.
      features: names of the sentences in TensorFlow Datasets, where they are others.
      header: all columns, of TSV files that begin with the first example.
      measures: that GLUE has of it, besides accuracy: "f1", "matthews".
    """

    sentences: tuple[str, ...]
    label: str
    classes: tuple[str, ...]
    features: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()


_ENTAILMENT = ("entailment", "not_entailment")

# With the numbers that TensorFlow Datasets and Hugging Face give to the classes.
FORMS = {
    "cola": Form(
        ("sentence",),
        "label",
        ("0", "1"),
        header=("source", "label", "star", "sentence"),
        measures=("matthews",),
    ),
    "mrpc": Form(
        ("#1 String", "#2 String"),
        "Quality",
        ("0", "1"),
        features=("sentence1", "sentence2"),
        measures=("f1",),
    ),
    "qnli": Form(("question", "sentence"), "label", _ENTAILMENT),
    "qqp": Form(
        ("question1", "question2"), "is_duplicate", ("0", "1"), measures=("f1",)
    ),
    "rte": Form(("sentence1", "sentence2"), "label", _ENTAILMENT),
    "sst2": Form(("sentence",), "label", ("0", "1")),
}
