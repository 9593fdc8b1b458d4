"""The page says what the results say: all of it, nothing more, and never by halves."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import PathPatch
from matplotlib.path import Path as MplPath
from PIL import Image
from samples import attention, certificate, remove
from samples import conversion as sample

from bitsnn_jax.reports import conversion_page, place_plots, plots
from bitsnn_jax.reports import verdict as judging
from bitsnn_jax.reports.conversion_page import PICTURES
from bitsnn_jax.results.conversion import ConversionResult
from bitsnn_jax.results.spikes import LayerSpikes, Raster
from bitsnn_jax.runtime.reading import ReadingError, typed

OF_ATTENTION = {"spikes_by_place", "spikes_by_head"}
OF_OTHERS = OF_ATTENTION | {"boxes"}


def write_report(results, folder):
    """The report of plain values."""
    return conversion_page.write_report(typed(results, ConversionResult), folder)


def verdict(results):
    return judging.verdict(typed(results, ConversionResult))


def typed_raster(raster):
    return typed(raster, Raster)


class Page(HTMLParser):
    """The text, the ids and the references of a page; fails on unbalanced tags."""

    VOID = {"meta", "br"}

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.ids, self.references, text = [], set(), [], [], []
        self.text_parts = text
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(text).split())

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "srcset"):
                self.references.append(value)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text_parts.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of the full sample's report."""
    return write_report(sample(), tmp_path_factory.mktemp("run") / "report").parent


@pytest.fixture(scope="module")
def page(report):
    return Page((report / "index.html").read_text("utf-8"))


def small(*absent, **changed):
    """The sample at T = 4 alone, with three layers: quick to draw."""
    results = sample()
    results["steps"] = [each for each in results["steps"] if each["steps"] == 4]
    results["raster"]["layers"] = results["raster"]["layers"][:3]
    row = results["steps"][0]
    row["layers"] = row["layers"][:3]
    for part in absent:
        parts = (results, row, results.get("fixed_point", {}))
        next(each for each in parts if part in each).pop(part)
    return results | changed


def test_page_states_every_number(page):
    results = sample()
    numbers = [
        "ANN accuracy 98.89 %",
        "SNN accuracy 98.89 %",
        "360 images",
        "seed 7",
        "abc1234",
        "0.10.2",
        "optimizer",
    ]
    numbers += [f"{100 * each['ann_accuracy']:.2f} %" for each in results["steps"]]
    numbers += ["0 of 4,239,360 codes differ at T = 4 in float64"]
    numbers += ["360 of 360 predictions equal", "0.510", "4.25×"]  # 0.51 / 0.12
    numbers += ["In float32 13 of 4,239,360 codes differ, in 2 of 360 images"]
    for each in results["fixed_point"]["times"]:
        numbers += [f"{each['milliseconds_per_example']:#.3g} {each['ratio']:#.3g}"]
    numbers += ["Narrow chip 1 of 2 16 bits, wrap 43.21 % 54,321 membrane bits 17"]
    numbers += ["Wide chip 2 of 2 wide enough nothing"]
    for each in results["fixed_point"]["hardware"][0]["layers"]:
        numbers += [f"{each['name']} 1,024 11 145 144 -52,845 49,188 17 16,464"]
    for leaf in results["conversion"]["changed"]:
        numbers += [f"{leaf['path']} {leaf['largest_change']:#.3g}"]
    for each in results["steps"][3]["layers"]:
        numbers += [f"{each['path']} {each['neurons']:,} {sum(each['spikes']):#.3g}"]
    for each in results["steps"][3]["certificate"]["float32"]["layers"]:
        numbers += [f"{each['path']} {each['neurons']:,} {each['differing']} "]
    assert [number for number in numbers if number not in page.text] == []


def test_page_is_one_file_without_scripts(page):
    outside = [r for r in page.references if not r.startswith(("#", "data:"))]
    assert outside == []
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}


def test_ids_of_the_inline_pictures_do_not_collide(page):
    # The axes of every picture are "axes_1" to matplotlib.
    assert len(page.ids) == len(set(page.ids))
    local = {r[1:] for r in page.references if r.startswith("#")}
    assert local <= set(page.ids)


