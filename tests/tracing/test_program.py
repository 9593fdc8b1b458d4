"""The walk through a traced program: which method of a reading has which operation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bitsnn_jax import qcfs
from bitsnn_jax.tracing.equations import parts_of_scan
from bitsnn_jax.tracing.program import read, trace
from bitsnn_jax.tracing.reading import Reading, SpikingError
from bitsnn_jax.tracing.values import Analog, Constant, Current


class Asked(Reading):
    """Keeps which method each operation came to."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked = []

    def _outputs(self, eqn, method):
        self.asked.append((eqn.primitive.name, method))
        return [Current(None) for _ in eqn.outvars]

    def neuron(self, site, z, theta):
        self.asked.append((site.path, "neuron"))
        return Current(None, site.sizes)

    def plain(self, eqn, values):
        self.asked.append((eqn.primitive.name, "plain"))
        constant = all(isinstance(v, Constant) for v in values)
        return [(Constant if constant else Analog)(1.0) for _ in eqn.outvars]

    def linear(self, eqn, values, operands, path):
        return self._outputs(eqn, "linear")

    def maximum(self, eqn, spikes, sizes):
        self.asked.append((eqn.primitive.name, "maximum"))
        return Current(None, sizes)

    def decode(self, current, path):
        self.asked.append((path, "decode"))
        return Analog(None)


class Multiplies(Asked):
    def product(self, eqn, values, streamed, path):
        return self._outputs(eqn, "product")


def asked(net, reading=Asked, **options):
    x = jnp.ones((2, 3))
    program, _ = trace(lambda v, x: net(qcfs(x, v)), jnp.ones(()), x)
    reading = reading(**options)
    read(reading, program, [Constant(1.0)], [None])
    return reading.asked[reading.asked.index(("neuron", "neuron")) + 1 :]


OPERATIONS = {
    "jit": (lambda s: jax.jit(lambda s: s * 2)(s), [("mul", "linear")]),
    "scan of none": (lambda s: lax.fori_loop(0, 0, lambda _, s: s * 2, s), []),
    "loop": (
        lambda s: lax.fori_loop(0, 2, lambda _, s: -s, s),
        [("neg", "linear")] * 2,
    ),
    "add": (lambda s: s + s, [("add", "linear")]),
    "divide": (lambda s: s / 3, [("div", "linear")]),
    "maximum": (lambda s: s.max(0), [("reduce_max", "maximum")]),
    "neurons": (
        lambda s: qcfs(s, 1.0),
        [("reshape", "plain"), ("neuron@2", "neuron")],
    ),
    "constants": (
        lambda s: s * jnp.exp(jnp.arange(3.0)),
        [("iota", "plain"), ("exp", "plain"), ("broadcast_in_dim", "plain")]
        + [("mul", "linear")],
    ),
    "nonlinear": (lambda s: jnp.tanh(s), [("", "decode"), ("tanh", "plain")]),
    "maximum of sums": (
        lambda s: (s + s).max(0),
        [("add", "linear"), ("", "decode"), ("reduce_max", "plain")],
    ),
}


@pytest.mark.parametrize("net, methods", OPERATIONS.values(), ids=OPERATIONS)
def test_each_operation_comes_to_one_method(net, methods):
    assert asked(net, nonspiking="decode") == methods


PRODUCTS = {
    "mul": lambda s: s * s,
    "dot_general": lambda s: s @ s.T,
    "conv_general_dilated": lambda s: jnp.convolve(s[0], s[1]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_of_two_currents_is_for_the_reading_to_do(name):
    assert (name, "product") in asked(PRODUCTS[name], Multiplies)
    with pytest.raises(SpikingError, match=rf"`{name}` \(current, current\)"):
        asked(PRODUCTS[name])


def test_what_is_linear_in_one_operand_only_is_no_product():
    with pytest.raises(SpikingError, match=r"`div` \(current, current\)"):
        asked(lambda s: s / s, Multiplies)
    assert ("mul", "linear") in asked(lambda s: s * 2, Multiplies)


class Itself(Reading):
    """The network, done as it is."""

    def neuron(self, site, z, theta):
        a = qcfs(z.value, theta.value, levels=site.levels)
        return Analog(a)


def layer(carry, weight):
    carry = qcfs(carry * weight, 4.0, levels=15)
    return carry, (carry.sum(), weight)


@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_written_out_a_scan_has_the_same_results(length, reverse):
    weights, x = jnp.linspace(0.5, 2, length), jnp.array([0.3, 1.1])

    def net(weights, x):
        return lax.scan(layer, x, weights, reverse=reverse)

    program, shapes = trace(net, weights, x)
    reading = Itself()
    results = read(reading, program, [weights], [x])
    tree = jax.tree.structure(shapes)
    got = jax.tree.unflatten(tree, [r.value for r in results])
    jax.tree.map(np.testing.assert_array_equal, got, net(weights, x))
    assert len(reading.sites) == length


@pytest.mark.parametrize("length", [0, 3])
def test_operands_of_a_scan_are_told_apart_by_their_axes(length):
    def net(weight, x):
        def body(carry, layer):
            return (carry[0] * weight, carry[1] + 1), (layer["a"].sum(), carry[1])

        layers = {"a": jnp.ones((length, 2)), "b": jnp.ones((length, 1))}
        return lax.scan(body, (x, x[None]), layers)

    program, _ = trace(net, jnp.ones(()), jnp.ones(()))
    [scan] = [eqn for eqn in program.eqns if eqn.primitive.name == "scan"]
    assert parts_of_scan(scan) == (1, 2)
