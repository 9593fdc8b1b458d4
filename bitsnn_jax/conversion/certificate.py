"""The proof by comparison: the ANN and its spiking network, code by code."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.conversion.bias_shift import convert
from bitsnn_jax.conversion.readings import OneShot, Stepped, run
from bitsnn_jax.numerics.qcfs import grid_codes
from bitsnn_jax.tracing.independence import warn_unless_apart
from bitsnn_jax.tracing.precision import narrow_layers, widened
from bitsnn_jax.tracing.program import ApplyFn
from bitsnn_jax.tracing.sites import check_theta


class LayerCertificate(NamedTuple):
    """One layer of neurons, over everything compared.

    Attributes:
      neurons: how many codes were compared.
      differing: how many of these differ.
      largest_membrane_difference: of u(1) before the first spike, in units of theta/L.
    """

    neurons: int
    differing: int
    largest_membrane_difference: float


@dataclass(frozen=True)
class Certificate:
    """The result of comparing an ANN with its stepped SNN. Certificates can be added.

    Attributes:
      steps: T.
      layers: path -> LayerCertificate, in the order of firing.
      largest_output_difference: between the outputs, in their own units.
      outputs_agree: whether this is rounding: at most sqrt(eps) of the largest output.
      examples: rows of x along axis 0.
      examples_differing: how many of these have a differing code; None if the network
        does not keep examples apart along axis 0.
      widened: modules that ask for a narrower type than the float64 they are given;
        they were computed in float64 here.
    """

    steps: int
    layers: dict[str, LayerCertificate]
    largest_output_difference: float
    outputs_agree: bool
    examples: int
    examples_differing: int | None
    widened: tuple[str, ...] = ()

    @property
    def neurons(self) -> int:
        return sum(layer.neurons for layer in self.layers.values())

    @property
    def differing(self) -> int:
        return sum(layer.differing for layer in self.layers.values())

    @property
    def exact(self) -> bool:
        """True when neurons were compared, no code differs, and the outputs agree."""
        return self.neurons > 0 and self.differing == 0 and self.outputs_agree

    def __add__(self, other: "Certificate") -> "Certificate":
        if self.steps != other.steps or self.layers.keys() != other.layers.keys():
            raise ValueError(
                "certificates of different networks or steps do not add up"
            )
        layers = {
            path: LayerCertificate(
                a.neurons + b.neurons,
                a.differing + b.differing,
                # NumPy's maximum, which keeps NaN.
                float(
                    np.maximum(
                        a.largest_membrane_difference, b.largest_membrane_difference
                    )
                ),
            )
            for path, a in self.layers.items()
            for b in [other.layers[path]]
        }
        largest = float(
            np.maximum(self.largest_output_difference, other.largest_output_difference)
        )
        agree = self.outputs_agree and other.outputs_agree
        a, b = self.examples_differing, other.examples_differing
        differing = None if a is None or b is None else a + b
        examples = self.examples + other.examples
        return Certificate(
            self.steps, layers, largest, agree, examples, differing, self.widened
        )

    def __str__(self) -> str:
        verdict = "exact" if self.exact else "NOT exact"
        count = f"{self.differing} of {self.neurons} codes differ"
        head = f"{verdict}: {count} on {self.examples} examples, T = {self.steps}"
        rows = [
            f"  {path:<40} {c.neurons:>12} {c.differing:>8} "
            f"{c.largest_membrane_difference:9.2e}"
            for path, c in self.layers.items()
        ]
        title = f"  {'layer':<40} {'neurons':>12} {'differ':>8} {'membrane':>9}"
        output = f"  largest difference of outputs {self.largest_output_difference:.2e}"
        lines = [head, title, *rows, output]
        if self.widened:
            shown = ", ".join(self.widened[:4])
            more = f" and {len(self.widened) - 4} more" if self.widened[4:] else ""
            lines.append(f"  in float64, though they ask for less: {shown}{more}")
        return "\n".join(lines)


def verify(
    apply_fn: ApplyFn,
    variables: Any,
    x: Any,
    *,
    steps: int,
    snn_variables: Any = None,
    bias_shift: str = "parameters",
    nonspiking: str = "error",
    batch_size: int | None = None,
    coding: str = "bits",
) -> Certificate:
    """Run the ANN and its stepped SNN side by side and compare every code.

    The ANN is re-quantised to levels 2**T - 1, which changes nothing if it was trained
    with these levels. (levels = 2**T keeps its own grid, whose top code does not fit T
    bits: a saturated neuron then counts as a difference.) Each network is fed by its
    own activations, so a difference in one layer is carried on to the next, as in use.

    Args:
      apply_fn: pure, (variables, x) -> output.
      variables: the ANN's. In float64 a difference means an error. In float32 a code
        differs now and then, because summation order differs. Given float64, layers
        that ask for less (dtype=float32) are still computed in float64 and named in
        `widened`: the network is certified, not its rounding.
      x: input, or a pytree of inputs.
      steps: T.
      snn_variables: the converted variables to examine; by default made here.
      bias_shift: as in `spiking`; "auto" examines the unconverted variables.
      nonspiking: as in `spiking`.
      batch_size: compare this many along axis 0 of x at a time, to bound the memory.
      coding: as in `spiking`.

    Returns:
      Certificate; `exact` is True when no code differs and the outputs agree.

    Raises:
      ValueError: no examples, a batch size below 1, and as `convert` and `spiking`.

    >>> from bitsnn_jax import qcfs
    >>> net = lambda v, x: qcfs(qcfs(x, 2.0) @ v["kernel"] + v["bias"], 1.0)
    >>> variables = {"kernel": jnp.eye(3) / 2, "bias": jnp.full(3, 0.2)}
    >>> certificate = verify(net, variables, jnp.full((5, 3), 0.9), steps=4)
    >>> certificate.exact, certificate.neurons
    (True, 30)
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
    if not shapes or any(shape[:1] in ((), (0,)) for shape in shapes):
        raise ValueError("x must be a batch of at least one example along axis 0")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    first, *rest = _batches(x, batch_size)
    narrow = narrow_layers(apply_fn, variables, first)
    if narrow:
        apply_fn = widened(apply_fn)
    if bias_shift == "auto":
        snn_variables = variables
    if snn_variables is not None:  # else `convert` looks
        warn_unless_apart(apply_fn, variables, first)
    else:
        snn_variables = convert(
            apply_fn, variables, first, steps=steps, nonspiking=nonspiking
        ).variables
    options = {"bias_shift": bias_shift, "nonspiking": nonspiking, "coding": coding}
    certify = certifier(apply_fn, variables, snn_variables, steps=steps, **options)
    return replace(sum(map(certify, rest), certify(first)), widened=narrow)


