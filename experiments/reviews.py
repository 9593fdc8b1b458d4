"""Write rated sentences of film reviews as TSV files, in the form of GLUE's SST-2.

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python experiments/reviews.py vaderSentiment-3.3.2.tar.gz --vocabulary vocab.txt

Each sentence has the mean rating of twenty people, from -4 to 4. Its sign is the label;
sentences that are rated 0 are left out. A fifth of the sentences, drawn once and for
all, is dev.tsv, and the others are train.tsv. A sentence that is there twice stays in
one of both. docs/results/reviews.json says how many there are, and with a vocab.txt how
many word pieces they have.
"""

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitsnn_jax.data.wordpieces import read_vocabulary
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script
from bitsnn_jax.runtime.files import write_files

NUMBERS = Path("docs/results/reviews.json")
INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
RATED = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
DEV = 0.2  # share of the sentences
LONG = 512  # pieces that no sentence has
PERCENTILES = (50, 90, 95, 99, 100)


class Review(NamedTuple):
    sentence: str
    label: int


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("sdist", type=a_path, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("--to", type=a_path, default=Path("runs/reviews"))
    parser.add_argument("--vocabulary", type=a_path, help="a vocab.txt")
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    reviews = read_reviews(options.sdist)
    parts = split(reviews)
    files = {f"{name}.tsv": as_tsv(part) for name, part in parts.items()}
    write_files(files, options.to)
    rows = {name: counts(part) for name, part in parts.items()}
    if options.vocabulary:
        rows |= {"pieces": lengths(reviews, options.vocabulary)}
    store_numbers(options.out, rows, config="none", seed=0)
    for name, row in rows.items():
        print(f"{options.to} {name}: {row}")


def read_reviews(sdist: str | os.PathLike) -> list[Review]:
    """The sentences whose rating is not 0, with its sign as the label."""
    reviews = []
    for number, line in enumerate(_text(sdist).splitlines(), 1):
        try:
            _, rating, sentence = line.split("\t")
            rated = float(rating)
        except ValueError:
            raise ValueError(
                f"{sdist}, {RATED}, line {number}: expected a number, a rating and a "
                f"sentence between tabs, got {line!a:.80}"
            ) from None
        if rated:
            reviews.append(Review(" ".join(sentence.split()), int(rated > 0)))
    return reviews


def _text(sdist):
    try:
        with tarfile.open(sdist) as outer:
            [inner] = [name for name in outer.getnames() if name.endswith(INNER)]
            content = outer.extractfile(inner)
            assert content is not None
            with tarfile.open(fileobj=io.BytesIO(content.read())) as archive:
                rated = archive.extractfile(RATED)
                assert rated is not None
                return rated.read().decode().replace("\r\n", "\n")
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise ValueError(
            f"{sdist}: expected the source archive of vaderSentiment 3.3.2, with "
            f"{RATED} inside; got {error!s:.100}"
        ) from error


def split(reviews: Sequence[Review]) -> dict[str, list[Review]]:
    """Draw the sentences of dev.tsv; equal ones, but for case, go together."""
    distinct = sorted({review.sentence.casefold() for review in reviews})
    order = np.random.RandomState(0).permutation(len(distinct))
    dev = {distinct[i] for i in order[: round(DEV * len(distinct))]}
    parts = {"train": [], "dev": []}
    for review in reviews:
        parts["dev" if review.sentence.casefold() in dev else "train"].append(review)
    # They are sorted by rating. In another order the first of dev.tsv are like all.
    order = np.random.RandomState(1).permutation(len(parts["dev"]))
    parts["dev"] = [parts["dev"][i] for i in order]
    return parts


def as_tsv(reviews: Sequence[Review]) -> bytes:
    lines = ["sentence\tlabel", *(f"{r.sentence}\t{r.label}" for r in reviews)]
    return ("\n".join(lines) + "\n").encode()


def counts(reviews: Sequence[Review]) -> dict[str, Any]:
    positive = float(np.mean([review.label for review in reviews]))
    majority = max(positive, 1 - positive)
    return {"sentences": len(reviews), "majority": round(majority, 4)}


def lengths(reviews: Sequence[Review], path: str | os.PathLike) -> dict[str, int]:
    """How many word pieces the sentences have, by percentiles."""
    vocabulary = read_vocabulary(str(path))
    rows = [(review.sentence,) for review in reviews]
    pieces = np.diff(vocabulary.split(rows, max_length=LONG).ends, prepend=0)
    found = np.percentile(pieces, PERCENTILES, method="higher")
    return {str(p): int(n) for p, n in zip(PERCENTILES, found, strict=True)}


if __name__ == "__main__":
    as_script(main)
