"""The Python of README.md runs, from top to bottom, as a reader would type it."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from bitsnn_jax import config, convert
from bitsnn_jax.models import build_model
from bitsnn_jax.runs.checkpoint import save_variables
from bitsnn_jax.runs.loading import ann_fn

README = Path(__file__).parents[1] / "README.md"
STEPS, IMAGE_SHAPE = 4, (8, 8, 1)


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """The spiking network that README.md loads, untrained; and a shell beside it."""
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


def test_python_blocks_run_and_do_what_the_text_says(run_folder):
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.S | re.M)
    assert len(blocks) == 4
    names = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, README.name, "exec"), names)

    changed = [shift.path for shift in names["report"].changed]
    assert changed == [f"params/{m}/bias" for m in ("BatchNorm_0", "Conv_1", "Dense_0")]
    # 8 images, with 16x16x8 and 16x16x16 neurons.
    assert names["certificate"].neurons == 8 * 16 * 16 * (8 + 16)
    assert names["logits"].shape == (360, 10)


def test_options_of_the_scripts_are_those_listed():
    listed = re.findall(r"^\| `--([\w-]+)", README.read_text(), re.M)
    folder = README.parent / "bitsnn_jax" / "scripts"
    names = ("train.py", "convert.py", "compare.py", "../cli.py")
    scripts = [folder / name for name in names]
    defined = re.findall(
        r'(?:DEFINE_\w+|add_argument)\(\s*"-*([\w-]+)"',
        "".join(script.read_text() for script in scripts),
    )
    # Every program that uses absl has --verbosity.
    assert set(listed) == {*defined, "verbosity"}


def test_links_lead_to_files_and_headings():
    for target in re.findall(r"\]\(([^)]+)\)", README.read_text()):
        file, _, heading = target.partition("#")
        path = README.parent / file if file else README
        assert path.is_file(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
            assert heading in map(_anchor, headings), target


def _anchor(heading):
    """As GitHub makes it: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
