"""Fine-tuning for few bits: what is trained is, to the last bit, what is rounded."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    OF_ONE_IMAGE,
    PIXELS,
    Concatenated,
    Pooling,
    Residual,
    lowered,
)

import convert
from bitsnn_jax import config, data, qcfs
from bitsnn_jax.integers import qat
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import FixedPointError, fixed_point
from bitsnn_jax.integers.graph import Dense, Graph, Scale, evaluate
from bitsnn_jax.integers.kernels import factors, filled, with_kernel
from bitsnn_jax.integers.latent import latent, rounded, written_back
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.jobs.integers import accuracy, fine_tuned, lower_pixels
from bitsnn_jax.runs.loading import load_ann
from bitsnn_jax.training import train_and_evaluate


def moved(start, size=0.3):
    """Parameters as a training might leave them: far from the start, within bounds."""
    leaves, tree = jax.tree.flatten(start.params)
    rng = np.random.default_rng(0)
    # Most biases are one number for a channel and are counted in thetas.
    leaves = [x + np.float32(size * rng.normal(size=np.shape(x))) for x in leaves]
    params = jax.tree.unflatten(tree, leaves)
    return jax.tree.map(np.clip, params, start.low, start.high)


def seen(network, params, dtype=np.float64):
    """(logits, codes) of the pass of the training."""
    with jax.enable_x64(dtype == np.float64):
        run = jax.jit(qat.forward(network))
        return jax.tree.map(np.asarray, run(params, jnp.asarray(PIXELS, dtype)))


def assert_is(network, outputs, codes):
    result = jax.jit(one_shot(network))(PIXELS)
    for name, code in result.codes.items():
        np.testing.assert_array_equal(codes[name], code, err_msg=name)
    for name, output in result.outputs.items():
        integers = outputs[name] / network[name].unit
        # The unit is a float: the integers are within its last bits, and no others.
        np.testing.assert_array_equal(np.rint(integers), output, err_msg=name)
        np.testing.assert_allclose(integers, output, rtol=1e-6, atol=1e-6)


QUICK = {Residual: (4, 2), Pooling: (3, 8)}
CASES = [(network, *QUICK[network]) for network in QUICK]
# Each compiles for some seconds.
CASES += [
    pytest.param(network, *case, marks=pytest.mark.slow)
    for network in OF_ONE_IMAGE
    for case in ((4, 3), (3, 8), (4, 2), (2, 3))
    if case != QUICK.get(network)
]


@pytest.mark.parametrize("network, steps, bits", CASES)
def test_the_network_of_the_training_is_the_one_in_integers(network, steps, bits):
    graph = lowered(network)
    start = latent(graph, steps=steps, bits=bits)
    params = moved(start)
    outputs, codes = seen(start.network, params)
    tuned = written_back(graph, start.network, params)
    made = fixed_point(tuned, steps=steps, bits=bits)
    assert_is(made, outputs, codes)
    for node in made.of_kind("neurons", "output"):
        np.testing.assert_array_equal(node.fraction, start.network[node.name].fraction)
    assert any(np.ptp(code) for code in codes.values())


@pytest.mark.parametrize("bits", [2, 4])
def test_weights_that_all_shrink_keep_their_grid(bits):
    """`fixed_point` would choose a finer one, were it not for a channel's largest."""
    graph = lowered(Residual)
    start = latent(graph, steps=4, bits=bits)
    smaller = jax.tree.map(lambda p: np.float32(0.1) * p, start.params)
    params = jax.tree.map(np.clip, smaller, start.low, start.high)
    tuned = written_back(graph, start.network, params)
    wanted = rounded(start.network, params)
    for node in fixed_point(tuned, steps=4, bits=bits).nodes[1:]:
        before = start.network[node.name]
        np.testing.assert_array_equal(node.fraction, before.fraction)
        np.testing.assert_allclose(node.unit, before.unit, rtol=1e-9)
        np.testing.assert_array_equal(node.bias, wanted[node.name]["bias"])
        kernels = wanted[node.name]["kernels"]
        for term, same in zip(node.terms, filled(before.terms, kernels), strict=True):
            jax.tree.map(np.testing.assert_array_equal, term.weight, same.weight)


def test_in_float32_the_training_sees_the_same_bits():
    graph = lowered(Residual)
    start = latent(graph, steps=4, bits=3)
    outputs, codes = seen(start.network, moved(start), np.float32)
    assert start.network["output"].bound < 2**24
    tuned = written_back(graph, start.network, moved(start))
    assert_is(fixed_point(tuned, steps=4, bits=3), outputs, codes)


