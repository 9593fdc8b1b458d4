"""From a product of two currents in the program to products of nodes."""

import numpy as np
from jax.extend.core import JaxprEqn

from bitsnn_jax.integers.contractions import Contraction, contraction
from bitsnn_jax.integers.folding import extended, shrunk, transposed
from bitsnn_jax.integers.graph import Held, Reshape, Scale, Term
from bitsnn_jax.integers.linear_rules import Affine, LoweringError

Shape = tuple[int, ...]


def product_terms(
    eqn: JaxprEqn, streamed: Affine, held: Affine, index: int, path: str
) -> list[tuple[Term, np.ndarray]]:
    """Write a product down: a term for each train that is streamed.

    Args:
      eqn: a `mul` or `dot_general`.
      streamed: operand `index`: terms of spikes without weights, and no constant.
      held: the other one: a single term without weights.
      path: of the module.

    Returns:
      Terms, each with the factor that is left: their product is the result.

    Raises:
      LoweringError: a convolution, a scale that differs along an axis that is added up.
    """
    if eqn.primitive.name not in ("mul", "dot_general"):
        raise LoweringError(
            f"{path}: `{eqn.primitive.name}` of two values that depend on the input "
            "cannot be lowered; sums of products can"
        )
    form = contraction(eqn, index)
    [kernel] = held.terms
    kernel = transposed(kernel, form.kernel_order, held.shape)
    shape = tuple(held.shape[axis] for axis in form.kernel_order)
    kernel_shape = form.groups, form.inner, form.outer
    kernel = extended(kernel, Reshape(kernel_shape), shape)
    weight = Held(kernel.source, kernel.before, kernel_shape)
    theirs = np.broadcast_to(_factor(kernel), kernel_shape)
    made = []
    for term in streamed.terms:
        term = transposed(term, form.order, streamed.shape)
        shape = tuple(streamed.shape[axis] for axis in form.order)
        flat = form.rows, form.groups * form.inner
        term = extended(term, Reshape(flat), shape)
        mine = np.broadcast_to(_factor(term), flat)
        factor = _combined(mine, theirs, form, path)
        product = Term(term.source, term.before, weight, ())
        made.append((_arranged(product, form), factor))
    return made


def _factor(term: Term) -> np.ndarray:
    assert isinstance(term.weight, Scale), "the caller makes a node first"
    return term.weight.factor


def _arranged(term: Term, form: Contraction) -> Term:
    """Give the term the shape of the result."""
    shape = form.rows, form.groups * form.outer
    term = extended(term, Reshape(form.result), shape)
    return transposed(term, form.result_order, form.result)


def _combined(mine, theirs, form: Contraction, path: str) -> np.ndarray:
    """Return the factor of the result, from those of both operands."""
    mine = mine.reshape(form.rows, form.groups, form.inner)
    for factor, axis in ((mine, 2), (theirs, 1)):
        if (factor != factor.take([0], axis)).any():
            raise LoweringError(
                f"{path}: numbers that are added up have different thresholds or "
                "scales; use one threshold along the axis that a product adds up"
            )
    factor = mine[..., :1] * theirs[:, 0]
    return shrunk(factor.reshape(form.result).transpose(form.result_order))


def is_one_node(value: Affine) -> bool:
    """Tell whether it is a node, moved and scaled."""
    return (
        len(value.terms) == 1
        and isinstance(value.terms[0].weight, Scale)
        and not value.terms[0].after
        and not np.any(value.constant)
    )
