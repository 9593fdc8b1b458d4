"""Write the tables of README.md and docs/ from the numbers in docs/results.

    python docs/tables           # write those that differ
    python docs/tables --check   # name those that differ, and end with status 1

A table stands between two comments of a page, `<!-- table: NAME -->` and
`<!-- end -->`; a function of that name, in a file beside this one, makes it from the
files of docs/results. What is wrong with those files, and tables with measured numbers
that no function makes, are named too.
"""

import argparse
import sys
from pathlib import Path

from pages import ROOT, enter_all, problems, rewritten, unmarked
from stored import faults


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the repository")
    options = parser.parse_args()
    if not (options.root / "docs" / "results").is_dir():
        parser.error(f"--root must have docs/results, got {options.root}")
    enter_all()
    found = [*faults(options.root), *unmarked(options.root), *problems(options.root)]
    try:
        pages = list(rewritten(options.root))
    except FileNotFoundError as error:
        parser.error(f"a table needs {error.filename}, which is not there")
    for page, text in pages:
        if options.check:
            found.append(f"{page}: tables differ from docs/results; python docs/tables")
        else:
            page.write_text(text, encoding="utf-8")
            print(page)
    for line in found:
        print(line, file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
