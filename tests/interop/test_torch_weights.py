"""Names of weights: prefixes found and taken off."""

import pytest

from bitsnn_jax.interop.torch_factories import is_named, named_module
from bitsnn_jax.interop.torch_weights import likely_prefix, without_prefixes

NAMES = ("features.0.weight", "features.0.bias", "fc.weight")


@pytest.mark.parametrize(
    "prefix, rename",
    [
        ("model.", lambda name: f"model.{name}"),
        ("_orig_mod.", lambda name: f"_orig_mod.{name}"),
        ("module.model.", lambda name: f"module.model.{name}"),
        ("features.module.", lambda name: name.replace("features", "features.module")),
    ],
)
def test_a_prefix_is_found_and_taken_off(prefix, rename):
    found = {rename(name): i for i, name in enumerate(NAMES)}
    assert likely_prefix(found.keys(), NAMES) == prefix
    plain = without_prefixes(found, [prefix], NAMES)
    assert plain == {name: i for i, name in enumerate(NAMES)}
    assert likely_prefix(plain.keys(), NAMES) is None


def test_prefixes_are_taken_off_in_order_and_must_be_there():
    found = {f"model.net.{name}": 0 for name in NAMES}
    assert without_prefixes(found, ["model.", "net."], NAMES).keys() == set(NAMES)
    with pytest.raises(ValueError, match="strip_prefix=net. is the beginning of no"):
        without_prefixes(found, ["net."], NAMES)


def test_names_of_modules_are_no_names_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b.pth").touch()
    assert is_named("timm:a") and is_named("nets:make")
    assert not is_named("weights.pth") and not is_named("a:b.pth")
    with pytest.raises(ValueError, match="is named as torchvision:NAME, timm:NAME"):
        named_module("timm:")
