"""docs/commands.md: every option with its default, and code that runs."""

import argparse
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from absl import flags

from bitsnn_jax import config, convert
from bitsnn_jax.models import build_model
from bitsnn_jax.runs.checkpoint import save_variables
from bitsnn_jax.runs.loading import ann_fn
from bitsnn_jax.scripts import compare, export, train
from bitsnn_jax.scripts import convert as convert_script

PAGE = (Path(__file__).parents[1] / "docs" / "commands.md").read_text()
STEPS, IMAGE_SHAPE = 4, (8, 8, 1)


def listed(*headings):
    """The options of these sections: name -> the cells default and meaning."""
    options = {}
    for heading in headings:
        [text] = re.findall(rf"^## {heading}\n(.*?)(?:^## |\Z)", PAGE, re.S | re.M)
        rows = re.findall(r"^\| `--([\w-]+)[ =`][^|]*\|([^|]*)\|(.*)\|$", text, re.M)
        options |= {name: (default, meaning) for name, default, meaning in rows}
    return options


def defined(script, monkeypatch):
    """The options of a script: name -> default."""
    if script is train:
        ours = flags.FLAGS.get_key_flags_for_module(train.__name__)
        # absl has --verbosity; --config is made when the command line is read.
        later = {"verbosity": None, "config": "digits_resnet"}
        return {flag.name: flag.default for flag in ours} | later
    found = {}

    def stop(parser, *_, **__):
        for action in parser._actions:
            [option] = [o for o in action.option_strings if o.startswith("--")]
            found[option.removeprefix("--")] = action.default
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    with pytest.raises(SystemExit):
        script.main([])
    del found["help"]
    return found


@pytest.mark.parametrize(
    ("script", "headings"),
    [
        (train, ("Train", "Several hosts")),
        (convert_script, ("Convert", "Several hosts")),
        (compare, ("Compare",)),
        (export, ("Export",)),
    ],
)
def test_every_option_is_listed_with_its_default_and_meaning(
    script, headings, monkeypatch
):
    options, ours = listed(*headings), defined(script, monkeypatch)
    assert {*options} == {*ours}
    for name, default in ours.items():
        cell, meaning = options[name]
        assert meaning.strip(), name
        if default not in (None, False, []):
            values = default if isinstance(default, list) else [default]
            assert f"`{' '.join(map(str, values))}`" in cell, (name, default)


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """The spiking network that the page loads, untrained; and a shell beside it."""
    settings = config.Config(model=config.Model(name="small"))
    model = build_model(settings.model, image_shape=IMAGE_SHAPE)
    image = jnp.zeros((1, *IMAGE_SHAPE))
    variables = model.init(jax.random.key(0), image, train=False)
    apply_fn = ann_fn(settings, IMAGE_SHAPE)
    save_variables(
        tmp_path / "runs/digits_resnet/snn/variables",
        convert(apply_fn, variables, image, steps=STEPS).variables,
        {
            "config": config.to_dict(settings),
            "image_shape": IMAGE_SHAPE,
            "steps": STEPS,
        },
    )
    monkeypatch.chdir(tmp_path)


def test_the_network_of_a_run_folder_is_loaded_and_runs(run_folder):
    [block] = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    names = {"__name__": "page"}
    exec(compile(block, "commands.md", "exec"), names)
    assert names["logits"].shape == (360, 10)
