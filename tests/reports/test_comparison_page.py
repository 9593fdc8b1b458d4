"""The page of a comparison says what was measured: all of it, and no more."""

import copy
import csv
import io
import re

import numpy as np
import pytest
from PIL import Image
from samples import ANNS, METHODS, remove
from samples import comparison as sample
from test_conversion_page import Page

from bitsnn_jax.reports import comparison_page, comparison_plots
from bitsnn_jax.reports.comparison_page import FIELDS, PICTURES, as_csv, first_equal
from bitsnn_jax.results.comparison import ComparisonResult, MethodRow
from bitsnn_jax.runtime.reading import ReadingError, typed


def write_comparison(results, folder):
    """The report of plain values."""
    return comparison_page.write_comparison(typed(results, ComparisonResult), folder)


def averages(rows):
    return comparison_page.averages(typed(list(rows), list[MethodRow]))


def as_markdown(results):
    return comparison_page.as_markdown(typed(results, ComparisonResult))


def small(**changed):
    """Three methods at two T's, one of them with three seeds: quick to draw."""
    results = sample()
    kept = ("qcfs", "bit_serial", "snnc_light")
    results["methods"] = {name: results["methods"][name] for name in kept}
    results["rows"] = [
        r for r in results["rows"] if r["method"] in kept and r["steps"] in (4, 16)
    ]
    return copy.deepcopy(results | changed)


def only(rows, **fields):
    return [r for r in rows if all(r[k] == v for k, v in fields.items())]


