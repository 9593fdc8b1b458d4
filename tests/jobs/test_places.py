"""Networks of words, converted: what is outside of spikes, by head, by word."""

import dataclasses
import re
from collections import Counter
from types import SimpleNamespace

import encoders
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitsnn_jax import convert, data, qcfs
from bitsnn_jax.config import Config, Data
from bitsnn_jax.config import Model as ModelConfig
from bitsnn_jax.jobs.convert import ConvertOptions, convert_source
from bitsnn_jax.jobs.measure import spikes_of_first
from bitsnn_jax.jobs.places import attention_spikes
from bitsnn_jax.jobs.sources import Network
from bitsnn_jax.numerics.mixing import lookup, softmax
from bitsnn_jax.reports.verdict import verdict
from bitsnn_jax.runs.checkpoint import load_variables
from bitsnn_jax.tasks import TASKS, Task
from bitsnn_jax.tracing.attention import attention
from bitsnn_jax.tracing.reading import SpikingError

COUNT = 9


@dataclasses.dataclass(frozen=True)
class Sentences:
    tokens: np.ndarray
    input_shape: tuple[int, ...] = (3, encoders.LENGTH)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"tokens": self.tokens[index], "label": self.tokens[index, 0, 0] % 3}

    def first(self, limit):
        return Sentences(self.tokens[:limit])


class Words(Task):
    noun, sources, models, score = "sentences", {"drawn"}, {"encoder"}, "accuracy"
    place = "word"

    def load(self, settings, split):
        return Sentences(encoders.sentences(COUNT))

    def train_batches(self, settings, examples, **order):
        raise NotImplementedError

    def eval_batches(self, settings, examples, *, batch_size=None, **order):
        size = batch_size or settings.eval_batch_size
        return data.in_order(examples, examples.__getitem__, batch_size=size, **order)

    def build(self, config, input_shape, *, axis_name=None):
        raise NotImplementedError

    def inputs(self, batch):
        return batch["tokens"]

    def placeholder(self, input_shape):
        return jax.ShapeDtypeStruct((1, *input_shape), np.int32)

    def filled(self, inputs):
        return inputs[:, 2] > 0

    def loss(self, outputs, batch, settings=None):
        raise NotImplementedError

    def counts(self, outputs, batch):
        right = outputs.argmax(-1) == batch["label"]
        return {"right": right, "first": outputs.argmax(-1) == 0}

    def measures(self, counts, examples):
        return {
            "accuracy": counts["right"] / examples,
            "first": counts["first"] / examples,
        }

    def predictions(self, outputs):
        return outputs.argmax(-1)

    def shown(self, settings, examples, index):
        batch = {k: np.asarray(v)[None] for k, v in examples[index].items()}
        batch["mask"] = np.ones(1, bool)
        count = int(examples.tokens[index, 2].sum())
        words = [f"w{word}" for word in examples.tokens[index, 0, :count]]
        return batch, {"label": int(batch["label"][0]), "words": words}

    def answer(self, outputs):
        return {
            "prediction": int(outputs[0].argmax()),
            "logits": np.asarray(outputs[0], float).tolist(),
        }


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "words", Words())
        yield


TABLE = np.random.default_rng(4).normal(size=(encoders.WORDS, 4))
WEIGHTS = {"table": TABLE.astype(np.float32), "w": TABLE[:4].astype(np.float32)}


def acts(v, tokens):
    """Values of queries, which are keys and values too, and of probabilities."""
    x = lookup(v["table"], tokens[:, 0])
    q = qcfs(x @ v["w"], 1.5).reshape(*x.shape[:2], 2, 2)
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, q)
    return q, qcfs(softmax(scores + (tokens[:, 2] - 1.0)[:, None, None] * 1000), 1.0)


def small(v, tokens):
    q, p = acts(v, tokens)
    pooled = jnp.einsum("nhqk,nkhd->nqhd", p, q).mean(1)
    return pooled.reshape(len(pooled), -1) @ v["w"]


def network(apply_fn=small, variables=WEIGHTS):
    return Network(
        apply_fn=apply_fn,
        variables=variables,
        config=Config(
            name="drawn",
            task="words",
            data=Data(name="drawn", eval_batch_size=4),
            model=ModelConfig(name="encoder"),
        ),
        examples=Sentences(encoders.sentences(COUNT)),
        nonspiking="decode",
    )


def found_in(network):
    return attention(network.apply_fn, network.variables, network.placeholder)


