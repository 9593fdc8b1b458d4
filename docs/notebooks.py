"""Make the notebooks of examples/ from its scripts, with their outputs.

    make notebooks

Each script is in jupytext's percent format. It is run from top to bottom in a kernel.
"""

import sys
import tempfile
from pathlib import Path

import jupytext
import nbclient
import nbformat

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("train_and_convert", "relu_network")


def notebook(script: Path) -> nbformat.NotebookNode:
    """Run the cells of a script and return them with what they print and draw."""
    made = jupytext.read(script)
    made.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    with tempfile.TemporaryDirectory() as folder:  # for the pictures that it saves
        nbclient.NotebookClient(
            made,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        ).execute()
    for i, cell in enumerate(made.cells):
        cell.id = f"cell-{i}"  # random otherwise, and another one each time
        if cell.cell_type == "code":
            # Warnings about the machine, with paths of it.
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    made.metadata.language_info = {"name": "python"}  # without the kernel's version
    return made


if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        nbformat.write(notebook(EXAMPLES / f"{name}.py"), EXAMPLES / f"{name}.ipynb")
