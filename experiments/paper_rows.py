"""Add runs on the paper's own data sets to docs/paper.md.

    python train.py --config configs/resnet20_cifar10.py --config.data.directory=DIR
    python convert.py --ckpt runs/resnet20_cifar10 --steps 2 4 6 8 16 32
    python experiments/paper_rows.py runs/resnet20_cifar10
    python docs/tables

Reads what convert.py found, on the whole test split, and writes it to
docs/results/paper_rows.json under the name of the run; a run of the same name that is
there already is replaced. docs/paper.md has it beside the paper's row, of which
docs/tables/published.json has the names and the numbers.
"""

from pathlib import Path
from typing import Any

from bitsnn_jax.results.conversion import ConversionResult
from bitsnn_jax.runs.provenance import about_numbers
from bitsnn_jax.runtime.cli import Parser, a_path, as_script
from bitsnn_jax.runtime.files import replace_json
from bitsnn_jax.runtime.reading import read_json, read_typed

NUMBERS = Path("docs/results/paper_rows.json")
PAPER = Path(__file__).parents[1] / "docs" / "tables" / "published.json"
ADVICE = "convert the run with convert.py --ckpt RUN --steps 2 4 6 8 16 32 first"


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+", type=a_path, help="folders of runs")
    parser.add_argument("--out", type=a_path, default=NUMBERS, help="the JSON file")
    options = parser.parse_args()
    found = [row(run) for run in options.runs]
    known = read_json(options.out, kind=list, advice="remove it to begin anew")
    names = {each["config"] for each in found}
    kept = [each for each in known if each["config"] not in names]
    replace_json(options.out, [*kept, *found])
    print(f"{options.out}: {', '.join(sorted(names))}")


def row(run: Path) -> dict[str, Any]:
    file = run / "snn" / "conversion.json"
    result = read_typed(file, ConversionResult, advice=ADVICE)
    paper = read_json(PAPER, kind=list, advice="restore it")
    names = [each["config"] for each in paper]
    if result.run.name not in names:
        raise ValueError(
            f"{run}: expected a run of one of the paper's configs, {', '.join(names)}; "
            f"got one of {result.run.name}"
        )
    return {
        "config": result.run.name,
        "examples": result.examples,
        "ann": result.ann.accuracy,
        "steps": {
            str(step.steps): step.snn.accuracy for step in result.steps if step.snn
        },
        "trained": result.run.commit,
        "about": about_numbers(config=result.run.name, seed=None),
    }


if __name__ == "__main__":
    as_script(main)