# What a code sends: words with a bit for each step. Digits are those of 3 k less k.
SENT = {"bits": lambda k: k, "signed_digits": lambda k: (3 * k ^ k) >> 1}


@pytest.mark.parametrize("coding", SENT)
def test_spikes_of_words_are_those_of_their_codes_and_padding_counts_apart(coding):
    words = network()
    counted = attention_spikes(words, found_in(words), steps=4, coding=coding)
    tokens = words.examples.tokens
    q, p = acts(WEIGHTS, tokens)
    codes = [np.rint(a * 15 / theta).astype(int) for a, theta in ((q, 1.5), (p, 1))]
    per_neuron = [np.bitwise_count(SENT[coding](code)) for code in codes]
    # [sentences, words, heads, the rest]
    per_neuron[1] = per_neuron[1].transpose(0, 2, 1, 3)
    filled = tokens[:, 2] > 0
    at_words = sum(spikes[filled].sum() for spikes in per_neuron)
    total = sum(spikes.sum() for spikes in per_neuron)
    assert counted.filled == filled.sum(1).mean() < counted.places == encoders.LENGTH
    assert counted.spikes_per_place == pytest.approx(at_words / filled.sum())
    assert counted.empty_share == pytest.approx(1 - at_words / total)
    for heads, spikes in zip(counted.heads, per_neuron, strict=True):
        np.testing.assert_allclose(heads.spikes, spikes[filled].mean((0, 2)))


def test_four_devices_count_what_one_counts(monkeypatch):
    words = network()
    four = attention_spikes(words, found_in(words), steps=4)
    [first, *_] = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: [first])
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    assert attention_spikes(words, found_in(words), steps=4) == four


@pytest.mark.parametrize("coding, window", [("bits", 4), ("signed_digits", 5)])
def test_the_first_sentence_is_shown_without_its_padding(coding, window):
    words, found = network(), {"coding": coding, "found": found_in(network())}
    converted = convert(small, WEIGHTS, words.placeholder, steps=4, nonspiking="decode")
    raster = spikes_of_first(words, converted.variables, steps=4, **found)
    count = int(words.examples.tokens[0, 2].sum())
    assert count < encoders.LENGTH == 5
    q, p = acts(WEIGHTS, words.examples.tokens[:1])
    assert [len(layer.spikes) for layer in raster.places] == [count] * 2
    assert len(raster.words) == count and raster.steps == window
    for layer, a, theta in zip(raster.places, (q, p), (1.5, 1), strict=True):
        code = np.rint(a[0] * 15 / theta).astype(int)
        code = code if theta > 1 else code.swapaxes(0, 1)  # words first
        sent = SENT[coding](code).reshape(5, -1, 1)
        bits = sent >> np.arange(window)[::-1] & 1
        assert layer.neurons == bits.shape[1]
        np.testing.assert_allclose(layer.spikes, bits.mean(1)[:count])


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A whole encoder."""

    def load(self):
        return network(encoders.encoder, encoders.variables(layers=1))


@pytest.mark.slow
def test_an_encoder_is_converted_proved_and_reported(tmp_path):
    options = ConvertOptions(out=tmp_path, steps=[2, 4], precisions=["float64"])
    results = convert_source(Drawn(), options)
    for row in results.steps:
        assert row.certificate["float64"].exact
        assert row.stepped.predictions_differing == 0
        assert row.stepped.measures == row.fused.measures
    assert results.ann.measures.keys() == {"first"}
    changes = results.conversion
    assert changes.work.driven == changes.work.multiplications
    done = {each.operation: each.times for each in changes.work.outside}
    assert done == Counter(each.operation for each in changes.nonspiking)
    assert done == {"normalise": 3, "softmax": 1}
    said = "4 operations are computed outside the spiking network"
    assert said in verdict(results).remarks[-1]
    page = (tmp_path / "report" / "index.html").read_text()
    for text in (said, "word by word", "Spikes by head", "9 sentences"):
        assert text in page
    assert not re.search(r"\bimages?\b", re.sub(r"<[^>]*>", "", page))
    _, metadata = load_variables(tmp_path / "variables")
    assert metadata["nonspiking"] == "decode"


def test_operations_outside_can_be_refused(tmp_path):
    refusing = dataclasses.replace(network(), nonspiking="error")
    source = SimpleNamespace(load=lambda: refusing)
    with pytest.raises(SpikingError, match="`softmax` .* has no spiking form"):
        convert_source(source, ConvertOptions(out=tmp_path / "snn", steps=[4]))
    assert not (tmp_path / "snn" / "variables").exists()