def test_pictures_are_written_beside_the_page(report):
    assert {path.name for path in report.iterdir()} == {
        "index.html",
        *(f"{name}.png" for name in PICTURES if name not in OF_OTHERS),
    }
    for name in set(PICTURES) - OF_OTHERS:
        pixels = np.asarray(Image.open(report / f"{name}.png").convert("RGB"))
        assert min(pixels.shape[:2]) > 400
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # not a blank sheet


def test_same_results_give_the_same_page(report, tmp_path):
    again = write_report(sample(), tmp_path)
    assert again.read_bytes() == (report / "index.html").read_bytes()


@pytest.mark.parametrize(
    ("absent", "gone"),
    [
        (["raster"], "One image, spike by spike"),
        (["fixed_point"], "What a pass takes"),
        (["hardware"], "Hardware limits"),
        (["layers"], "Mean spikes per neuron and image"),
        (["certificate"], "ran side by side"),
        (["stepped"], "Time, stepped to fused"),
        (["fused"], "Time, stepped to fused"),
        (["fused", "stepped"], "SNN accuracy"),
        (["raster", "layers", "certificate", "fused", "stepped"], "Spikes by layer"),
    ],
)
def test_absent_parts_are_left_out(tmp_path, absent, gone):
    whole = Page(write_report(small(), tmp_path).read_text("utf-8"))
    part = Page(write_report(small(*absent), tmp_path).read_text("utf-8"))
    assert gone in whole.text
    assert gone not in part.text
    for word in ("None", "Undefined", "nan"):
        assert word not in part.text
    # A picture of the first report that the second has no data for is gone.
    assert (tmp_path / "spike_raster.png").exists() == ("raster" not in absent)


def test_null_is_absent():
    row = small()["steps"][0] | {"stepped": None, "layers": None}
    plain = verdict(small("stepped", "layers"))
    assert verdict(small(steps=[row], raster=None)) == plain


def test_text_is_escaped(tmp_path):
    hostile = "<script>alert('a & b')</script>"
    results = small()
    for part, field in [
        (results["run"], "name"),
        (results["run"], "model"),
        (results["run"]["config"], "name"),
        (results["machine"], "device"),
        (results["conversion"]["changed"][0], "path"),
        (results["conversion"]["neurons"][0], "path"),
        (results["steps"][0]["layers"][0], "path"),
        (results["steps"][0]["certificate"]["float64"]["layers"][0], "path"),
        (results["raster"]["layers"][0], "path"),
    ]:
        part[field] = hostile
    page = Page(write_report(results, tmp_path).read_text("utf-8"))
    assert "script" not in page.tags
    assert page.text.count(hostile) >= 9


def test_a_dollar_in_a_name_is_no_formula():
    raster = sample()["raster"]
    raster["layers"][0]["path"] = "a$\\frac$b"
    assert "a$\\frac$b" in plots.svg(plots.spike_raster(typed_raster(raster)), name="p")


def of_words():
    """Results of a network with attention, at T = 4."""
    results = small("fixed_point", **attention())
    results["raster"] |= {"words": ["[CLS]", "good", "[SEP]"], "image": None}
    changes = results["conversion"]
    changes["nonspiking"] = [{"operation": "softmax", "path": "layer_0/self"}]
    rows = {"operation": "softmax", "paths": ["layer_0/self"], "times": 2}
    outside = [rows | {"rows": 24, "length": 7}]
    changes["work"] = {"driven": 75, "multiplications": 80, "outside": outside}
    results["ann"]["measures"] = {"f1": 0.8123}
    results["steps"][0]["stepped"]["measures"] = {"f1": 0.8111}
    results["raster"]["places"] = [
        {"path": path, "neurons": 4, "spikes": [[0.5, 0.25, 0, 0.75]] * 3}
        for path in ("q", "q@2", "p")
    ]
    return results


