"""The cells of the ablation: its corners, and each cell as NumPy writes it down.

In float64 the order of sums decides no neuron here.
"""

from functools import partial
from itertools import combinations, product

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from bitsnn_jax import qcfs, spiking
from bitsnn_jax.comparators import simulate
from bitsnn_jax.comparators.ablation import CELLS, Cell, ablated, first_and_biases
from bitsnn_jax.comparators.method import Network
from bitsnn_jax.comparators.qcfs import METHOD as QCFS_RATE

BUILT = (networks.PreActivation, networks.NormBeforeConvolution)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def built(network):
    apply_fn, variables, x = networks.build(network)
    wide = partial(jax.tree.map, lambda a: jnp.asarray(a, jnp.float64))
    return apply_fn, wide(variables), wide(x)


def run(cell, apply_fn, variables, x, steps, **options):
    method = ablated(cell)
    found = method.prepare(Network(apply_fn, variables, "qcfs"), [x], steps).found
    options |= {"steps": steps, "found": found}
    snn = simulate(apply_fn, method.neuron(steps), **options)
    return jax.jit(snn)(variables, x)


@pytest.mark.parametrize(
    ("network", "steps"),
    [pytest.param(BUILT[0], 3, marks=pytest.mark.slow), (BUILT[1], 4)],
)
def test_none_is_the_rate_network(network, steps):
    apply_fn, variables, x = built(network)
    ours = run(CELLS["none"], apply_fn, variables, x, steps)
    theirs = jax.jit(simulate(apply_fn, QCFS_RATE.neuron(steps), steps=steps))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs(variables, x))


@pytest.mark.parametrize(
    ("name", "network", "steps", "by_sum"),
    [
        ("all", BUILT[0], 3, True),
        ("all", BUILT[1], 4, False),
        ("all", networks.Pooling, 3, False),  # whose maximum is of codes
        ("norm_first_modified_if", BUILT[0], 3, True),
        ("norm_first_modified_if", networks.Pooling, 4, True),
    ],
)
def test_all_is_the_network_of_the_paper(name, network, steps, by_sum):
    apply_fn, variables, x = built(network)
    ours = run(CELLS[name], apply_fn, variables, x, steps, by_sum=by_sum)
    fused = jax.jit(spiking(apply_fn, steps=steps, mode="fused"))
    output, stats = fused(variables, x)
    # The codes are the same, bit by bit; the output is summed in another order.
    assert ours.spikes.keys() == stats.spikes.keys()
    for path, planes in stats.spikes.items():
        np.testing.assert_array_equal(ours.spikes[path], planes)
    np.testing.assert_allclose(ours.outputs[-1], output, rtol=1e-12, atol=1e-12)


def test_whole_biases_are_those_of_a_network_that_was_not_converted():
    steps = 3
    apply_fn, variables, x = built(networks.PreActivation)
    ours = run(CELLS["left_shift_modified_if"], apply_fn, variables, x, steps)
    _, stats = jax.jit(spiking(apply_fn, steps=steps))(variables, x)
    for path, planes in stats.spikes.items():
        np.testing.assert_array_equal(ours.spikes[path], planes)


@pytest.mark.parametrize("steps", (3, 4))
def test_modified_if_alone_is_the_parallel_neuron(steps):
    """Its train is H(T mean / t + theta / 2t - theta), its count the QCFS code, Q = T.

    Two layers: the second has a train to integrate.
    """
    apply_fn, variables, _ = networks.build_pure()
    x = np.random.default_rng(steps).normal(size=(50, 6))
    ours = run(CELLS["modified_if"], apply_fn, variables, x, steps)
    w, b, theta = (np.asarray(variables[k], float) for k in ("w", "b", "theta"))
    a, times = np.asarray(x, float), np.arange(1, steps + 1)[:, None, None]
    for path in ours.spikes:
        z = a @ w + b
        spikes = steps * z / times + theta / (2 * times) - theta >= 0
        np.testing.assert_array_equal(ours.spikes[path], spikes.sum((1, 2)))
        a = theta * spikes.mean(0)
        np.testing.assert_allclose(a, qcfs(z, theta, levels=steps), rtol=1e-12)
    np.testing.assert_allclose(ours.outputs[-1], a @ w, rtol=1e-12, atol=1e-12)


