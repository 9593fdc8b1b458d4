"""docs/direct_methods.md: its method is trained, and sends spikes."""

import re
from pathlib import Path

import pytest

from bitsnn_jax.direct import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "direct_methods.md"


def test_the_method_of_the_page_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(METHODS, "quiet", METHODS["stbp"])  # taken out in the end
    names: dict = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
        exec(compile(block, str(PAGE), "exec"), names)
    assert METHODS["quiet"] is names["METHOD"]
    assert names["result"]["step"] == 3
    assert list(names["spikes"]) == ["act_1", "act_2", "act_3"]
    assert {len(sent) for sent in names["spikes"].values()} == {3}


def test_the_loss_of_the_page_charges_for_spikes():
    [block] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)[:1]
    names: dict = {}
    exec(compile(block, str(PAGE), "exec"), names)
    jnp, fired = names["jnp"], lambda spikes: type("Layer", (), {"spikes": spikes})
    spikes = jnp.zeros((4, 2, 3)).at[0, 1].set(1.0)  # a quarter of the second's
    layers = {"a": fired(spikes), "b": fired(jnp.zeros((4, 2, 5, 5)))}
    seen = type("Seen", (), {"outputs": jnp.ones((4, 2, 10)), "layers": layers})
    found = names["loss"](seen, lambda outputs: outputs.sum(1))
    assert found.tolist() == pytest.approx([10, 10 + 0.5 * 0.25 / 2])
