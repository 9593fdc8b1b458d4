"""`compare.py` on a network of sentences: a BERT of two layers."""

import json

import jax
import numpy as np
import pytest
from sentences import write_sst2

import compare
from bitsnn_jax.comparators import METHODS
from bitsnn_jax.config import Config, Model
from bitsnn_jax.jobs.compare_networks import other_runs
from bitsnn_jax.jobs.sources import RunSource
from bitsnn_jax.runs.checkpoint import Checkpoints
from bitsnn_jax.runs.provenance import run_metadata
from bitsnn_jax.tasks import task_of

LIMIT = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that is over before its first step, with weights at random."""
    folder = tmp_path_factory.mktemp("sentences")
    model = Model(name="bert_tiny", num_classes=2, activation="qcfs", norm="layer")
    config = Config(
        name="tiny",
        task="sentence_classification",
        data=write_sst2(folder),
        model=model,
    )
    task = task_of(config)
    examples = task.load(config.data, "test")
    network = task.build(config, examples.input_shape)
    tokens = task.placeholder(examples.input_shape)
    shapes = jax.eval_shape(
        lambda x: network.init(jax.random.key(0), x, train=False), tokens
    )
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        if path[-1].key in ("theta", "scale"):
            return np.full(leaf.shape, 1.5, leaf.dtype)
        spread = leaf.shape[0] ** -0.5 if leaf.ndim > 1 else 0.1
        if "word_embeddings" in path[-2].key:  # or all sentences are much alike
            spread = 1.0
        return (spread * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(drawn, shapes)
    with Checkpoints(folder / "run") as checkpoints:
        checkpoints.save(
            0,
            variables=variables,
            optimizer={"count": np.zeros((), np.int32)},
            progress={},
            metadata=run_metadata(config, examples.input_shape),
        )
    return folder / "run"


@pytest.mark.slow
def test_sentences_are_compared_as_images_are(run, tmp_path):
    methods = ["bit_serial", "qcfs", "st_bif", "integers_one_shot"]
    arguments = ["--ckpt", str(run), "--methods", *methods, "--steps", "2", "4", "48"]
    arguments += ["--limit", str(LIMIT), "--batch", "5", "--out", str(tmp_path)]
    compare.main(arguments)
    found = json.loads((tmp_path / "compare.json").read_text())
    assert found["noun"] == "sentences" and found["examples"] == LIMIT
    rows = {(row["method"], row["steps"]): row for row in found["rows"]}
    # Every code of ours is that of the ANN; so is every code of ST-BIF, in the end.
    ann = found["networks"]["qcfs"]["accuracy"]
    for which in (("bit_serial", 4), ("st_bif", 48)):
        assert rows[which]["agreement"] == 1 and rows[which]["accuracy"] == ann
    assert rows["st_bif", 2]["agreement"] < 1
    assert all(row["nanojoules"] is None for row in found["rows"])
    assert all(row["synaptic_operations"] > 0 for row in found["rows"])
    failed = {each["method"]: each["error"] for each in found["failed"]}
    assert "images only, got sentences" in failed["integers_one_shot"]
    page = (tmp_path / "index.html").read_text()
    assert "12 sentences" in page and "12 images" not in page
    assert "Energy is left out" in page


def test_methods_that_start_from_relu_refuse_a_network_that_multiplies_codes(run):
    main = RunSource(run).run()
    chosen = [METHODS["qcfs"], METHODS["snm"], METHODS["opi"]]
    options = {"required": False, "has_relus": False}
    found, missing = other_runs(main, str(run), {}, chosen, **options)
    assert not found and {each.method for each in missing} == {"snm", "opi"}
    with pytest.raises(ValueError, match="snm: a network with relu in the place of"):
        other_runs(main, str(run), {}, chosen, **options | {"required": True})
