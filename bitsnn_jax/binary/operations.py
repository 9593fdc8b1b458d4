"""What a binary network does in inference, counted operation by operation.

The names are those of `integers.operations`, and counts mean what they mean there; a
product of signs is one more kind. Counted are hardware's best ways: a norm and the sign
of it is one comparison with a threshold, a norm of a real convolution is its bias,
weights that a mask left out are skipped, and so are bits that are 0. Poolings and ReLUs
are free.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

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
) -> Callable[[Any, Any], dict[str, int]]:
    """Return (variables, inputs) -> counts by kind, summed over all inputs.

        binary_products       products of a sign by a sign, each with its share of the
                              sum
        multiply_accumulates  products by a real weight, factor or norm
        synaptic_operations   additions of a weight for a bit that is 1, or of a number
                              for a weight that is a sign
        bias_additions        additions of a bias, a residual, or in a mean
        compares              with thresholds

    Counts of an image and a channel are int32, and are added up as integers of Python.

    Args:
      apply_fn: applies a binary network in inference.
    """

    @jax.jit
    def counted(variables: Any, inputs: Any) -> dict[str, list[jax.Array]]:
        found: dict[str, list[jax.Array]] = {kind: [] for kind in KINDS}
        images = len(jax.tree.leaves(inputs)[0])

        def watch(call, args, options, context):
            outputs = call(*args, **options)
            for kind, number in _rules(context, args, outputs):
                if isinstance(number, int):  # alike for every image
                    number = jnp.full(images, number // images, jnp.int32)
                found[kind].append(number)
            return outputs

        with nn.intercept_methods(watch):
            apply_fn(variables, inputs)
        return found

    def run(variables: Any, inputs: Any) -> dict[str, int]:
        return {
            kind: sum(int(np.asarray(part).sum(dtype=np.int64)) for part in parts)
            for kind, parts in counted(variables, inputs).items()
        }

    return run


def total(counts: Iterable[dict[str, int]]) -> Counter[str]:
    """Add up the counts of batches."""
    found: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    for each in counts:
        found.update(each)
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
            sent = (args[0] != 0).reshape(len(outputs), -1)
            yield "synaptic_operations", sent.sum(1) * layer.features
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
    """Count the products of entries and weights that are both not 0.

    Returns:
      int32 [n, channels].
    """
    sums = convolve(x.astype(jnp.float32), kernel.astype(jnp.float32))
    return sums.astype(jnp.int32).sum(tuple(range(1, sums.ndim - 1)))
