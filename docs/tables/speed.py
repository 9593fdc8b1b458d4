"""Tables of time: training steps, pipelines, passes."""

import math

from pages import ROOT, table

_STEPS = {
    "relu": "ReLU",
    "qcfs": "QCFS",
    "qcfs + Eq. (11)": "QCFS, Eq. (11), surrogate `paper`",
    "qcfs + envelope": "QCFS, Eq. (11), surrogate `envelope`",
    "PyTorch relu": "PyTorch, ReLU, channels last",
}
_PASSES = {
    "ann": "ANN",
    "fused": "bit-serial, T = 4, `fused`",
    "stepped": "bit-serial, T = 4, `stepped`",
    "ttfs=8": "time to first spike, T = 8",
    "parallel=8": "parallel inference, T = 8",
    "signed_if=8": "Fast-SNN (signed IF), T = 8",
    "qcfs=32": "QCFS rate SNN, T = 32",
}


def ratio(quartiles, digits: int = 2) -> str:
    """The median, with the quartiles where they are known.

    >>> ratio([0.8, 0.9, 1.0]), ratio([None, 10.4, None])
    ('0.90 (0.80-1.00)', '10.4')
    """
    if quartiles is None:
        return ""
    low, middle, high = quartiles
    if low == middle == high:
        return f"{middle:g}"
    if low is None:
        return _short(middle)
    return f"{_short(middle)} ({_short(low)}-{_short(high)})"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def time(milliseconds: float) -> str:
    """Three digits, or one behind the point.

    >>> time(1.54), time(1784.9)
    ('1.5', '1,785')
    """
    if milliseconds < 99.95:
        return f"{milliseconds:.1f}"
    return f"{milliseconds:,.0f}"


@table("train_step", "train_step.json")
def train_step(stored):
    yield "step", "median, ms", "in steps with ReLU (quartiles)"
    for row in stored["rows"]:
        yield _STEPS[row["pass"]], time(row["milliseconds"]), ratio(row["ratio"])


@table("input_pipeline", "input_pipeline.json")
def input_pipeline(stored):
    yield "pipeline", "workers", "images/s", "in bare decoding (quartiles)"
    for row in stored["rows"]:
        known = row.get("ratio")
        if row["pipeline"].endswith(", before"):
            continue
        bare = row["pipeline"] == "bare decoding"
        yield (
            row["pipeline"].replace(" besides", ""),
            str(row["workers"]),
            f"{row['rate']:,.0f}",
            "1" if bare else ratio(known),
        )


def _latency(name: str) -> None:
    @table(name, f"{name}.json")
    def latency(stored):
        found = {(row["pass"], row["batch"]): row for row in stored["rows"]}
        batches = sorted({batch for _, batch in found})
        heads = [(f"batch {b}, ms", "ANN passes") for b in batches]
        yield "network", *(head for pair in heads for head in pair)
        for key, title in _PASSES.items():
            rows = [found[key, b] for b in batches if (key, b) in found]
            if rows:
                cells = [(time(r["milliseconds"]), ratio(r["ratio"])) for r in rows]
                yield title, *(cell for pair in cells for cell in pair)


_latency("latency")
_latency("latency_gpu")


_NETWORKS = ("resnet20", "resnet18", "vgg16", "resnet34", "mobilenetv2")
_FILES = tuple(
    name
    for name in (f"fixed_point_{network}.json" for network in _NETWORKS)
    if (ROOT / "docs" / "results" / name).exists()
)
_OTHERS = {
    "lax": "float ANN, `lax.conv`",
    "forms": "float ANN, faster forms",
    "torch": "PyTorch, channels last",
    "onnxruntime": "onnxruntime, float32",
    "onnxruntime-int8": "onnxruntime, INT8",
    "spikingjelly": "SpikingJelly, rate network, T = {rate_steps}",
}


def _shown(about) -> str:
    count, height, width, _ = about["batch"]
    return f"`{about['config']}`, {count} x {height}x{width}"


