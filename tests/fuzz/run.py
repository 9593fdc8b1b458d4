"""Reads changed files, one after the other, and says what came of each.

    python tests/fuzz/run.py FOLDER COUNT NAME...

Of each format as many files as COUNT says, or as it has itself for COUNT 0. The answer
is a JSON line a format; what a reader does to the process, the process that started
this one sees. The files of a case that ended it lie in FOLDER.
"""

import contextlib
import faulthandler
import json
import resource
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

SECONDS = 20  # for one file
MEGABYTES = 1000  # of the process


def tried(formats, name, folder, count, limit=float("inf")):
    """How many were refused, the same, and another value; and what must not be.

    The limit is in MB, of the whole process, whatever it has done before.
    """
    form = formats.FORMATS[name]
    base, files = folder / "files", {}
    formats._scratch = str(folder / "scratch")
    shutil.rmtree(folder, ignore_errors=True)
    base.mkdir(parents=True)
    form.make(base)
    for path in sorted(base.rglob("*")):
        if path.is_file():
            files[str(path.relative_to(base))] = path.read_bytes()
    expected = None
    with contextlib.suppress(*form.errors):  # some need what is not installed
        expected = formats.fingerprint(form.read(base))
    counts, faults, longest, before = Counter(), [], 0.0, None
    for i, case in enumerate(form.cases(files, 0, count or form.count)):
        for changed, content in case.items():
            (base / changed).write_bytes(content)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        start = time.perf_counter()
        what, error = outcome(form, base, formats, expected)
        longest = max(longest, time.perf_counter() - start)
        faulthandler.cancel_dump_traceback_later()
        counts[what] += 1
        if what == "other" and form.is_checksummed or what == "fault":
            faults.append(f"case {i}, {', '.join(case)}: {what} {error}")
        if megabytes() > limit > (before or 0):
            faults.append(f"case {i}, {', '.join(case)}: {megabytes()} MB")
        before = megabytes()
        for path in base.rglob("*"):
            if path.is_file() and str(path.relative_to(base)) not in files:
                path.unlink()
        for original, content in files.items():
            (base / original).write_bytes(content)
    return {
        **{"format": name, "files": counts.total(), **counts},
        **{"longest": round(longest, 2), "megabytes": megabytes(), "faults": faults},
    }


def outcome(form, base, formats, expected):
    try:
        same = formats.fingerprint(form.read(base)) == expected
        return "same" if same else "other", ""
    except form.errors as error:
        lines = str(error).count("\n")
        return "fault" if lines else "refused", f"{lines + 1} lines: {error!r:.2000}"
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__
        at = error.__traceback__
        while at and at.tb_next:
            at = at.tb_next
        where = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at else ""
        return "fault", f"{type(error).__name__}: {error!s:.300} at {where}"


def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(folder, count, *names):
    sys.path[:0] = [str(Path(__file__).parents[1])]
    import fuzz.formats as formats

    from bitsnn_jax.runtime.cli import only_our_errors

    only_our_errors()
    # Not more than is sensible, should a reader ask for it: the machine is shared.
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = own + 6 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name in names:
        start = time.perf_counter()
        found = tried(formats, name, Path(folder, "case"), int(count), MEGABYTES)
        found["seconds"] = round(time.perf_counter() - start, 1)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
