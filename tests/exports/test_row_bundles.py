"""Softmax, normalised rows and tables of vectors in the exchange format."""

import shutil

import encoders
import jax
import numpy as np
import pytest
from damaged_bundles import change_arrays, change_text
from row_networks import LENGTH, TOKENS, WIDTH, tokens_to_logits

from bitsnn_jax import referee
from bitsnn_jax.exports import bundle_writer
from bitsnn_jax.exports.bundle_reader import ExchangeError
from bitsnn_jax.exports.formats import FORMATS
from bitsnn_jax.integers import routines
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.graph import Scale
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.integers.needs import layer_needs
from bitsnn_jax.integers.network import IntegerNetwork, IntegerNode
from bitsnn_jax.integers.operations import COUNTS, count
from bitsnn_jax.integers.targets import broken_limits, targets

ROW = "row_entries"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "net"
    bundle_writer.save(tokens_to_logits(), folder, vectors=TOKENS)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "net")


def test_a_network_of_rows_comes_back_number_by_number(exported):
    saved, loaded = tokens_to_logits(), bundle_writer.load(exported)
    np.testing.assert_array_equal(loaded.tops, saved.tops)
    for mine, theirs in zip(loaded.nodes, saved.nodes, strict=True):
        assert (mine.routine, mine.row_unit) == (theirs.routine, theirs.row_unit)
        assert str(mine) == str(theirs)


def test_the_referee_agrees_on_rows_and_counts_what_they_cost(exported):
    counts, agreed, difference = referee.compare(referee.read(exported))
    assert agreed > 0 and not difference
    vectors = bundle_writer.load_vectors(exported)
    codes = {name: vectors[f"codes/{name}"] for name in ("code", "chosen")}
    assert all(codes[name].std() > 0 for name in codes)
    counted = count(tokens_to_logits(), codes, examples=len(TOKENS))
    for node in counted.nodes:
        for field in set(COUNTS) - {"code_multiply_accumulates"}:
            where = f"{field} of {node.name}"
            assert getattr(counts[node.name], field) == getattr(node, field), where
    assert counted["words"].lookups == 5 * LENGTH * WIDTH
    assert counted["words"].multiply_accumulates == 0
    assert counted["softmax"].routine_products == 6 * 5 * LENGTH**2


def test_a_chip_whose_neurons_know_their_own_sum_only_holds_no_rows():
    needs = layer_needs(tokens_to_logits())
    assert {n.name: n.row_entries for n in needs if n.row_entries} == {
        "words": WIDTH,
        "softmax": LENGTH,
    }
    for name, chip in targets().items():
        unmet = {b.layer for b in broken_limits(needs, chip, steps=4) if b.limit == ROW}
        alone = chip.neuron != "programmable"
        assert unmet == ({"words", "softmax"} if alone else set()), name


def test_referee_and_package_have_the_same_routines():
    rng = np.random.default_rng(0)
    for n in (1, 3, 100, 512):
        z = rng.integers(-(2**20), 2**20, (9, n)) >> rng.integers(0, 18, (9, 1))
        for unit in (1e-9, 3e-5, 0.01, 2.0):
            units = routines.softmax_units(unit)
            mine = routines.softmax(z.astype(np.int32), *units)
            np.testing.assert_array_equal(referee.softmax(z, *units), mine)
        for epsilon in (0.0, 1e-12, 1e-3, 30.0):
            units = routines.epsilon_units(epsilon, 1e-3, n)
            mine = routines.normalise((z >> 1).astype(np.int32), *units)
            np.testing.assert_array_equal(referee.normalise(z >> 1, *units), mine)


def at(*path):
    """Change text[path[0]][path[1]]... to the last."""

    def change(text):
        for key in path[:-2]:
            text = text[key]
        text[path[-2]] = path[-1]

    return lambda folder: change_text(folder, change)


def arrays(change, name="network.safetensors"):
    return lambda folder: change_arrays(folder, change, name)


def replaced(name, make):
    return lambda found: found.update({name: make(found[name])})


