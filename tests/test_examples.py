"""examples/: each script runs, and the notebooks are the scripts with their outputs."""

import re
import runpy
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOKS = {"train_and_convert", "relu_network"}
# Those with a `main` are run with small settings, the others as they are.
SETTINGS = {
    "compare_methods": {"names": ("bit_serial",), "times": (4,)},
    "from_torch_to_nir": {"steps": 2},
    "integer_network": {"steps": 2, "examples": 2},
    "pytorch_model": {"epochs": 2},
    "spikes_and_energy": {"epochs": 2, "spike_lambdas": (1e-3,)},
}
PRINTED = {
    "compare_methods": r"bit_serial  4 .* 0\.00 ",
    "from_torch_to_nir": r"^0 of \d.* codes differ$",
    "integer_network": r"^0 codes differ, 0 logits differ$[\s\S]*^all \S+ spikes agree",
    "pytorch_model": r"^exact: 0 of ",
    "relu_network": r"^T = 1, fine-tuned: .*$\n^exact: 0 of ",
    "spikes_and_energy": r"^this SNN .* 1\.00$",
    "train_and_convert": r"^exact: 0 of ",
}


# What these two do, pages of docs/ do as well; here they must be found and import.
SLOW = {"from_torch_to_nir", "integer_network"}


@pytest.mark.parametrize("name", sorted(SLOW))
def test_what_an_example_imports_is_there(name):
    assert callable(runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in SLOW else ())
        for n in sorted(PRINTED)
    ],
)
def test_each_example_runs_and_prints_what_it_shows(name, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    if name == "pytorch_model":
        pytest.importorskip("torch")
    if name == "from_torch_to_nir":
        SETTINGS[name]["folder"] = tmp_path
    if name in NOTEBOOKS:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    else:
        runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**SETTINGS[name])
    assert re.search(PRINTED[name], capfd.readouterr().out, re.M)


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_a_notebook_has_the_cells_of_its_script_and_their_outputs(name):
    script, notebook = (
        jupytext.read(EXAMPLES / f"{name}{suffix}") for suffix in (".py", ".ipynb")
    )
    cells = [[(c.cell_type, c.source) for c in n.cells] for n in (script, notebook)]
    assert cells[0] == cells[1], "run `make notebooks`"
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    assert re.search(PRINTED[name], text, re.M)
    assert any("image/png" in output.get("data", ()) for output in outputs)


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_a_notebook_names_no_machine(name):
    text = (EXAMPLES / f"{name}.ipynb").read_text()
    assert not re.search(r"/home/|/work/|/root/|/tmp/|/usr/|Users|Warning", text)


def test_every_example_is_run_and_says_how():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    assert scripts == set(PRINTED) == set(SETTINGS) | NOTEBOOKS
    for name in scripts:
        head = (EXAMPLES / f"{name}.py").read_text().split('"""')[1]
        assert f"    python examples/{name}.py\n" in head
        assert re.search(r"Takes about \d+ seconds[\s\S]*Expect", head)
