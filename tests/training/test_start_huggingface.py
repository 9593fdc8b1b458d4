"""Training that starts from a folder of Hugging Face's."""

import hashlib

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from huggingface_folders import folder_of, tensors_of
from sentences import write_sst2

from bitsnn_jax.config import Config, Model
from bitsnn_jax.interop.huggingface import from_huggingface
from bitsnn_jax.runs.checkpoint import Checkpoints
from bitsnn_jax.training.setup import set_up
from bitsnn_jax.training.start import start
from bitsnn_jax.training.step import init_state

TENSORS = tensors_of("bert", classes=2)


def settings(tmp_path, tensors=None, **fields):
    folder = folder_of(tmp_path / "tiny", tensors=tensors or TENSORS)
    model = {"name": "bert_tiny", "num_classes": 2, "norm": "layer"} | fields
    return Config(
        task="sentence_classification",
        start_from=str(folder),
        data=write_sst2(tmp_path, train=16),
        model=Model(**model),
    )


def flat(tree):
    return {"/".join(path): leaf for path, leaf in flatten_dict(tree).items()}


def with_leaves(variables, leaves):
    params = unflatten_dict(flat(variables["params"]) | leaves, sep="/")
    return {**variables, "params": params}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    jax.tree.map(np.testing.assert_array_equal, found, dict(wanted))


def test_weights_go_in_thetas_are_calibrated_and_heads_stay_random(
    tmp_path, capsys, monkeypatch
):
    tensors = {name: a for name, a in TENSORS.items() if "pooler" not in name}
    config = settings(tmp_path, tensors, per_channel=True)
    setup = set_up(config, tmp_path / "run")
    random = init_state(
        setup.model, setup.optimizer, setup.placeholder, jax.random.key(0)
    )
    thetas = {n: a + 1 for n, a in flat(random.params).items() if n.endswith("/theta")}
    calibrated_with = []

    def calibrate(apply_fn, variables, batches, **options):
        assert apply_fn is not None and options == {"cap": None}
        calibrated_with.extend([variables, batches])
        return with_leaves(variables, thetas)

    monkeypatch.setattr("bitsnn_jax.training.start.calibrate_network", calibrate)
    with Checkpoints(tmp_path / "run") as checkpoints:
        state, origin = start(random, config, setup.train, checkpoints)
    weights = (tmp_path / "tiny" / "model.safetensors").read_bytes()
    sha256 = hashlib.sha256(weights).hexdigest()
    assert origin["start"] == {"folder": "tiny", "sha256": sha256, "random": ["pooler"]}
    assert "tiny has no pooler, which stays random\n" in capsys.readouterr().out
    given = flat(from_huggingface(config.start_from).params)
    for name in ("pooler/dense/kernel", "pooler/dense/bias"):
        given[name] = flat(random.params)[name]
    variables, [tokens] = calibrated_with
    same(flat(variables["params"]), given)
    same(flat(state.params), given | thetas)
    examples = [setup.train[i]["tokens"] for i in range(len(setup.train))]
    np.testing.assert_array_equal(tokens, examples)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"name": "minilm"},
            "start_from: .*tiny does not fit model.name=minilm: layers",
        ),
        ({"norm": "batch"}, "start_from: .*tiny needs a model with its layers"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(fields, words, tmp_path):
    with pytest.raises(ValueError, match=words) as error:
        set_up(settings(tmp_path, **fields), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
