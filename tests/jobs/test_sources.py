"""A source gives a network; what is compared is what a certificate is given."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sentences import write_sst2, write_vocabulary

from bitsnn_jax import config, data
from bitsnn_jax.conversion.bias_shift import convert
from bitsnn_jax.jobs.certify import Pair, certificates, certify, exact_pair
from bitsnn_jax.jobs.sources import Network, RunSource
from bitsnn_jax.models import build_model
from bitsnn_jax.runs import loading
from bitsnn_jax.runs.loading import ann_fn

STEPS = 2


@pytest.fixture(scope="module")
def network():
    """Of random weights, on eight digits."""
    settings = config.Config(
        model=config.Model(name="small", width=0.25, levels=2**STEPS - 1)
    )
    examples = data.load(settings.data, "test").first(8)
    model = build_model(settings.model, image_shape=examples.image_shape)
    x = jnp.zeros((1, *examples.image_shape))
    variables = jax.jit(lambda: model.init(jax.random.key(0), x, train=False))()
    rng = np.random.default_rng(0)  # biases and means that are not zero
    variables = jax.tree.map(
        lambda x: np.asarray(x + rng.uniform(0, 0.1, x.shape), np.float32), variables
    )
    return Network(
        apply_fn=ann_fn(settings, examples.image_shape),
        variables=dict(variables),
        config=settings,
        examples=examples,
    )


def test_both_precisions_compare_every_code_of_every_image(network):
    converted = convert(
        network.apply_fn, network.variables, network.placeholder, steps=STEPS
    ).variables
    found = certificates(
        network, converted, steps=STEPS, precisions=("float64", "float32")
    )
    assert list(found) == ["float64", "float32"]
    assert found["float64"].exact
    for certificate in found.values():
        assert certificate.examples == 8
        assert certificate.neurons == sum(c.neurons for c in certificate.layers) > 0


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_certificate_is_of_the_pair_that_it_is_given(network, precision):
    pair = Pair(
        apply_fn=network.apply_fn,
        variables=network.variables,
        converted=network.variables,  # biases not shifted
        steps=STEPS,
        precision=precision,
    )
    if precision == "float64":
        exact = exact_pair(network, steps=STEPS)
        pair = dataclasses.replace(exact, converted=exact.variables)
    assert not certify(pair, network).exact


def test_a_run_is_not_changed_by_what_is_asked_of_it(network, monkeypatch):
    run = loading.Run(network.config, network.variables, 3, {"image_shape": (8, 8, 1)})
    before = copy.deepcopy(run.config)
    monkeypatch.setattr("bitsnn_jax.jobs.sources.find_run", lambda path: run)
    elsewhere = RunSource("a run", directory="elsewhere").run()
    assert elsewhere.config.data.directory == "elsewhere"
    loaded = RunSource("a run", limit=5).load()
    assert (len(loaded.examples), loaded.step) == (5, 3)
    assert run.config == before


def test_sentences_are_read_in_the_words_that_the_network_knows(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    write_sst2(tmp_path)
    settings = config.Config(
        task="sentence_classification",
        data=config.Data(name="sst2", directory=str(tmp_path), max_length=8),
        model=config.Model(name="bert_tiny", num_classes=2, norm="layer"),
    )
    run = loading.Run(settings, {}, 3, {"image_shape": (3, 8)})
    monkeypatch.setattr("bitsnn_jax.jobs.sources.find_run", lambda path: run)
    with pytest.raises(FileNotFoundError, match="data.vocabulary '': expected"):
        RunSource("a run").load()
    (tmp_path / "other").mkdir()
    other = write_vocabulary(tmp_path / "other", lines=30)
    with pytest.raises(ValueError, match="must have the 128 lines .*, got 30"):
        RunSource("a run", vocabulary=other).load()
    loaded = RunSource("a run", vocabulary=write_vocabulary(tmp_path), limit=2).load()
    assert loaded.placeholder == jax.ShapeDtypeStruct((1, 3, 8), np.int32)
    assert loaded.nonspiking == "decode"
