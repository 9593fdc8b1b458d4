"""Float64 throughout: variables, and a program whose layers ask for less."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.numerics.qcfs import qcfs
from bitsnn_jax.tracing.equations import apply_equation, module_path, named, parts
from bitsnn_jax.tracing.program import ApplyFn, read, trace
from bitsnn_jax.tracing.reading import Reading
from bitsnn_jax.tracing.values import Analog


def in_float64(variables: Any) -> Any:
    """Copy a pytree with its floating arrays in float64, everything else as it is.

    Integers, masks and random keys stay. For `verify`, inside `jax.enable_x64(True)`.

    >>> tree = in_float64({"w": jnp.ones(2), "count": np.int32(3)})
    >>> tree["w"].dtype, tree["count"].dtype
    (dtype('float64'), dtype('int32'))
    """

    def widen(leaf):
        dtype = jnp.result_type(leaf)
        return np.asarray(leaf, np.float64) if _is_floating(dtype) else leaf

    return jax.tree.map(widen, variables)


def narrow_layers(apply_fn: ApplyFn, variables: Any, x: Any) -> tuple[str, ...]:
    """Find modules that compute in less than float64, though given float64.

    Layers with dtype=float32 do so. Empty outside `jax.enable_x64`, or if neither
    variables nor input are float64.
    """
    leaves = jax.tree.leaves((variables, x))
    if not any(getattr(leaf, "dtype", None) == np.float64 for leaf in leaves):
        return ()
    program, _ = trace(apply_fn, variables, x)
    return tuple(dict.fromkeys(_casts(program.jaxpr, ())))


def _casts(jaxpr, scope):
    for eqn in jaxpr.eqns:
        inside = (*scope, *module_path(eqn))
        if eqn.primitive.name == "convert_element_type":
            old, new = eqn.invars[0].aval.dtype, np.dtype(eqn.params["new_dtype"])
            if old == np.float64 and _is_floating(new) and new != np.float64:
                yield "/".join(inside[1:] or inside) or "the program"
        for part in parts(eqn):
            yield from _casts(part.jaxpr, inside)


def widened(apply_fn: ApplyFn) -> ApplyFn:
    """Run the network in float64 from end to end, whatever its layers ask for.

    Gradient: not supported; it is for `verify`.

    Args:
      apply_fn: pure, (variables, x) -> output, given float64.
    """

    @functools.wraps(apply_fn)
    def widened_fn(variables, x):
        program, shapes = trace(apply_fn, variables, x)
        flat = map(jax.tree.leaves, (variables, x))
        results = read(_Widened(), program, *flat)
        return jax.tree.unflatten(
            jax.tree.structure(shapes), [r.value for r in results]
        )

    return widened_fn


class _Widened(Reading):
    """The network itself, every floating value in float64."""

    enters_all = True

    def neuron(self, site, z, theta):
        with named(("network", site.path)):
            a = qcfs(_wide(z.value), _wide(theta.value), levels=site.levels)
        return Analog(a)

    def timeless(self, eqn, values, scope):
        with named(scope):
            return self.plain(eqn, values)

    def bind(self, eqn, arrays):
        if parts(eqn):  # a loop without neurons keeps its own types
            arrays = [
                jnp.asarray(a, v.aval.dtype) if _is_floating(v.aval.dtype) else a
                for a, v in zip(arrays, eqn.invars, strict=True)
            ]
            return [_wide(y) for y in apply_equation(eqn, arrays)]
        types = {
            name: np.dtype("float64")
            for name in ("new_dtype", "preferred_element_type", "dtype")
            if eqn.params.get(name) is not None and _is_floating(eqn.params[name])
        }
        eqn = eqn.replace(params=eqn.params | types)
        return apply_equation(eqn, [_wide(a) for a in arrays])


def _wide(array):
    dtype = jnp.result_type(array)
    return jnp.asarray(array, jnp.float64) if _is_floating(dtype) else array


def _is_floating(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.floating)