def transcribed(cell, variables, x, steps):
    """`networks.pure` in the convention of the paper, in which trains are summed.

    A rate's spike is worth theta / T then, and an even bias b / T at each step.
    """
    w, b, theta = (np.asarray(variables[k], float) for k in ("w", "b", "theta"))
    if cell.left_shift:
        worth = [theta * 2 ** (steps - t) / (2**steps - 1) for t in range(1, steps + 1)]
    else:
        worth = [theta / steps] * steps
    half = worth[-1] / 2
    z = x @ w + b
    if cell.left_shift:
        currents = [z] + [0 * z] * (steps - 1)
    else:
        currents = [z / steps] * steps
    spikes = []
    for layer in (1, 2):
        v = np.full(z.shape, half)
        if cell.modified_if:
            v = v + sum(currents)
            currents = [0] * steps
        sent = []
        for t in range(steps):
            v = v + currents[t]
            s = v >= worth[t]
            v = v - s * worth[t]
            sent.append(s)
        spikes.append([int(s.sum()) for s in sent])
        if layer == 1:
            even = np.full(steps, 1 / steps)
            shares = even if cell.bn_shift or not cell.left_shift else np.ones(steps)
            if cell.norm_first:
                shares = np.array(worth) / theta
            currents = [worth[t] * sent[t] @ w + shares[t] * b for t in range(steps)]
    return sum(worth[t] * sent[t] for t in range(steps)) @ w, spikes


@pytest.mark.parametrize(("name", "steps"), list(product(CELLS, (2, 5))))
def test_each_cell_is_what_its_equations_say(name, steps):
    apply_fn, variables, _ = networks.build_pure()
    x = np.random.default_rng(steps).normal(size=(50, 6))
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), variables)
    variables["b"] *= 5
    ours = run(CELLS[name], apply_fn, variables, x, steps)
    output, spikes = transcribed(CELLS[name], variables, x, steps)
    np.testing.assert_array_equal(list(ours.spikes.values()), spikes)
    np.testing.assert_allclose(ours.outputs[-1], output, rtol=1e-12, atol=1e-12)


def test_cells_differ():
    """In what the equations say, which the cells are held to above."""
    _, variables, _ = networks.build_pure()
    x = np.random.default_rng(0).normal(size=(50, 6))
    variables["b"] *= 5
    found = {
        name: transcribed(cell, variables, x, 4)[0]
        for name, cell in CELLS.items()
        if name != "norm_first_modified_if"  # is "all"
    }
    for one, other in combinations(found, 2):
        assert np.abs(found[one] - found[other]).max() > 1e-3, (one, other)


def test_biases_have_nothing_of_the_image():
    apply_fn, variables, x = built(networks.PreActivation)
    found = first_and_biases(apply_fn, variables, x[:1])
    other = first_and_biases(apply_fn, variables, 1 - x[1:2])
    jax.tree.map(np.testing.assert_array_equal, found, other)
    assert [bool(f["first"]) for f in found.values()] == [True] + [False] * 6
    first, *behind = (f["bias"] for f in found.values())
    assert not first.any() and all(b.any() for b in behind)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (Cell(bn_shift=True), "left_shift"),
        (Cell(norm_first=True, modified_if=True), "left_shift"),
        (Cell(left_shift=True, bn_shift=True, norm_first=True), "two ways"),
    ],
)
def test_cells_that_mean_nothing_are_refused(cell, expected):
    with pytest.raises(ValueError, match=expected):
        ablated(cell)
