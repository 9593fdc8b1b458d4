"""Exact as XLA compiles by default: the other tests run as it compiles fast."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import PIXELS, PreActivation, build, lowered

from bitsnn_jax import convert
from bitsnn_jax.conversion.readings import OneShot, Stepped, run
from bitsnn_jax.conversion.rolled import Rolled
from bitsnn_jax.integers.execution import one_shot, stepped
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.numerics.qcfs import grid_codes

DEFAULT: dict[str, int | bool] = {"xla_backend_optimization_level": 3}
if "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]:
    DEFAULT["xla_cpu_use_fusion_emitters"] = True


def test_each_option_changes_the_code():
    def fn(x):
        return jnp.cumsum(jnp.tanh(x * 2 + 1), axis=0)

    def code(**options):
        compiled = jax.jit(fn, **options).lower(jnp.ones((64, 64))).compile()
        return compiled.runtime_executable().serialize()

    without = [{name: type(value)(0)} for name, value in DEFAULT.items()]
    sizes = {len(code(compiler_options=DEFAULT | one)) for one in (*without, {})}
    assert len(sizes) == 1 + len(DEFAULT)


@pytest.mark.parametrize("reading_type", [Stepped, Rolled])
def test_no_code_differs_from_that_of_the_ann(reading_type):
    class ANN(OneShot):
        def observe(self, site, z, a, delta):
            super().observe(site, z, a, delta)
            codes.append(grid_codes(a, delta))

    class SNN(reading_type):
        def observe(self, site, membrane, code, delta):
            super().observe(site, membrane, code, delta)
            snn_codes.append(code)

    codes, snn_codes = [], []
    with jax.enable_x64(True):
        apply_fn, variables, x = build(PreActivation)
        converted = convert(apply_fn, variables, x, steps=4).variables

        def both(variables, converted, x):
            output = run(ANN(steps=4), apply_fn, variables, x)
            snn_output = run(SNN(steps=4), apply_fn, converted, x)
            return output, snn_output, codes, snn_codes

        compiled = jax.jit(both, compiler_options=DEFAULT)
        output, snn_output, *each = compiled(variables, converted, x)
        for code, snn_code in zip(*each, strict=True):
            np.testing.assert_array_equal(code, snn_code)
        # Sums in another order, over at most some thousand terms of order 1.
        np.testing.assert_allclose(output, snn_output, rtol=0, atol=1e-11)


def test_integers_are_the_same_in_every_execution():
    integers = fixed_point(lowered(PreActivation), steps=4)
    first, *others = [
        jax.jit(execution, compiler_options=DEFAULT)(PIXELS)
        for execution in (
            one_shot(integers),
            stepped(integers),
            stepped(integers, unroll=False),
        )
    ]
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first, other)