def test_page_of_words_says_what_is_counted(tmp_path):
    text = Page(write_report(of_words(), tmp_path).read_text("utf-8")).text
    stated = [
        "360 sentences",
        "ms a sentence",
        "One sentence, word by word",
        "Spikes per word 1,234 in all layers that have words, padding left out",
        "Driven by spikes 93.75 % of 80 multiply-accumulates",
        "2 operations are computed outside the spiking network, on real numbers: 2 s",
        "softmax 2 24 7",
        "Of 7 places, 3.50 hold a word on average; the others are padding",
        "send 12.50 % of all spikes",
        "network f1 ANN 0.812 SNN, T = 4 0.811",
    ]
    assert [each for each in stated if each not in text] == []
    assert "image" not in text
    assert {path.stem for path in tmp_path.glob("*.png")} >= OF_ATTENTION


def test_strips_are_as_full_as_words_spike_and_pairs_are_one_row():
    raster = of_words()["raster"]
    raster["places"][0]["spikes"][1] = [1, 0, 0, 0]  # of "q" alone
    figure = place_plots.spikes_by_place(typed_raster(raster))
    bars, _, words = figure.axes
    strips = words.images[0].get_array()[..., 3].reshape(2, 3, 5) ** 2
    np.testing.assert_allclose(strips[0, 1], [1, 1 / 6, 0, 1 / 2, 0])  # of 3/4 at most
    np.testing.assert_allclose(strips[1, 2], [2 / 3, 1 / 3, 0, 1, 0])
    assert [label.get_text() for label in words.get_yticklabels()] == ["q", "p"]
    heights = np.reshape([bar.get_height() for bar in bars.patches], (4, 3))
    assert heights[:, 0].tolist() == [6, 3, 0, 9]  # of 3 layers with 4 neurons each
    assert heights.sum() == 18 + 18 + 16


def test_patches_are_drawn_where_they_lie():
    raster = of_words()["raster"] | {"words": [], "image": np.eye(6).tolist()}
    for i, layer in enumerate(raster["places"]):
        layer["path"] = f"block_0/{i}"
        layer["spikes"] = [[0, 0, 0, i * n / 10] for n in range(9)]
    figure = place_plots.spikes_by_place(typed_raster(raster))
    *_, last = figure.axes
    shade = last.images[0].get_array()[..., 3]
    np.testing.assert_allclose(shade, np.arange(9).reshape(3, 3) / 8)


