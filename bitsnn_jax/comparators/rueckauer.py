"""Normalisation by the 99.9th percentile, for ReLU networks (Rueckauer et al., 2017).

    theta = the value that 99.9 % of a layer's positive activations do not exceed
    v(0) = 0;   v(t) = v(t-1) + I(t);   s(t) = H(v(t) - theta);   v(t) -= theta s(t)

One threshold a layer, for activations over the training images: here the calibration
images. The largest activation, as Diehl et al. 2015 take it, is an outlier of which all
others are a small part, so that neurons would rarely fire. The paper scales weights
instead of thresholds, which is the same, and feeds the image as a current at each step,
as all methods do here. As in its code, silent neurons have no part in the percentile,
which is exact; that of `conversion.calibration` is one of 97 candidates, and of all z.

Differs from the paper: max pooling takes the maximum of each step's spikes, where the
paper lets the unit pass that has fired most.
"""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from bitsnn_jax.comparators.method import Method, Network
from bitsnn_jax.comparators.observe import relu, replaced
from bitsnn_jax.comparators.qcfs import empty, neuron

PERCENTILE = 99.9


def prepare(network: Network, batches: Iterable[Any], steps: int) -> Network:
    """Find {path: {"theta": []}}, whatever T is.

    Raises:
      ValueError: there are no batches, or a layer has no positive activation.
    """
    run = jax.jit(replaced(network.apply_fn, relu))
    images = sum(len(jax.tree.leaves(x)[0]) for x in batches)
    tops: dict[str, _Top] = {}
    for x in batches:
        for path, z in jax.device_get(run(network.variables, x)[1]).items():
            tops.setdefault(path, _Top(images * z[0].size)).add(np.ravel(z))
    if not tops:
        raise ValueError("expected batches of images to calibrate with, got none")
    thetas = {path: {"theta": top.percentile(path)} for path, top in tops.items()}
    return network._replace(found=thetas)


class _Top:
    """The largest of so many values, of which the positive ones are counted.

    What is not among them lies below the percentile, even if all are positive.
    """

    def __init__(self, values: int):
        self.most = int(np.ceil(values * (1 - PERCENTILE / 100))) + 1
        self.kept, self.positive = np.zeros(0, np.float32), 0

    def add(self, values: np.ndarray) -> None:
        above = values[values > 0]
        self.positive += len(above)
        kept = np.concatenate([self.kept, above]) if self.kept.size else above
        if len(kept) > self.most:
            kept = np.partition(kept, -self.most)[-self.most :]
        self.kept = kept

    def percentile(self, path: str) -> np.ndarray:
        """Interpolate between the two nearest, as `numpy.percentile` does."""
        if not self.positive:
            raise ValueError(
                f"{path} must have a positive activation on the calibration images to "
                "find its threshold with, got none"
            )
        rank = (self.positive - 1) * PERCENTILE / 100
        places = np.arange(self.positive - len(self.kept), self.positive)
        found = np.interp(rank, places, np.sort(self.kept))
        return np.asarray(found, self.kept.dtype)


METHOD = Method(
    name="rueckauer",
    title="99.9 % normalisation",
    source="Rueckauer et al., Conversion of continuous-valued deep networks to "
    "efficient event-driven networks for image classification, Frontiers in "
    "Neuroscience 11, 2017",
    neuron=lambda steps: neuron(empty),
    trained_with="relu",
    prepare=prepare,
    seeds=True,
)