def certifier(
    apply_fn: ApplyFn,
    variables: Any,
    snn_variables: Any,
    *,
    steps: int,
    bias_shift: str = "parameters",
    nonspiking: str = "error",
    coding: str = "bits",
    take: Callable[[Any, Any], None] | None = None,
) -> Callable[[Any], Certificate]:
    """Make `verify` a function x -> Certificate, for batches that come one by one.

    Compiles once for each shape of x. Add the certificates of the batches.

    Args:
      coding: as in `spiking`.
      take: is given the outputs of both networks for each batch, the ANN's first.
    """

    @jax.jit
    def compare(variables, snn_variables, x):
        ann = _WatchedANN(steps=steps, saturate=False, nonspiking=nonspiking)
        snn = _WatchedSNN(
            steps=steps, bias_shift=bias_shift, nonspiking=nonspiking, coding=coding
        )
        ann_output = run(ann, apply_fn, variables, x)
        snn_output = run(snn, apply_fn, snn_variables, x)
        layers = OrderedDict(
            (site.path, (*_compare_layer(*pair), site.levels * jnp.min(pair[0][2])))
            for site, *pair in zip(ann.sites, ann.seen, snn.seen, strict=True)
        )
        pairs = [(a[1], b[1]) for a, b in zip(ann.seen, snn.seen, strict=True)]
        results = map(jax.tree.leaves, (ann_output, snn_output))
        outputs = [_compare_outputs(a, b) for a, b in zip(*results, strict=True)]
        rows = _examples_differing(pairs, _num_examples(x))
        return (layers, outputs, rows), (ann_output, snn_output) if take else None

    def certify(x):
        found, both = jax.device_get(compare(variables, snn_variables, x))
        layers, outputs, rows = found
        if take:
            take(*both)
        for path, (*_, theta) in layers.items():
            check_theta(theta, path)
        cast = {
            path: LayerCertificate(int(n), int(d), float(u))
            for path, (n, d, u, _) in layers.items()
        }
        apart, scale, eps = np.array(outputs or [(0.0, 0.0, 0.0)]).T
        agree = bool(np.all(apart <= np.sqrt(eps) * scale))
        rows = None if rows is None else int(rows)
        return Certificate(
            steps, cast, float(np.max(apart)), agree, _num_examples(x), rows
        )

    return certify


def _batches(x, batch_size) -> list[Any]:
    if batch_size is None:
        return [x]
    return [
        jax.tree.map(lambda a, i=i: a[i : i + batch_size], x)
        for i in range(0, _num_examples(x), batch_size)
    ]


def _num_examples(x) -> int:
    return jnp.shape(jax.tree.leaves(x)[0])[0]


class _WatchedANN(OneShot):
    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def observe(self, site, z, a, delta) -> None:
        self.seen.append((z + delta / 2, grid_codes(a, delta), delta))


class _WatchedSNN(Stepped):
    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def observe(self, site, membrane, code, delta) -> None:
        self.seen.append((membrane, code))


def _compare_layer(ann, snn):
    (ann_membrane, ann_code, delta), (membrane, code) = ann, snn
    gap = ann_membrane - membrane
    unequal = (ann_code != code.astype(ann_code.dtype)) | ~jnp.isfinite(gap)
    differing = jnp.sum(unequal, dtype=jnp.int32)
    apart = _largest_difference(ann_membrane / delta, membrane / delta)
    return np.int32(ann_code.size), differing, apart


def _compare_outputs(a, b):
    """Compare: (largest difference, largest value, eps); eps is 0 without rounding."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    if not jnp.issubdtype(a.dtype, jnp.floating):
        return jnp.any(a != b).astype(float), jnp.zeros(()), 0.0
    scale = jnp.max(jnp.abs(a), initial=0).astype(jnp.float32)
    return _largest_difference(a, b), scale, float(jnp.finfo(a.dtype).eps)


def _examples_differing(pairs, num_examples):
    """Find rows in which any code differs; None if some layer has no such rows."""
    if any(code.shape[:1] != (num_examples,) for code, _ in pairs):
        return None
    rows = jnp.zeros(num_examples, bool)
    for ann_code, code in pairs:
        unequal = ann_code != code.astype(ann_code.dtype)
        rows |= unequal.reshape(num_examples, -1).any(1)
    return rows.sum(dtype=jnp.int32)


def _largest_difference(a, b) -> jax.Array:
    return jnp.max(jnp.abs(a - b), initial=0).astype(jnp.float32)
