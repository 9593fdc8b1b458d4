"""Thresholds from data: the theta with which QCFS replaces a ReLU.

A network that was trained with ReLU has no thresholds. A few batches run through it,
every activation is quantised with each of 97 candidate thetas, and the method picks the
best: for all layers at once, or for one after the other (`sequential`).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bitsnn_jax.conversion.at_once import find_at_once
from bitsnn_jax.conversion.batches import kept
from bitsnn_jax.conversion.candidates import (
    CALIBRATIONS,
    Activation,
    Run,
    as_relu,
    capped,
    check_options,
    checked,
    choose,
    largest,
    try_all,
)
from bitsnn_jax.conversion.sequential import Found, find_in_order
from bitsnn_jax.numerics.layers import QCFS, ClippedReLU, SignedQCFS

_FINE = 2**20  # levels of a clipped ReLU, which does not quantise: practically infinite
CAPS = {"relu6": 6.0}  # the caps of `model.activation`, where they have one
METHODS = (*CALIBRATIONS, "output")  # of networks; the last needs the layer behind


def calibrate(
    z: Any,
    *,
    levels: int = 15,
    method: str = "mse",
    per_channel: bool = False,
    cap: float | None = None,
    percentile: float = 99.9,
) -> np.ndarray:
    """Find the theta with which `qcfs` comes closest to the ReLU of some values.

        theta = max(z) 2^(-g/16),   g in 0..96

    with g by `method`: "mse" makes the sum of (qcfs(z, theta) - relu(z))^2 smallest;
    "percentile" is the smallest theta that no more than 0.1 % of all z exceed;
    "maximum" is g = 0. Of equals, the largest theta.

    A channel without any positive z gets the theta of the layer's largest.

    Args:
      z: [..., C] pre-activations.
      levels: highest code of the QCFS.
      method: a name in `CALIBRATIONS`.
      per_channel: one theta for each channel (last axis).
      cap: of the ReLU, 6 for a ReLU6: each z above counts as the cap.
      percentile: for "percentile": the share of all z, in %, that theta should reach.

    Returns:
      float32 [] or [C], positive, at most the cap.

    Raises:
      ValueError: unknown method, a cap that is not positive, a percentile out of range;
        no positive z, or one that is not finite.

    >>> calibrate(np.array([-1.0, 0.5, 1.0, 1.5]), levels=3, method="maximum")
    array(1.5, dtype=float32)
    """
    check_options(CALIBRATIONS, method, percentile, cap)
    activation = Activation(levels, per_channel, cap)
    z = capped(jnp.asarray(z), activation)
    peak = checked(largest(z, activation), "z")
    trials = jax.jit(try_all, static_argnames="levels")(z, peak, levels=levels)
    return choose(peak, trials, method, percentile)


def calibrate_network(
    apply_fn: Callable[[Any, Any], Any],
    variables: dict,
    batches: Iterable[Any],
    *,
    method: str = "mse",
    cap: float | None = None,
    percentile: float = 99.9,
    max_batches: int | None = None,
    sequential: bool = False,
    correct_biases: bool = False,
) -> dict:
    """Find a theta for each `QCFS`, `SignedQCFS` or `ClippedReLU` that has none.

    The batches run through the network; activations without theta act as ReLU
    meanwhile, those for both signs do nothing, and get the theta that a `QCFS` would
    get for |z|. Levels, and whether theta is per channel, are read from the modules. A
    module that is called more than once gets one theta for all calls.

    Args:
      apply_fn: (variables, x) -> anything; calls a Linen module in inference.
      variables: {"params", ...} of the network, thetas missing.
      batches: inputs, or pairs of inputs and labels, from anything that yields them.
      method: see `find_thetas`.
      cap: of the ReLUs that the network was trained with, 6 for ReLU6; the largest
        theta.
      percentile: see `calibrate`.
      max_batches: how many batches to read; None for all.
      sequential, correct_biases: see `find_thetas`. An `offset` comes beside the theta
        of a module. Networks with a `SignedQCFS` have no offsets.

    Returns:
      A new tree; existing arrays are passed on.

    Raises:
      ValueError: as for `calibrate`, with the path of the layer; no batches; or
        offsets for a network that has none.

    >>> x = jnp.array([[0.5, 2.0]])
    >>> fn = lambda variables, x: QCFS(levels=3).apply(variables, x)
    >>> calibrate_network(fn, {"params": {}}, [x], method="maximum")
    {'params': {'theta': array(2., dtype=float32)}}
    """
    check_options(METHODS, method, percentile, cap)
    owned = flatten_dict(variables["params"]).keys()

    def run(visit, variables, x):
        def as_visited(call, args, kwargs, context):
            act, path = context.module, context.module.path
            known = isinstance(act, QCFS | SignedQCFS | ClippedReLU)
            if not known or (*path, "theta") in owned:
                return call(*args, **kwargs)
            signed = isinstance(act, SignedQCFS)
            activation = Activation(
                levels=getattr(act, "levels", _FINE),
                per_channel=act.per_channel,
                cap=None if signed else cap,  # which is that of ReLUs
                signed=signed,
            )
            return visit(path, activation, *args)

        with nn.intercept_methods(as_visited):
            return apply_fn(variables, x)

    batches = kept(batches, partial(run, as_relu), variables, max_batches=max_batches)
    found = find_thetas(
        run,
        variables,
        batches,
        method=method,
        percentile=percentile,
        sequential=sequential,
        correct_biases=correct_biases,
    )
    leaves = {
        ("params", *path, name): value
        for name, values in found._asdict().items()
        for path, value in values.items()
    }
    # A collection may have no leaves, such as the statistics without batch norm.
    return dict.fromkeys(variables, {}) | unflatten_dict(
        flatten_dict(variables) | leaves
    )


def find_thetas(
    run: Run,
    variables: Any,
    batches: Sequence[Any],
    *,
    method: str,
    percentile: float = 99.9,
    sequential: bool = False,
    correct_biases: bool = False,
) -> Found:
    """Find a theta for each activation of a network.

    An activation that is never positive gets a theta of 1, and a warning.

    With `correct_biases`, each activation also gets an offset in front, one number a
    channel. Over the places where the channel is active (between 0 and the cap, in
    either network), it is the mean of what the activation should send, less what it
    would send without rounding. This is the bias correction of Nagel et al.,
    "Data-free quantization through weight equalization and bias correction", 2019, with
    means from data as in Li et al., "A free lunch from ANN", 2021. It is an offset and
    no changed bias because every program has a place for it: also one without biases,
    or with one bias in two places. The conversion shifts it as any other bias.

    Args:
      run: the network: `run(visit, variables, x)` asks `visit(path, Activation, z)`
        what each activation sends, and returns the outputs. Paths are tuples or
        strings. It is traced.
      variables: of the network.
      batches: inputs, as `batches.kept` returns them.
      method: see `calibrate`; or "output", which tries multiples of the theta of
        "mse", and takes the one with the least squared error of what the next
        activation is fed. It is always sequential.
      percentile: see `calibrate`.
      sequential: each layer gets what the quantised layers before it send, in place of
        what they sent with ReLU. All batches are under way at once, in memory.
      correct_biases: find offsets, also in the order of firing.

    Raises:
      ValueError: as for `calibrate`, with the path, if no activation is positive or one
        is not finite.
    """
    check_options(METHODS, method, percentile)
    in_order = partial(
        find_in_order,
        run,
        variables,
        batches,
        method=method,
        percentile=percentile,
        correct_biases=correct_biases,
    )
    if sequential or method == "output":
        return in_order()
    theta = find_at_once(run, variables, batches, method=method, percentile=percentile)
    return in_order(thetas=theta) if correct_biases else Found(theta, {})