TABLE = "words/terms/0/weight/kernel"
TERM = ("nodes", 1, "terms", 0)
DAMAGED = {  # what is done, what the reader says, and the referee
    "version": (at("version", 3), "version 3: export the network anew", "version 3: e"),
    "no routine": (
        at("nodes", 3, "routine", None),
        "softmax: routine must be list",
        "softmax: TypeError",
    ),
    "one number": (
        at("nodes", 3, "routine", [7]),
        r"softmax: routine must be two numbers, got \(7,\)",
        "softmax: ValueError",
    ),
    "factor": (
        at("nodes", 3, "routine", [0, 2**31]),
        r"softmax: routine \(0, 2147483648\) is out of range",
        "softmax: factor must be 32768 to 2147483647",
    ),
    "half a shift": (
        at("nodes", 3, "routine", [0.5, 2**20]),
        "softmax: routine must have integers",
        "softmax: a shift must be a whole number",
    ),
    "mantissa": (
        at("nodes", 1, "routine", [7, 0]),
        r"words: routine \(7, 0\) is out of range",
        "words: a mantissa must be 1073741824 to",
    ),
    "exponent": (
        at("nodes", 1, "routine", [2**30, 10**6]),
        "words: routine .* is out of range",
        "words: an exponent must be -92 to 29",
    ),
    "row unit": (
        at("nodes", 1, "row_unit", -1.0),
        "words: row_unit must be above 0",
        "",  # it needs none
    ),
    "a table of bytes": (
        arrays(replaced(TABLE, lambda table: table.astype(np.int8))),
        "words: kernel must be int16, got int8",
        "words: kernel is int8, not int16",
    ),
    "a table without rows": (
        arrays(replaced(TABLE, lambda table: table[:0])),
        "words: ",
        "words: ",
    ),
    "a flat table": (
        arrays(replaced(TABLE, lambda table: table.reshape(-1))),
        "words: a table must be",
        "words: a table of shape",
    ),
    "words that are sums": (
        at(*TERM, "before", [{"op": "Sum", "axes": [1]}]),
        "words: rows of a table are named by integers of the input",
        "words: rows that no integer of the input names",
    ),
    "words that are codes": (
        at("nodes", 3, "terms", 0, "weight", {"op": "Lookup", "kernel": TABLE}),
        "softmax: rows of a table are named by integers of the input",
        "softmax: rows that no integer of the input names",
    ),
    "tops": (
        arrays(replaced("input/tops", lambda tops: tops * 2)),
        "input: tops must be 0 to 6",
        "network.json: tops: they are not 0 to 6",
    ),
    "tops that are none": (
        at("nodes", 0, "tops", "x"),
        "input: no array 'x'",
        "network.json: tops: there is no 'x'",
    ),
    "a word in the mask": (
        arrays(replaced("input", lambda x: x + 1 - x // 6), "vectors.safetensors"),
        r"vectors: input must be at most 1 at \(1, 0\)",
        "vectors.safetensors: an input above what its place may have",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_bundle_of_rows_is_one_line_of_both_readers(folder, case, capsys):
    damage, reader_says, referee_says = DAMAGED[case]
    damage(folder)
    if reader_says:
        with pytest.raises(ExchangeError, match=reader_says) as caught:
            bundle_writer.load(folder)
            bundle_writer.load_vectors(folder)
        assert "\n" not in str(caught.value)
    if referee_says:
        assert referee.main([str(folder)]) == 2
        error = capsys.readouterr().err
        assert referee_says in error and error.count("\n") == 1


def test_rows_that_leave_31_bits_are_refused(tmp_path):
    network = tokens_to_logits()
    wide = network["softmax"]
    terms = [t._replace(weight=Scale(np.array(1, np.int16))) for t in wide.terms[1:]]
    far = wide._replace(terms=tuple(terms), bias=np.array(2**29, np.int32))
    far = far._replace(bound=2**29 + 1)
    nodes = (network.nodes[0], far)
    bundle_writer.save(IntegerNetwork(nodes, 4, 8, 6, network.tops), tmp_path / "net")
    with pytest.raises(ExchangeError, match="softmax: rows of 3 numbers of up to 53"):
        bundle_writer.load(tmp_path / "net")
    with pytest.raises(referee.RefereeError, match="softmax: a row of numbers that"):
        referee.run(referee.read(tmp_path / "net"), TOKENS[0])


@pytest.mark.parametrize("mode", ("one_shot", "stepped"))
def test_onnxruntime_has_the_same_codes_and_logits(mode, exported):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from bitsnn_jax.exports.onnx_writer import export_onnx

    model = export_onnx(tokens_to_logits(), mode=mode).SerializeToString()
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    vectors = bundle_writer.load_vectors(exported)
    kind = {"tensor(uint8)": np.uint8}[session.get_inputs()[0].type]
    found = session.run(names, {"input": vectors["input"].astype(kind)})
    for name, array in zip(names, found, strict=True):
        whose = f"codes/{name[5:]}" if name.startswith("code_") else f"outputs/{name}"
        wanted = vectors[whose].reshape(array.shape)
        np.testing.assert_array_equal(array, wanted, err_msg=name)
    assert {"output", "code_code", "code_chosen"} == {*names}


def test_onnx_has_the_routines_of_numpy():
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from bitsnn_jax.exports.onnx_builder import Builder, Value
    from bitsnn_jax.exports.onnx_rows import by_rows

    rng = np.random.default_rng(0)
    for n in (1, 3, 200):
        z = (rng.integers(-(2**20), 2**20, (40, n)) >> rng.integers(0, 18, (40, 1))) + 9
        z[:4] = [[0], [2**20], [-(2**20)], [1]]
        z[4:6, 0] = 2**20, -(2**20)
        for kind, routine, units in (
            ("softmax", routines.softmax, routines.softmax_units(3e-5)),
            ("softmax", routines.softmax, routines.softmax_units(0.3)),
            ("normalised", routines.normalise, routines.epsilon_units(0, 1, n)),
            ("normalised", routines.normalise, routines.epsilon_units(2, 1e-2, n)),
        ):
            node, builder = IntegerNode("a", kind, (1, n), routine=units), Builder()
            start = Value((1, n), forms={("f64", False): builder.cast("input", "f64")})
            made = builder.form(by_rows(builder, node, start), "i32")
            builder.output("a", made, "i32", (1, n))
            model = builder.model("i32", (1, n), {}).SerializeToString()
            session = runtime.InferenceSession(model)
            [found] = session.run(["a"], {"input": z.astype(np.int32)})
            wanted = routine(z.astype(np.int32), *units)
            np.testing.assert_array_equal(found, wanted, err_msg=f"{kind} {n}")


@pytest.mark.parametrize("name", ("nir", "nir_stock", "qonnx", "verilog"))
def test_formats_without_routines_refuse_rows_and_name_the_way_out(name, tmp_path):
    pytest.importorskip({"qonnx": "onnx", "verilog": "numpy"}.get(name, "nir"))
    network = tokens_to_logits()
    if name == "verilog":  # by layers: the others have circuits
        from bitsnn_jax.exports.verilog_layers import VerilogError, design

        design(network, network["code"])
        for node in ("words", "softmax"):
            with pytest.raises(VerilogError, match=f"{node}: a node of kind"):
                design(network, network[node])
        return
    with pytest.raises(
        ValueError, match="words: N?.* has no form .* onnx or stablehlo"
    ):
        FORMATS[name].write(network, {}, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_bert_agrees_from_tokens_to_logits_in_three_executions(tmp_path):
    """One pass, spike by spike in JAX, and the referee: every code and every logit."""
    tokens = encoders.sentences(4)
    white = np.array([[encoders.WORDS - 1], [1], [1]])
    graph = lower(encoders.encoder, encoders.variables(), tokens[:1])
    network = fixed_point(graph, steps=4, white=white, inputs=tokens[:2])
    once, spikes = jax.jit(lambda x: [f(network)(x) for f in (one_shot, stepped)])(
        tokens
    )
    for name, codes in once.codes.items():
        np.testing.assert_array_equal(spikes.codes[name], codes, err_msg=name)
    np.testing.assert_array_equal(spikes.outputs["output"], once.outputs["output"])
    vectors = {"input": tokens, "outputs/output": once.outputs["output"]}
    vectors |= {f"codes/{name}": codes for name, codes in once.codes.items()}
    bundle_writer.save(network, tmp_path / "net", vectors=vectors)
    assert bundle_writer.load(tmp_path / "net").steps == 4
    counts, agreed, difference = referee.compare(referee.read(tmp_path / "net"))
    assert agreed > 1000 and not difference
    for node in count(network, once.codes, examples=len(tokens)).nodes:
        for field in set(COUNTS) - {"code_multiply_accumulates"}:
            where = f"{field} of {node.name}"
            assert getattr(counts[node.name], field) == getattr(node, field), where