@table("fixed_point", *_FILES)
def fixed_point(*stored):
    """Passes as rows; networks as columns, with ratios to the first row."""
    found = [{row["pass"]: row for row in one["rows"]} for one in stored]
    yield "pass", *(_shown(one["about"]) for one in stored)
    times = (time(rows["lax"]["milliseconds"]) for rows in found)
    yield _OTHERS["lax"] + ", ms", *times
    names = dict.fromkeys(name for rows in found for name in rows)
    ours = [name for name in names if name not in _OTHERS]
    for name in ("forms", *ours, *list(_OTHERS)[2:]):
        if name in names:
            ratios = (
                rows[name]["ratio"][1] if name in rows else None for rows in found
            )
            yield _pass(name, stored[0]["about"]), *map(_cell, ratios)


def _pass(name, about) -> str:
    if name in _OTHERS:
        return _OTHERS[name].format(**about)
    execution, carrier = name.split(", ")
    return f"integers, {execution}, {carrier}"


def _cell(value) -> str:
    return "–" if value is None else _short(value)


@table("fixed_point_codes", *_FILES)
def fixed_point_codes(*stored):
    yield "network", "codes", "differing", "lowered", "rounded", "memory at most"
    for one in stored:
        about = one["about"]
        yield (
            _shown(about),
            f"{about['codes']:,}",
            f"{about['differing']:,}",
            f"{about['seconds_lowering']:.1f} s",
            f"{about['seconds_rounding']:.1f} s",
            f"{about['peak_megabytes'] / 1e3:.1f} GB",
        )


@table("onnx_ties", "onnx_ties.json")
def onnx_ties(stored):
    yield (
        *("network", "T", "batch", "integers", "time / floats", "INT8 / floats"),
        *("convolutions of bytes", "of floats", "codes and logits that differ"),
    )
    cases = {}
    for row in stored["rows"]:
        case = row["network"], row["steps"], row["batch"]
        cases.setdefault(case, {})[row["pass"]] = row
    for (name, steps, batch), rows in cases.items():
        int8 = rows["onnxruntime-int8"]["ratio"][1]
        for kind in ("as trained", "tied"):
            row = rows[kind]
            low, ratio, high = row["ratio"]
            yield (
                *(f"`{name}`", str(steps), str(batch), kind),
                f"{ratio:.2f} ({low:.2f}-{high:.2f})",
                f"{int8:.2f}",
                str(row["convolutions_of_bytes"]),
                str(row["convolutions_of_floats"]),
                f"{row['differing']:,}",
            )


_FORMS = {
    "columns": "columns and one product",
    "pointwise": "one product",
    "shifted": "shifted, times a weight, added up",
    "correlated": "products added up, place by place",
    "placed": "one product a place",
    "split": "128 images at a time",
    "canonical": "axes moved",
}


@table("convolutions", "convolutions.json")
def convolutions(stored):
    yield (
        *("network", "part", "form", "convolutions", "lax, ms", "form, ms"),
        "lax / form, one by one",
    )
    groups = {}
    for row in stored["rows"]:
        key = _network(row), row["part"], row["form"]
        groups.setdefault(key, []).append(row)
    for (network, part, form), rows in groups.items():
        if form in ("lax", "rule"):
            continue
        gains = [1 / row["ratios"][form][1] for row in rows]
        lax = [row["lax_milliseconds"] for row in rows]
        ours = [a / gain for a, gain in zip(lax, gains, strict=True)]
        counts = [row["count"] for row in rows]
        yield (
            *(network, part, _FORMS[form], str(sum(counts))),
            *(time(_total(counts, times)) for times in (lax, ours)),
            f"{_short(min(gains))} to {_short(max(gains))}",
        )


@table("convolutions_of_gradients", "convolutions_of_gradients.json")
@table("convolutions_whole", "convolutions.json")
def convolutions_whole(stored):
    yield "network", "part", "lax, ms", "lax / forms (quartiles)"
    for row in stored["rows"]:
        if row["form"] == "rule":
            low, middle, high = (1 / ratio for ratio in row["ratios"]["rule"])
            gain = f"{_short(middle)} ({_short(high)}-{_short(low)})"
            yield _network(row), row["part"], time(row["lax_milliseconds"]), gain


