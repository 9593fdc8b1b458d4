"""Where a number comes from: the commit, and whether the code is that of the commit."""

import subprocess

import pytest

from bitsnn_jax.runs import provenance


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with a package of two levels, and a file of results."""
    names = ("package/runs/provenance.py", "docs/results/rows.json", "README.md")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("[]\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / names[0]))
    return tmp_path


def test_code_that_differs_from_its_commit_is_dirty_and_results_are_not(root):
    clean = provenance.commit()
    assert len(clean) == 40
    (root / "docs/results/rows.json").write_text("[1]\n")
    (root / "untracked").write_text("")
    assert provenance.commit() == clean
    (root / "README.md").write_text("[1]\n")
    assert provenance.commit() == f"{clean}-dirty"


def test_a_package_outside_of_a_repository_has_no_commit(root):
    (root / ".git").rename(root / "git")
    assert provenance.commit() is None
