"""What a binary network does in inference, counted operation by operation.

The names are those of `integers.operations`, and counts mean what they mean there; a
product of signs is one more kind. Counted are hardware's best ways: a norm and the sign
of it is one comparison with a threshold, a norm of a real convolution is its bias,
weights that a mask left out are skipped, and so are bits that are 0. Poolings and ReLUs
are free.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bitsnn_jax.binary.execution import of_signs
from bitsnn_jax.binary.layers import NormSign, Sign, convolve
from bitsnn_jax.binary.meliusnet import MeliusBlock
from bitsnn_jax.binary.pokebnn import DPReLU, PokeConv, SqueezeExcite
from bitsnn_jax.binary.sakr import BitConv, BitDense, ClipStep
from bitsnn_jax.numerics.layers import ConvNorm

PRODUCTS = "binary_products"
KINDS = (
    PRODUCTS,
    "multiply_accumulates",
    "synaptic_operations",
    "bias_additions",
    "compares",
)


def counting(
    apply_fn: Callable[[Any, Any], Any],
) -> Callable[[Any, Any], dict[str, jax.Array]]:
    """Return (variables, inputs) -> counts by kind, summed over all inputs.

        binary_products       products of a sign by a sign, each with its share of the
                              sum
        multiply_accumulates  products by a real weight, factor or norm
        synaptic_operations   additions of a weight for a bit that is 1, or of a number
                              for a weight that is a sign
        bias_additions        additions of a bias, a residual, or in a mean
        compares              with thresholds

    Sums are int32: about a hundred images at a time.

    Args:
      apply_fn: applies a binary network in inference.
    """

    def counted(variables: Any, inputs: Any) -> dict[str, jax.Array]:
        found = dict.fromkeys(KINDS, jnp.zeros((), jnp.int32))

        def watch(call, args, options, context):
            outputs = call(*args, **options)
            for kind, number in _rules(context, args, outputs):
                found[kind] += number
            return outputs

        with nn.intercept_methods(watch):
            apply_fn(variables, inputs)
        return found

    return jax.jit(counted)


def total(counts: Iterator[dict[str, jax.Array]]) -> Counter[str]:
    """Add up the counts of batches, as integers of Python."""
    found: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    for each in counts:
        found.update({kind: int(number) for kind, number in each.items()})
    return found


def _rules(context, args, outputs) -> Iterator[tuple[str, Any]]:
    """Yield (kind, number) of one call of a method of a module."""
    layer = context.module
    if context.method_name == "product":
        x, signs = args
        kind = PRODUCTS if of_signs(context) else "synaptic_operations"
        yield kind, _paths(jnp.ones_like(x), signs != 0)
        return
    if context.method_name != "__call__":
        return
    match layer:
        case Sign() | ClipStep():
            yield "compares", outputs.size
        case nn.BatchNorm():
            if isinstance(layer.parent, ConvNorm):
                yield "bias_additions", outputs.size
            elif not isinstance(layer.parent, NormSign):
                yield "multiply_accumulates", outputs.size
        case nn.Conv():
            of_bits = isinstance(layer.parent, BitConv)
            kind = "synaptic_operations" if of_bits else "multiply_accumulates"
            sent = args[0] != 0 if of_bits else jnp.ones_like(args[0])
            yield kind, _paths(sent, jnp.ones_like(layer.variables["params"]["kernel"]))
        case BitDense():
            yield "synaptic_operations", (args[0] != 0).sum() * layer.features
            yield "bias_additions", outputs.size
        case nn.Dense():
            yield "multiply_accumulates", args[0].size * layer.features
            yield "bias_additions", outputs.size
        case DPReLU():  # x - a, a slope, and - b
            yield "multiply_accumulates", outputs.size
            yield "bias_additions", outputs.size
            yield "compares", outputs.size
        case PokeConv():  # the residual, and the factor
            yield "multiply_accumulates", outputs.size
        case SqueezeExcite():  # the mean
            yield "bias_additions", args[0].size
        case MeliusBlock():  # the improvement
            yield "bias_additions", outputs[..., : layer.growth].size


def _paths(x, kernel):
    """Count the products of entries and weights that are both not 0."""
    sums = convolve(x.astype(jnp.float32), kernel.astype(jnp.float32))
    return sums.astype(jnp.int32).sum()