def _network(row):
    stem = f", stem `{row['stem']}`" if row["size"] > 64 else ""
    return f"`{row['network']}`, {row['batch']} x {row['size']}x{row['size']}{stem}"


def _total(counts, times):
    return sum(n * t for n, t in zip(counts, times, strict=True))


def _size(value, digits):
    return "–" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


@table("simulate_minilm", "simulate_minilm.json")
@table("simulate", "simulate.json")
def simulate(stored):
    names = list(dict.fromkeys(row["pass"] for row in stored["rows"]))[1:]
    yield (
        *("T", "batch", "ANN, ms", *(f"{name}, x ANN" for name in names)),
        f"temporaries, MB: ANN, {', '.join(names)}",
        "program, kB: the same",
    )
    cases = {(row["steps"], row["batch"]) for row in stored["rows"]}
    for case in sorted(cases, key=lambda case: (-case[1], case[0])):
        rows = {
            row["pass"]: row
            for row in stored["rows"]
            if (row["steps"], row["batch"]) == case
        }
        passes = [rows.get(name) for name in names]
        programs = (rows["ann"], *filter(None, passes))
        yield (
            *map(str, case),
            time(rows["ann"]["milliseconds"]),
            *(ratio(row["ratio"]) if row else "–" for row in passes),
            ", ".join(_size(row["megabytes"], 1) for row in programs),
            ", ".join(_size(row.get("program_kilobytes"), 0) for row in programs),
        )


@table("orders", "orders.json")
def orders(stored):
    yield "T", "pass", "median, ms", "x ANN (quartiles)", "temporaries, MB"
    for row in stored["rows"]:
        yield (
            *(str(row["steps"]), row["pass"], time(row["milliseconds"])),
            *(ratio(row["ratio"]), f"{row['megabytes']:,.1f}"),
        )


@table("onnx_times", "onnx_runtime_times.json")
def onnx_times(stored):
    yield "network", "batch", "pass", "median, ms", "x onnxruntime's floats", "differ"
    for row in stored["rows"]:
        yield (
            row["model"],
            str(row["batch"]),
            row["pass"],
            time(row["milliseconds"]),
            ratio(row["ratio"]),
            str(row.get("differing", "–")),
        )


_DIRECT = {
    "qcfs": "QCFS, without time",
    "stbp": "`stbp`",
    "tet": "`tet`",
    "tet, step": '`tet`, `remat="step"`',
    "tet, layer": '`tet`, `remat="layer"`',
    "tet, rolled": "`tet`, `unroll=False`",
    "tet, rolled, step": '`tet`, `unroll=False`, `remat="step"`',
    "SpikingJelly": "SpikingJelly, the network of `tet`, PyTorch backend",
}


@table("direct_step", "direct_step.json")
def direct_step(stored):
    found = {(row["network"], row["pass"]): row for row in stored["rows"]["times"]}
    networks = list(dict.fromkeys(network for network, _ in found))
    heads = ("{}, ms", "in QCFS steps (quartiles)", "temporaries, MB")
    yield "step", *(head.format(f"`{n}`") for n in networks for head in heads)
    for key, title in _DIRECT.items():
        rows = [found[n, key] for n in networks if (n, key) in found]
        if rows:
            cells = (_timed(row) for row in rows)
            yield title, *(cell for three in cells for cell in three)


@table("direct_step_memory", "direct_step.json")
def direct_step_memory(stored):
    rows = stored["rows"]["memory"]
    counts = sorted({row["steps"] for row in rows})
    yield "network", "program", "`remat`", *(f"T = {steps}, MB" for steps in counts)
    kinds = {}
    for row in rows:
        program = "unrolled" if row["unroll"] else "rolled"
        kind = kinds.setdefault((row["network"], program, row["remat"]), {})
        kind[row["steps"]] = row["megabytes"]
    for (network, program, kept), sizes in kinds.items():
        cells = (_size(sizes.get(steps, math.nan), 1) for steps in counts)
        yield f"`{network}`", program, kept, *cells


def _timed(row):
    size = row["megabytes"]
    cells = time(row["milliseconds"]), ratio(row["ratio"])
    return *cells, "–" if size is None else _size(size, 1)
