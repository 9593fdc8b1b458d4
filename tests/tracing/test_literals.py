"""Numbers that a program says itself: they decide on its control flow."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from bitsnn_jax.tracing.literals import number
from bitsnn_jax.tracing.program import read, trace
from bitsnn_jax.tracing.reading import Reading

KNOWN = {
    "a literal": (lambda v, x: 3.0, 3.0),
    "arithmetic": (lambda v, x: jnp.sqrt(jnp.float32(16)) - 1, 3.0),
    "repeated": (lambda v, x: jnp.full((2, 2), 3.0).reshape(4), 3.0),
    "of a function": (lambda v, x: jax.jit(lambda a: a * 2)(1.5), 3.0),
    "a count": (lambda v, x: lax.fori_loop(0, 3, lambda i, n: n + 1, 0), 3),
}
UNKNOWN = {
    "a variable": lambda v, x: v,
    "the input": lambda v, x: x * 0,
    "an array": lambda v, x: jnp.arange(3.0),
    "of both": lambda v, x: v * 3.0,
    "a sum": lambda v, x: jnp.ones(3).sum(),
    "a random key": lambda v, x: jax.random.key(0),
}


def numbers(fn):
    program, _ = trace(fn, jnp.float32(2), jnp.float32(5))
    return number(read(Reading(), program, [jnp.float32(2)], [jnp.float32(5)])[0])


@pytest.mark.parametrize("fn, want", KNOWN.values(), ids=KNOWN)
def test_what_the_program_alone_decides_is_known(fn, want):
    assert numbers(fn) == want


@pytest.mark.parametrize("fn", UNKNOWN.values(), ids=UNKNOWN)
def test_what_a_variable_or_the_input_decides_is_not(fn):
    assert numbers(fn) is None