def test_failing_to_draw_writes_nothing(tmp_path, monkeypatch):
    def fail(figure):
        raise RuntimeError("no ink")

    monkeypatch.setattr(plots, "png", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        write_report(small(), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_failing_to_write_keeps_the_earlier_report(tmp_path, monkeypatch):
    (tmp_path / "conversion.json").write_text("{}")
    write_report(small(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_bytes

    def fail(path, content):
        if "index.html" in path.name:  # the last: the pictures are written by now
            raise OSError("disk full")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(sample(), tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after == before
    assert "conversion.json" in after


@pytest.mark.parametrize(
    "path",
    [
        "run",
        "run.model",
        "machine.jax",
        "examples",
        "ann.accuracy",
        "steps",
        "steps[0].ann_accuracy",
        "steps[0].fused.accuracy",
        "steps[0].certificate.float64.differing",
        "conversion.neurons[0].theta",
        "raster.logits",
    ],
)
def test_a_missing_part_is_named(path):
    results = small()
    last = remove(results, path)
    with pytest.raises(ReadingError) as error:
        typed(results, ConversionResult)
    place = path.rpartition(".")[0].replace("certificate.float64", "certificate[...]")
    where = f" - at `$.{place}`" if place else ""
    assert str(error.value) == f"Object missing required field `{last}`{where}"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": []}, "steps must have a row for some T, and is empty"),
        ({"steps": {}}, "Expected `array`, got `object` - at `$.steps`"),
        ({"run": "digits"}, "Expected `object`, got `str` - at `$.run`"),
        ({"examples": "9"}, "Expected `int`, got `str` - at `$.examples`"),
    ],
)
def test_a_part_of_the_wrong_kind_is_named(changed, message):
    with pytest.raises(ReadingError) as error:
        typed(small(**changed), ConversionResult)
    assert str(error.value) == message


def judged(*, float64=None, float32=None, certified=None, mispredicted=0, **changed):
    """The verdict on given numbers of differing codes; None is not run.

    `certified` predictions differ in the certificate, `mispredicted` in the simulation.
    """
    rng, results = np.random.default_rng(0), small()
    row = results["steps"][0]
    made = {"float64": float64, "float32": float32}
    row["certificate"] = {
        name: certificate(rng, differing=n) for name, n in made.items() if n is not None
    }
    if certified is not None:
        for proof in row["certificate"].values():
            proof["predictions_differing"] = certified
    row["stepped"]["predictions_differing"] = mispredicted
    row |= changed
    return verdict(results)


@pytest.mark.parametrize(
    ("measured", "grade", "opening"),
    [
        ({"float64": 0, "float32": 13}, "exact", "Exact: 0 of "),
        ({"float32": 0}, "exact", "Exact: 0 of "),
        ({"float64": 5, "float32": 0}, "differs", "Not exact: 5 of "),
        ({"float32": 13}, "open", "Not proved without float64: 13 of "),
        ({"float64": 0, "mispredicted": 1}, "open", "Equal codes, unequal predictions"),
        ({}, "open", "Not checked"),
    ],
)
def test_verdict_claims_no_more_than_was_measured(measured, grade, opening):
    result = judged(**measured)
    assert (result.grade, result.headline[: len(opening)]) == (grade, opening)
    equal = 360 - measured.get("mispredicted", 0)
    assert f"{equal} of 360 predictions equal" in result.headline


def test_a_proof_has_predictions_of_its_own():
    """Float32 rounds codes apart; the claim is that of the certificate."""
    result = judged(float64=0, certified=0, mispredicted=2)
    assert (result.grade, result.headline[:5]) == ("exact", "Exact")
    assert "360 of 360 predictions equal" in result.headline
    simulated = (
        "As simulated on all images, in float32, 358 of 360 predictions are equal."
    )
    assert simulated in result.remarks
    assert not judged(float64=0, certified=0).remarks
    result = judged(float64=0, certified=1)
    assert result.headline.startswith("Equal codes, unequal predictions")
    assert result.grade == "open"


def test_comparing_nothing_proves_nothing():
    empty = certificate(np.random.default_rng(0), differing=0) | {"neurons": 0}
    assert judged(certificate={"float64": empty}).grade == "open"


def test_verdict_says_what_qualifies_it():
    assert "Trained with L = 15, compared at L = 7" in judged(levels=7).remarks[0]
    assert "T = 4, the T of the training" in judged(steps=3).remarks[0]
    partial = certificate(np.random.default_rng(0), differing=0) | {"examples": 100}
    assert "on 100 of 360 images" in judged(certificate={"float64": partial}).remarks[0]


def test_examples_that_were_not_kept_apart_are_not_counted():
    results = small()
    narrow = certificate(np.random.default_rng(0), differing=7)
    results["steps"][0]["certificate"]["float32"] = narrow | {
        "examples_differing": None
    }
    [told] = [t for t in verdict(results).remarks if "7" in t]
    assert told == f"In float32 7 of {narrow['neurons']:,} codes differ."


def test_an_inexact_conversion_is_not_shown_as_exact(tmp_path):
    results = small()
    results["steps"][0]["certificate"]["float64"] = certificate(
        np.random.default_rng(0), differing=70_000
    )
    html = write_report(results, tmp_path).read_text("utf-8")
    assert "Not exact: 70,000 of 4,239,360 codes differ" in Page(html).text
    assert 'class="verdict differs"' in html
    assert ">exact<" not in html


def planes_of(raster):
    """What is drawn of a raster, and how many cells each has."""
    blocks = plots.spike_raster(typed_raster(raster)).axes[1]
    planes = [patch for patch in blocks.patches if isinstance(patch, PathPatch)]
    return planes, [(p.get_path().codes == MplPath.MOVETO).sum() for p in planes]


def test_raster_draws_each_spike_once_in_its_step():
    raster = sample()["raster"]
    planes, drawn = planes_of(raster)
    spikes = np.array([layer["spikes"] for layer in raster["layers"]])
    assert drawn == spikes.sum(axis=(0, 1)).tolist()
    # The first step of the first layer: column 0, and the rows of its spikes.
    corners = planes[0].get_path().vertices[::5]
    first = corners[corners[:, 0] < 1]
    np.testing.assert_array_equal(first[:, 1] // 1, np.flatnonzero(spikes[0, :, 0]))


def test_negative_digits_are_hollow():
    raster = sample()["raster"]
    spikes = np.array([layer["spikes"] for layer in raster["layers"]])
    spikes[1] *= -1
    for layer, signed in zip(raster["layers"], spikes.tolist(), strict=True):
        layer["spikes"] = signed
    planes, drawn = planes_of(raster)
    counts = [(spikes == sign).sum(axis=(0, 1)) for sign in (1, -1)]
    assert drawn == np.stack(counts, 1).ravel().tolist()
    assert [p.get_fill() for p in planes] == [True, False] * (len(planes) // 2)


def test_bars_by_layer_add_up_to_the_spikes():
    layers = sample()["steps"][3]["layers"]
    ax = plots.spikes_by_layer(typed(layers, list[LayerSpikes])).axes[0]
    ends = np.reshape([bar.get_x() + bar.get_width() for bar in ax.patches], (4, -1))
    totals = [sum(layer["spikes"]) for layer in layers]
    np.testing.assert_allclose(ends[-1], totals, rtol=1e-12)  # float64 sums of 4 terms


@pytest.mark.parametrize("steps", [1, 4, 32])
def test_planes_lighten_from_the_most_significant_on(steps):
    # Readers without colour vision tell the steps apart by lightness alone.
    lightness = [np.dot(to_rgb(c), (0.2, 0.7, 0.1)) for c in plots.plane_colours(steps)]
    assert len(lightness) == steps
    assert (np.diff(lightness) > 0).all()


def test_pictures_take_any_number_of_methods_steps_and_channels():
    curves = {f"method {i}": {2: 0.1 * i, 32: 0.9} for i in range(8)}
    lines = plots.accuracy_against_steps(curves).axes[0].lines
    assert [line.get_label() for line in lines] == list(curves)
    rng, raster = np.random.default_rng(0), sample()["raster"]
    raster["steps"] = 32
    spikes = rng.integers(0, 2, (5, 32)).tolist()
    raster["layers"] = [{"path": "a", "spikes": spikes}]
    for channels in (1, 2, 3):
        raster["image"] = rng.normal(size=(8, 8, channels)).tolist()
        figure = plots.spike_raster(typed_raster(raster))
        assert plots.png(figure).startswith(b"\x89PNG")


def test_analog_values_between_layers_are_named(tmp_path):
    layer = {"operation": "conv_general_dilated", "shape": [8, 8, 4]}
    layer |= {"path": "block_1/expand", "sources": ["block_0/project", "stem"]}
    results = small()
    page = Page(write_report(results, tmp_path).read_text("utf-8")).text
    assert "Every layer behind the first neurons is fed by spikes." in page
    assert "Analog values" not in page

    results["conversion"]["analog"] = [layer]
    page = Page(write_report(results, tmp_path).read_text("utf-8")).text
    words = "block_1/expand conv_general_dilated 8 × 8 × 4 block_0/project, stem"
    assert words in page.partition("Analog values between layers")[2]
    assert "fed by spikes." not in page
    remark = "Fed by real numbers in place of spikes: 1 layer."
    assert remark in verdict(results).remarks and remark in page


def test_products_of_two_currents_are_named(tmp_path):
    product = {"operation": "mul", "path": "block_1/gate"}
    product |= {"streamed": ["block_1/relu", "stem"], "held": ["block_1/sigmoid"]}
    results = small()
    assert (
        "Products" not in Page(write_report(results, tmp_path).read_text("utf-8")).text
    )
    results["conversion"]["products"] = [product]
    page = Page(write_report(results, tmp_path).read_text("utf-8")).text
    words = "block_1/gate mul block_1/relu + stem block_1/sigmoid"
    assert words in " ".join(page.partition("Products of two currents")[2].split())


def test_outputs_apart_are_said_where_no_code_differs():
    changed = {"exact": False, "outputs_agree": False}
    apart = certificate(np.random.default_rng(0), differing=0) | changed
    found = judged(certificate={"float64": apart})
    assert found.grade == "differs"
    assert found.remarks == ("The outputs differ by more than rounding.",)