def table(markdown, title):
    """The rows of cells of the table under a title; its head first."""
    lines = markdown.partition(f"## {title}")[2].split("\n## ")[0].splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line[:1] == "|"]
    return [[cell.strip() for cell in row] for row in rows[:1] + rows[2:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_comparison(sample(), tmp_path_factory.mktemp("run") / "new").parent


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "index.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_every_row_is_in_the_csv_digit_for_digit(folder):
    with open(folder / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = sample()["rows"]
    assert len(rows) == len(expected)
    for row, measured in zip(rows, expected, strict=True):
        assert list(row) == list(FIELDS)
        assert row.pop("run") == ""  # none was trained directly
        assert {k: type(measured[k])(v) for k, v in row.items()} == measured


def test_csv_keeps_its_columns_whatever_a_row_holds():
    odd = sample()["rows"][0] | {"method": 'a,"b"\nc', "more": 1}
    (row,) = csv.DictReader(io.StringIO(as_csv([typed(odd, MethodRow)])))
    assert row["method"] == odd["method"] and "more" not in row


def test_averages_are_means_and_spreads_over_seeds():
    rows = sample()["rows"]
    found = averages(reversed(rows))
    assert {(r["method"], r["steps"]) for r in rows} == {
        (method, each.steps) for method, many in found.items() for each in many
    }
    for method, many in found.items():
        assert [each.steps for each in many] == sorted(each.steps for each in many)
        for each in many:
            own = only(rows, method=method, steps=each.steps)
            assert each.seeds == len(own)
            for field in each.mean:
                values = np.array([r[field] for r in own], float)
                # Sums of three float64.
                np.testing.assert_allclose(each.mean[field], values.mean(), 1e-14)
                if len(own) > 1:
                    spread = np.sqrt(((values - values.mean()) ** 2).sum() / 2)
                    # Differences of numbers that are rounded at 1e-16 of their size.
                    rounding = 1e-15 * np.abs(values).max()
                    np.testing.assert_allclose(each.spread[field], spread, 0, rounding)
                else:
                    assert each.spread is None


def test_a_time_is_told_in_passes_of_the_ann_as_measured_or_by_division():
    measured = sample()["rows"][0] | {"milliseconds": 0.82, "ann_passes": 0.123}
    older = measured | {"seed": 1, "ann_passes": None}
    for rows, expected in (([measured], 0.123), ([older], 2), ([measured, older], 2)):
        [[reached]] = averages(rows).values()
        assert comparison_page.passes(reached, 0.41) == expected
    assert comparison_page.passes(reached, 0.0) is None
    head, *body = table(as_markdown(sample()), "Cost of equal accuracy")
    assert head[-1] == "x ANN"
    (cells,) = (row for row in body if row[0] == "Bit-serial SNN")
    assert float(cells[-1]) == pytest.approx(0.3 * float(cells[2]))


def test_first_equal_is_the_least_steps_within_a_point():
    base = sample()["rows"][0]
    curve = {1: 0.1, 2: 0.4905, 4: 0.4906, 8: 0.48, 16: 0.55}
    rows = [base | {"steps": t, "accuracy": a} for t, a in curve.items()]
    (reached,) = averages(reversed(rows)).values()
    assert 0.5006 - 0.01 > 0.4906  # in floating point
    assert first_equal(reached, 0.5006).steps == 4
    assert first_equal(reached, 0.5007).steps == 16
    assert first_equal(reached, 0.57) is None
    assert first_equal(reached, 0.57, within=0.5).steps == 1


def test_tables_state_averages_by_method_and_steps(folder, page):
    head, *body = table((folder / "compare.md").read_text("utf-8"), "Accuracy (%)")
    rows, methods = sample()["rows"], sample()["methods"]
    assert head[4:] == [f"T = {t}" for t in (1, 2, 4, 8, 16, 32)]
    assert sorted(r[0] for r in body) == sorted(m["title"] for m in methods.values())
    assert body[0][0] == "Bit-serial SNN"  # ours first
    for name, method in methods.items():
        (cells,) = (r for r in body if r[0] == method["title"])
        assert cells[2] == f"{100 * ANNS[method['trained_with']]:.2f}"
        for title, cell in zip(head[4:], cells[4:], strict=True):
            values = [
                100 * r["accuracy"]
                for r in only(rows, method=name, steps=int(title.split()[-1]))
            ]
            text = f"{np.mean(values):.2f}" if values else "–"
            if len(values) > 1:
                text += f" ± {np.std(values, ddof=1):.2f}"
            assert cell == text
            assert text.replace("± ", "±") in page.text


def test_cost_is_that_of_the_least_steps_of_equal_accuracy():
    _, *body = table(as_markdown(sample()), "Cost of equal accuracy")
    rows, methods = sample()["rows"], sample()["methods"]
    assert len(body) == len(methods)
    windows = []
    for name, method in methods.items():
        (cells,) = (r for r in body if r[0] == method["title"])
        means = {
            t: np.mean([r["accuracy"] for r in only(rows, method=name, steps=t)])
            for t in sorted({r["steps"] for r in only(rows, method=name)})
        }
        bound = ANNS[method["trained_with"]] - 0.01
        equal = [t for t, mean in means.items() if mean >= bound]
        if not equal:
            best = max(means, key=means.get)
            expected = f"{100 * means[best]:.2f} at best, T = {best}"
            assert cells[1:5] == ["–", "–", "–", expected]
            continue
        at = only(rows, method=name, steps=equal[0])[0]
        numbers = [str(at[f]) for f in ("steps", "window", "until_output")]
        assert cells[1:4] == numbers
        windows.append((body.index(cells), at["window"]))
    assert 0 < len(windows) < len(methods)  # both kinds were met
    ordered = [window for _, window in sorted(windows)]
    assert ordered == sorted(ordered)
    assert max(place for place, _ in windows) == len(windows) - 1  # the others below


def test_failed_methods_are_named(folder, page):
    for text in ((folder / "compare.md").read_text("utf-8"), page.text):
        failed = text.partition("ailed")[2]
        assert "at T = 16: codes have 8 bits at most" in failed
        assert "dietcode: a ReLU network is missing" in failed.replace(" :", ":")


def test_nothing_is_said_of_failures_without_any(tmp_path):
    page = write_comparison(small(failed=[]), tmp_path)
    assert "What failed" not in Page(page.read_text("utf-8")).text
    assert "Failed" not in (tmp_path / "compare.md").read_text("utf-8")


def test_page_states_what_was_run(page):
    results = sample()
    words = [m["title"] for m in results["methods"].values()]
    words += [m["source"] for m in results["methods"].values()]
    words += [n["from"] for n in results["networks"].values()]
    words += ["16 methods", "10,000 images", "70,200", "188,416", "abc1234", "0.10.2"]
    words += [results["run"]["command"], "seed 7"]
    assert [word for word in words if word not in page.text] == []
    for word in ("None", "Undefined", "nan"):
        assert word not in page.text


def test_tiles_name_the_cheapest_of_equal_accuracy(page):
    least = page.text.partition("The least that it takes")[2].partition("Accuracy")[0]
    assert "Time steps of a layer 4 Bit-serial SNN, Radix encoding" in least
    assert "Until the output 12 SRP" in least


def test_no_method_may_be_equal(tmp_path):
    results = small()
    for row in results["rows"]:
        row["accuracy"] = 0.5
    text = Page(write_comparison(results, tmp_path).read_text("utf-8")).text
    assert "No method comes within 1 point" in text
    assert text.count("not reached; 50.00 % at best") == 3


def test_text_of_the_input_is_escaped(tmp_path):
    nasty = "<b>$x|y$ & 'z'</b>"
    results = small()
    results["methods"]["qcfs"] |= {"title": nasty, "source": nasty}
    results["failed"] = [{"method": nasty, "steps": None, "error": nasty}]
    results["run"] |= {"dataset": nasty, "command": nasty}
    html = write_comparison(results, tmp_path).read_text("utf-8")
    assert "<b>" not in html
    assert Page(html).text.count(nasty) >= 8
    _, *body = table((tmp_path / "compare.md").read_text("utf-8"), "Accuracy (%)")
    assert {len(row) for row in body} == {6}


def test_page_is_one_file_without_scripts(page):
    outside = [r for r in page.references if not r.startswith(("#", "data:"))]
    assert outside == []
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert len(page.ids) == len(set(page.ids))


def test_every_curve_can_be_pointed_at(html, page):
    # The style fades all curves but one; the pictures must have what it names.
    for i in range(len(METHODS)):
        assert f'[id$="-m{i}"]:hover' in html
        for part in ("curve-window", "curve-until_output", "name"):
            assert f"accuracy_against_steps-{part}-m{i}" in page.ids


def test_pictures_are_written_beside_the_page(folder):
    assert {path.name for path in folder.iterdir()} == {
        *("index.html", "compare.csv", "compare.md"),
        *(f"{name}.png" for name in PICTURES),
    }
    for name in PICTURES:
        pixels = np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
        assert min(pixels.shape[:2]) > 400


def test_other_files_stay(tmp_path):
    (tmp_path / "compare.json").write_text("{}")
    write_comparison(small(), tmp_path)
    assert (tmp_path / "compare.json").read_text() == "{}"


@pytest.mark.parametrize(
    "path",
    [
        *("run", "run.model", "machine.jax", "examples", "neurons", "depth"),
        *("networks", "networks.relu.accuracy", "networks.qcfs.from"),
        *("methods", "methods.snnc_light.trained_with"),
        *("rows", *(f"rows[0].{field}" for field in FIELDS[:-4])),
        *("failed", "failed[0].error"),
    ],
)
def test_a_missing_part_is_named(path):
    results = small()
    last = remove(results, path)
    with pytest.raises(ReadingError) as error:
        typed(results, ComparisonResult)
    place = re.sub(r"(networks|methods)\.\w+", r"\1[...]", path.rpartition(".")[0])
    where = f" - at `$.{place}`" if place else ""
    assert str(error.value) == f"Object missing required field `{last}`{where}"


def of_methods(*names):
    return {name: small()["methods"][name] for name in names}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": []}, "rows is empty: .*dietcode: a ReLU network"),
        ({"rows": {}}, "Expected `array`, got `object` - at `\\$.rows`"),
        ({"methods": []}, "Expected `object`, got `array` - at `\\$.methods`"),
        ({"rows": 2 * small()["rows"]}, "rows has .* 2 times"),
        ({"networks": {}}, "networks.qcfs is missing: methods.qcfs starts from it"),
        ({"methods": of_methods("qcfs")}, r"methods.bit_serial is missing: rows\[2\]"),
    ],
)
def test_a_part_that_is_wrong_is_named(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        write_comparison(small(**changed), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def with_direct():
    """The same with a directly trained method: two seeds at T = 4."""
    results = small()
    qcfs = results["methods"]["qcfs"]
    results["methods"]["tet"] = qcfs | {"title": "TET", "direct": True}
    row = only(results["rows"], method="qcfs", steps=4)[0]
    run = {"name": "tet", "model": "plif_net", "dataset": "digits", "version": "0.1.0"}
    size = {"neurons": 4321, "depth": 4, "multiply_accumulates": 567}
    results["trained"] = {"runs/qcfs": size | trained(run, None, 100.0, 1.0)}
    for seed, accuracy in enumerate((0.91, 0.93)):
        source = f"runs/tet_{seed}"
        changed = {"method": "tet", "seed": seed, "accuracy": accuracy, "run": source}
        results["rows"].append(row | changed)
        cost = None if seed else 3.5
        results["trained"][source] = size | trained(run, "tet", 250.0, cost)
    return results


def trained(run, method, seconds, ratio):
    cost = {"milliseconds": 12.5, "megabytes": 34.5, "qcfs_steps": ratio}
    return {
        "run": run | {"checkpoint_step": 7, "seed": 0},
        **{"method": method, "steps": 4, "epochs": 6, "batch": 64},
        **{"seconds": seconds, "cost": ratio and cost},
    }


def test_both_families_and_what_they_cost_to_train_are_told(tmp_path, page):
    written = write_comparison(with_direct(), tmp_path)
    markdown = (tmp_path / "compare.md").read_text("utf-8")
    _, *body = table(markdown, "Both families")
    assert [row[:2] for row in body] == [
        ["Bit-serial SNN", "resnet20"],
        ["TET", "plif_net"],
    ]
    assert body[1][2:5] == ["4", "4", "92.00 ± 1.41"]
    _, *body = table(markdown, "Cost of training")
    same = ["plif_net", "0", "4", "4,321", "6"]
    assert body == [
        ["QCFS, to convert", *same, "100", "12.5", "1.00", "34.5"],
        ["TET", *same, "250", "12.5", "3.50", "34.5"],
        ["TET", *same, "250", "–", "–", "–"],
    ]
    text = Page(written.read_text("utf-8")).text
    assert "3 methods of conversion on one checkpoint, and 1 of direct train" in text
    for title in ("Both families at the same T", "What training costs"):
        assert title in text and title not in page.text
    lost = with_direct()
    del lost["trained"]["runs/tet_1"]
    with pytest.raises(ValueError, match=r"trained.runs/tet_1 is missing: rows\[\d+\]"):
        write_comparison(lost, tmp_path)


def test_front_is_what_nothing_dominates():
    rng = np.random.default_rng(0)
    # Few values: ties are many.
    costs, gains = rng.integers(0, 12, 60), rng.integers(0, 12, 60)
    kept = comparison_plots.front(costs.tolist(), gains.tolist())
    for i in range(60):
        dominated = False
        for j in range(60):
            no_worse = costs[j] <= costs[i] and gains[j] >= gains[i]
            better = costs[j] < costs[i] or gains[j] > gains[i]
            dominated |= bool(no_worse and better)
        assert kept[i] == (not dominated)
    best = sorted({(c, g) for c, g, k in zip(costs, gains, kept, strict=True) if k})
    assert (np.diff(best, axis=0) > 0).all()  # more costs more


def series(count, accuracy=0.9, **changed):
    at = {"window": 4, "until_output": 9, "spikes_per_neuron": 0.5, "steps": 4}
    at |= {"synaptic_operations": 1e6, "nanojoules": 1e3, "accuracy": accuracy}
    points = [at | changed, at | {"window": 8, "steps": 8} | changed]
    return [
        comparison_plots.Series(f"method {i}", points, 0.92, ours=i == 0)
        for i in range(count)
    ]


def test_no_two_methods_look_alike():
    many = [*series(40), *(s._replace(direct=True, ours=False) for s in series(24))]
    figure = comparison_plots.accuracy_against_steps(many, {"qcfs": 0.92}, examples=100)
    lines = [x for x in figure.axes[0].lines if str(x.get_label())[:6] == "method"]
    looks = {
        (x.get_color(), x.get_marker(), x.get_linestyle(), x.get_markerfacecolor())
        for x in lines
    }
    assert len(lines) == len(looks) == 64
    assert [x for x in lines if x.get_color() == comparison_plots.OURS] == lines[:1]


def test_curves_are_drawn_where_they_were_measured():
    results = small()
    figure = comparison_plots.accuracy_against_steps(
        [
            comparison_plots.Series(
                "A", only(results["rows"], method="bit_serial"), 0.94, ours=True
            )
        ],
        {"qcfs": 0.9412},
        examples=100,
    )
    rows = only(results["rows"], method="bit_serial")
    for ax, field in zip(figure.axes, ("window", "until_output"), strict=True):
        (line,) = (x for x in ax.lines if x.get_label() == "A")
        drawn = np.array(line.get_xydata())
        expected = [[r[field], r["accuracy"]] for r in rows]
        np.testing.assert_array_equal(drawn, expected)
        (ann,) = (x for x in ax.lines if x.get_label() == "ANN, QCFS")
        assert set(ann.get_ydata()) == {0.9412}


@pytest.mark.parametrize(
    ("accuracy", "changed"),
    [
        (1.0, {}),  # no errors, whose logarithm is minus infinity
        (0.1, {}),  # nothing useful for the front
        (0.9, {"spikes_per_neuron": 0, "synaptic_operations": 0, "nanojoules": 0}),
    ],
)
def test_pictures_take_the_ends_of_the_axes(accuracy, changed):
    many, anns = series(2, accuracy, **changed), {"qcfs": accuracy}
    for draw in (
        comparison_plots.accuracy_against_steps,
        comparison_plots.accuracy_against_spikes,
        comparison_plots.accuracy_front,
    ):
        figure = draw(many, anns, examples=100)
        figure.draw_without_rendering()
        for ax in figure.axes:
            assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()
            low, high = ax.get_ylim()
            assert low < accuracy < high or accuracy == 1 == round(high, 2)
    comparison_plots.one_by_one(many, examples=100).draw_without_rendering()
