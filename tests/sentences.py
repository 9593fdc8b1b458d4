"""Sentences and vocabularies, made for tests."""

from bitsnn_jax.config import Data

WORDS = ("a", "good", "bad", "film", "is", "why", "##ly", ".", "?")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def write_vocabulary(directory, *, lines=128):
    """A vocab.txt of so many pieces; the first are `SPECIAL` and `WORDS`."""
    pieces = [*SPECIAL, *WORDS]
    pieces += [f"w{i}" for i in range(lines - len(pieces))]
    path = directory / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in pieces))
    return str(path)


def write_sst2(directory, *, train=40, dev=12):
    """Sentences that say what their label is, in the form of SST-2."""
    for name, count in (("train", train), ("dev", dev)):
        lines = [
            f"a {('bad', 'good')[i % 2]} film w{i % 7}\t{i % 2}" for i in range(count)
        ]
        (directory / f"{name}.tsv").write_text(
            "\n".join(["sentence\tlabel", *lines]) + "\n"
        )
    write_vocabulary(directory)
    return settings(directory)


def settings(directory):
    return Data(
        name="sst2",
        directory=str(directory),
        vocabulary=str(directory / "vocab.txt"),
        max_length=8,
        batch_size=8,
        eval_batch_size=8,
    )