def test_written_back_it_is_the_same_function_of_floats():
    """Weights and biases of the graph are the integers times their units."""
    graph = lowered(Residual)
    start = latent(graph, steps=4, bits=3)
    tuned = written_back(graph, start.network, moved(start))
    outputs, codes = seen(start.network, moved(start))
    with jax.enable_x64(True):
        expected, _ = evaluate(tuned, jnp.asarray(PIXELS, np.float64), steps=4)
    # Identities have multipliers of 7 bits or more, and ties may break differently: a
    # code in some place, 0.011 of the largest logit here. All else would be much more.
    scale = np.abs(outputs["output"]).max()
    np.testing.assert_allclose(
        outputs["output"], expected["output"][:, 0], atol=0.02 * scale
    )
    assert all(code.max() <= 15 for code in codes.values())


def two_layers():
    """x @ w into four neurons, and those @ v into two outputs."""
    rng = np.random.default_rng(1)
    w, v = rng.normal(size=(3, 4)), rng.normal(size=(4, 2))
    return lower(
        lambda _, x: qcfs(x @ w + 0.3, 9.0) @ v + 0.1, {}, np.zeros((1, 3), np.float32)
    )


def test_on_the_grid_the_gradient_is_that_of_the_float_graph():
    """dL/dW of integers = dL/dw of floats * the unit of the weight."""
    graph = two_layers()
    start = latent(graph, steps=4, bits=5, white=9)
    network, limit = start.network, 2**4 - 1
    graph = written_back(graph, network, start.params)
    # No integers: at a tie of two codes floats may take the other one.
    x = np.random.default_rng(2).uniform(0, 9, (20, 3))

    def of_floats(weights):
        nodes = [graph.nodes[0]]
        for node in graph.nodes[1:]:
            [term] = node.terms
            nodes.append(
                node._replace(terms=(term._replace(weight=weights[node.name]),))
            )
        outputs, _ = evaluate(Graph(tuple(nodes)), jnp.asarray(x), steps=4)
        return jnp.sum(jnp.sin(outputs["output"]))

    def of_integers(params):
        outputs, _ = qat.forward(network)(params, jnp.asarray(x))
        return jnp.sum(jnp.sin(outputs["output"]))

    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: jnp.asarray(p, np.float64), start.params)
        # On the grid, where nothing is rounded.
        params = {
            name: of | {"kernels": [jnp.rint(k * limit) / limit for k in of["kernels"]]}
            for name, of in params.items()
        }
        ours = jax.grad(of_integers)(params)
        weights = {n.name: n.terms[0].weight for n in graph.nodes[1:]}
        weights = {n: Dense(jnp.asarray(w.kernel)) for n, w in weights.items()}
        theirs = jax.grad(of_floats)(weights)
    for name in weights:
        # w = W / factor, and W = limit * parameter.
        [factor] = factors(graph[name], network)
        expected = np.asarray(theirs[name].kernel) * limit / factor
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(ours[name]["kernels"][0], expected, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_grid_that_clips_is_nearer_than_the_one_that_does_not(bits):
    """In the sum of squares of each layer; and no further at any number of bits."""
    graph = lowered(Residual)
    plain = fixed_point(graph, steps=4, bits=bits)
    start = latent(graph, steps=4, bits=bits)
    near = written_back(graph, start.network, start.params)
    errors = []
    for node in graph.nodes[1:]:
        kernels, ours, integers = (
            [t.weight.kernel for t in with_kernel(of[node.name].terms)]
            for of in (graph, near, plain)
        )
        # In the units of the coarser grid, which the terms of a node share.
        error = np.zeros(2)
        for factor, kernel, other, integer in zip(
            factors(node, plain), kernels, ours, integers, strict=True
        ):
            apart = (integer - kernel * factor, (other - kernel) * factor)
            error += [np.square(a).sum() for a in apart]
        errors.append(error)
    unclipped, clipped = np.array(errors).T
    assert (clipped <= unclipped * (1 + 1e-6)).all()
    if bits == 2:
        assert clipped.sum() < 0.8 * unclipped.sum()


def test_kernels_stay_where_a_result_is_moved_and_maxima_have_no_parameters():
    graph = lowered(Concatenated)
    start = latent(graph, steps=4, bits=3)
    moved_nodes = [n for n in graph.nodes if any(t.after for t in n.terms)]
    assert moved_nodes
    for node in moved_nodes:
        for low, high in zip(
            start.low[node.name]["kernels"],
            start.high[node.name]["kernels"],
            strict=True,
        ):
            np.testing.assert_array_equal(low, high)
    assert not {n.name for n in graph.of_kind("maximum")} & set(start.params)


def test_bits_that_do_not_fit_are_the_error_of_fixed_point():
    with pytest.raises(ValueError, match="2 to 8, got 9"):
        latent(lowered(Residual), steps=4, bits=9)
    big = two_layers()
    terms = [
        node._replace(theta=node.theta * 1e-9) if node.kind == "neurons" else node
        for node in big.nodes
    ]
    with pytest.raises(FixedPointError, match="weights overflow"):
        latent(Graph(tuple(terms)), steps=4, bits=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small network after ten epochs on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    settings = config.Config(
        name="small",
        model=config.Model(name="small", theta_init=4.0),
        optimizer=config.Optimizer(learning_rate=0.05, epochs=10),
    )
    train_and_evaluate(settings, folder)
    return folder


@pytest.mark.parametrize("bits", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_fine_tuning_regains_what_rounding_costs(trained, bits):
    apply_fn, run = load_ann(trained)
    settings = run.config.data
    test = data.load(settings, "test")
    graph = lower_pixels(apply_fn, run.variables, test)
    rounded = accuracy(fixed_point(graph, steps=4, bits=bits), settings, test)
    tuned, numbers = fine_tuned(graph, settings, steps=4, bits=bits, epochs=5)
    found = accuracy(fixed_point(tuned, steps=4, bits=bits), settings, test)
    print(f"{bits} bits: {rounded:.3f} -> {found:.3f}, {numbers}")
    assert numbers.last_loss < numbers.first_loss
    assert found > rounded


SCRIPT = ["--steps", "2", "4", "--mode", "fused", "--certificate", "none"]


@pytest.mark.slow
def test_the_script_writes_accuracies_before_and_after(trained, tmp_path, capsys):
    options = [*SCRIPT, "--ckpt", str(trained), "--out", str(tmp_path)]
    options += ["--limit", "100", "--fixed-point", "2", "--rounding", "nearest"]
    convert.main(options)
    assert "fine-tune them (longer) with --qat_epochs" in capsys.readouterr().out
    before = json.loads((tmp_path / "conversion.json").read_text())["fixed_point"]
    assert before["qat"] is None
    assert before["rounding"] == {"method": "nearest", "images": 0}

    convert.main([*options, "--qat_epochs", "2", "--qat_learning_rate", "0.002"])
    assert "before fine-tuning" in capsys.readouterr().out
    after = json.loads((tmp_path / "conversion.json").read_text())["fixed_point"]
    assert (after["qat"]["steps"], after["qat"]["epochs"]) == (4, 2)
    assert after["qat"]["learning_rate"] == 0.002
    for old, new in zip(before["steps"], after["steps"], strict=True):
        assert new["accuracy_before"] == old["accuracy"]
    assert after["steps"][1]["accuracy"] > after["steps"][1]["accuracy_before"]


BAD = {
    "rounding": (["--rounding", "nearest"], "rounding needs fixed-point"),
    "no bits": (["--qat_epochs", "1"], "qat_epochs needs fixed-point"),
    "negative": (["--fixed-point", "--qat_epochs", "-1"], "at least 0, got -1"),
    "no number": (["--fixed-point", "--qat_epochs", "x"], "invalid int value: 'x'"),
    "rate": (
        ["--fixed-point", "--qat_epochs", "1", "--qat_learning_rate", "0"],
        "above 0 and below 1, got 0",
    ),
}


@pytest.mark.parametrize("options, words", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(options, words, tmp_path, capsys):
    command = ["--ckpt", "vgg_fashion_mnist", "--out", str(tmp_path / "out"), *options]
    with pytest.raises(SystemExit) as stop:
        convert.main(command)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not (tmp_path / "out").exists()


def test_widths_are_kept():
    """No integer of a tuned network leaves its bits."""
    start = latent(lowered(Residual), steps=4, bits=2)
    tuned = written_back(lowered(Residual), start.network, moved(start, size=9.0))
    for node in fixed_point(tuned, steps=4, bits=2).nodes:
        for term in node.terms:
            if not isinstance(term.weight, Scale):
                assert np.abs(term.weight.kernel).max() == 1


def test_weights_of_several_outputs_are_not_fine_tuned():
    def two(variables, x):
        codes = qcfs(x @ variables, 1.0)
        return codes @ variables, codes

    graph = lower(two, np.eye(2, dtype="f4"), np.ones((1, 2), "f4"))
    with pytest.raises(ValueError, match="one output, of logits, got 2, the first out"):
        qat.tune(graph, [], steps=4, bits=8, num_steps=1)
