"""Certificates: a network and its spiking form, compared on every image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from msgspec import structs

from bitsnn_jax.conversion.bias_shift import convert
from bitsnn_jax.conversion.certificate import Certificate, certifier
from bitsnn_jax.conversion.readings import OneShot, run
from bitsnn_jax.jobs.sources import Network
from bitsnn_jax.results.conversion import Apart, CertificateResult, LayerCodes
from bitsnn_jax.tasks import Deviation
from bitsnn_jax.tracing.precision import in_float64, narrow_layers, widened
from bitsnn_jax.tracing.program import ApplyFn

# At most: all codes of a batch are in memory.
BATCH = 128
CODES = 2**27


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A network and its spiking form in one precision.

    Attributes:
      apply_fn: (variables, images) -> logits.
      variables: of the network.
      converted: of its spiking form.
      steps: T.
      precision: "float32" or "float64".
    """

    apply_fn: ApplyFn
    variables: Any
    converted: Any
    steps: int
    precision: str


def certificates(
    network: Network,
    converted: Any,
    *,
    steps: int,
    precisions: Sequence[str],
    coding: str = "bits",
) -> dict[str, CertificateResult]:
    """Compare a network with its spiking form, code by code.

    Args:
      network: with QCFS.
      converted: variables of its spiking form, in float32. In float64 its exact
        counterpart is compared, see `exact_pair`.
      steps: T.
      precisions: "float64", "float32", both or none.
      coding: of the spikes, as in `spiking`.
    """
    found = {}
    for precision in precisions:
        if precision == "float64":
            pair = exact_pair(network, steps=steps)
        else:
            pair = Pair(
                apply_fn=network.apply_fn,
                variables=network.variables,
                converted=converted,
                steps=steps,
                precision=precision,
            )
        found[precision] = certify(pair, network, coding=coding)
    return found


def exact_pair(network: Network, *, steps: int) -> Pair:
    """Convert a network in float64: biases shifted in float32 would not be exact."""
    apply_fn = network.apply_fn
    with jax.enable_x64(True):
        variables = in_float64(network.variables)
        example = jax.tree.map(_shape_in_float64, network.placeholder)
        if narrow_layers(apply_fn, variables, example):  # as with model.dtype
            apply_fn = widened(apply_fn)
        converted = convert(
            apply_fn, variables, example, steps=steps, nonspiking=network.nonspiking
        ).variables
    return Pair(
        apply_fn=apply_fn,
        variables=variables,
        converted=converted,
        steps=steps,
        precision="float64",
    )


def _shape_in_float64(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    wide = np.float64 if np.issubdtype(x.dtype, np.floating) else x.dtype
    return jax.ShapeDtypeStruct(x.shape, wide)


def certify(pair: Pair, network: Network, *, coding: str = "bits") -> CertificateResult:
    """Compare a pair on all examples of a network; `coding` is that of `spiking`."""
    task, examples = network.task, network.examples
    most = max(1, min(BATCH, CODES // _codes_of_one(network)))
    batches = task.eval_batches(
        network.config.data, examples, batch_size=_even_batch(len(examples), most)
    )
    deviations: list[Deviation] = []

    def take(*outputs):
        ann, snn = (jax.tree.map(np.asarray, task.predictions(o)) for o in outputs)
        deviations.append(task.deviation(snn, ann))

    shown = (_examples_of(task.inputs(b), b["mask"], pair.precision) for b in batches)
    with jax.enable_x64(pair.precision == "float64"):
        compare = certifier(
            pair.apply_fn,
            pair.variables,
            pair.converted,
            steps=pair.steps,
            nonspiking=network.nonspiking,
            coding=coding,
            take=take,
        )
        first = compare(next(shown))
        certificate = sum(map(compare, shown), first)
    return structs.replace(_result(certificate), **_predictions(deviations))


def _examples_of(inputs: Any, mask: Any, precision: str) -> Any:
    """Leave out the rows that only fill up a batch; floats in the precision."""

    def rows(x):
        kept = x[mask]
        is_float = np.issubdtype(kept.dtype, np.floating)
        return kept.astype(precision) if is_float else kept

    return jax.tree.map(rows, inputs)


def _codes_of_one(network: Network) -> int:
    """Count the neurons of a network, of one example."""
    reading = OneShot(steps=1)
    fused = partial(run, reading, network.apply_fn)
    jax.eval_shape(fused, network.variables, network.placeholder)
    return sum(math.prod(site.shape) for site in reading.sites) or 1


def _even_batch(count: int, most: int) -> int:
    """Find the largest batch without a smaller last one, which would compile anew."""
    even = [n for n in range(1, most + 1) if count % n == 0]
    return max(even) if max(even) > most // 8 else most


def _predictions(deviations: Sequence[Deviation]) -> dict[str, Any]:
    whole = Deviation.merge(*deviations)
    return {"predictions_differing": whole.total, "apart": apart(whole)}


def apart(deviation: Deviation) -> tuple[Apart, ...]:
    """Write down the largest distances."""
    return tuple(
        Apart(part=part, largest=largest, unit=unit)
        for (part, unit), largest in deviation.largest().items()
    )


def _result(certificate: Certificate) -> CertificateResult:
    return CertificateResult(
        exact=certificate.exact,
        examples=certificate.examples,
        examples_differing=certificate.examples_differing,
        neurons=certificate.neurons,
        differing=certificate.differing,
        largest_output_difference=certificate.largest_output_difference,
        outputs_agree=certificate.outputs_agree,
        layers=tuple(
            LayerCodes(path=path, **layer._asdict())
            for path, layer in certificate.layers.items()
        ),
    )
