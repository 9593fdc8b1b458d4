"""QCFS at every activation, in any program that JAX can trace.

In whatever library a network is written, an activation is a part of its program in
which each number depends on one number, and which is not affine. It is found there:
modules are not edited, and one rule serves Linen, NNX, Equinox, imported networks and
functions of arrays.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax

from bitsnn_jax.activations.choices import Choice, choose, read_numbers
from bitsnn_jax.activations.found import Activations
from bitsnn_jax.conversion.batches import kept
from bitsnn_jax.conversion.by_path import ByPath, Skip, check_skip
from bitsnn_jax.conversion.calibration import METHODS, find_thetas
from bitsnn_jax.conversion.candidates import check_options
from bitsnn_jax.conversion.coding import (
    ReplacedReLU,
    check_levels,
    exactly,
)
from bitsnn_jax.conversion.random_keys import without_keys
from bitsnn_jax.conversion.report import (
    QuantisationReport,
    with_thetas,
)
from bitsnn_jax.conversion.sequential import Found
from bitsnn_jax.conversion.sought import Sought
from bitsnn_jax.tracing.independence import warn_unless_apart
from bitsnn_jax.tracing.program import ApplyFn, trace
from bitsnn_jax.tracing.reading import Nonspiking
from bitsnn_jax.tracing.real_valued import real_numbers


class Quantised(NamedTuple):
    """A network with QCFS at its activations, and its variables.

    Attributes:
      apply_fn: (variables, x) -> output, for `convert`, `spiking`, `verify`, training.
        It can be pickled if the network's can.
      variables: {"network": those given, "theta": {path: threshold}}, and with
        `correct_biases` also "offset". Random keys are kept by `apply_fn` instead.
    """

    apply_fn: ReplacedReLU
    variables: dict[str, Any]

    @property
    def left(self) -> tuple[Nonspiking, ...]:
        """Operations that are not affine and are no activation: left as they are."""
        return self.apply_fn.left

    @property
    def report(self) -> QuantisationReport:
        """What became of each activation, and what is left; print it as a table."""
        found = with_thetas(self.apply_fn.activations, self.variables["theta"])
        return QuantisationReport(found, self.left)


def quantise(
    apply_fn: ApplyFn,
    variables: Any,
    batches: Iterable[Any],
    *,
    levels: ByPath[int] = 15,
    method: ByPath[str] = "mse",
    per_channel: ByPath[bool] = False,
    channel_axis: int | None = None,
    percentile: float = 99.9,
    max_batches: int | None = None,
    sequential: bool = False,
    correct_biases: bool = False,
    skip: Skip = (),
) -> Quantised:
    """Put QCFS, Eq. (2), at every activation, with thresholds from data.

        max(z, 0)          ->  qcfs(z, theta)
        min(max(z, 0), c)  ->  qcfs(z, theta),   theta <= c
        f(z)               ->  qcfs(f(z), theta)
        f(z), of two signs ->  qcfs(f(z), theta) - qcfs(-f(z), theta_off)

    An activation is a largest part of the program in which each number depends on one
    number, and which is not affine: SiLU, GELU, tanh, LeakyReLU, hard-swish, however
    they are written. Values that are negative on the batches get neurons of their own,
    with "/off" behind the name, unless no such neuron would fire. A maximum over places
    directly in front of an increasing function is taken behind it, which changes
    nothing. Each call of an activation gets its own thetas, and so does each iteration
    of a scan over layers. Thetas are named after their modules.

    These stay, and `report` says why:

    * parts of a normalisation or a softmax, and guards of roots, logarithms, divisors;
    * what stands before the first weights, other than a ReLU; a clip there, if it
      changes nothing on the batches;
    * a clip, sigmoid, tanh, softplus or exp of the output, behind the last weights;
    * what `skip` names.

    Scales that were trained are taken over: clip(z, 0, alpha) gets theta = alpha, and
    round(clip(z / s, 0, L)) * s gets theta = L s and L levels.

    A warning names the operations that stay and are not affine, and `left` lists them.
    There is also a warning if examples of a batch depend on one another, as in a batch
    norm in training, and for a ReLU that never fires on the batches: its theta is 1.

    Args:
      apply_fn: pure, (variables, x) -> output, in inference; see `replace_relu`.
      variables: pytree of arrays.
      batches: inputs, or pairs of inputs and labels, from anything that yields them: a
        list, a data loader, a generator. They are read once and kept.
      levels: highest code; 2**T - 1 converts without loss at T steps. This, `method`
        and `per_channel` can differ from layer to layer: {pattern: value}, of which the
        first that matches the path counts, or a function of the path.
      method: how theta is chosen, see `calibrate` and `find_thetas`.
      per_channel: one theta for each channel; one for each activation otherwise.
      channel_axis: of all values that go into an activation. None finds it from the
        layout of a convolution and the weights of a dense layer.
      percentile: see `calibrate`.
      max_batches: how many batches to read; None for all.
      sequential: find thresholds one after the other, see `find_thetas`.
      correct_biases: add an offset in front of each neuron, see `find_thetas`.
      skip: activations to leave: names or patterns, or a function of the path.

    Returns:
      Quantised(apply_fn, variables).

    Raises:
      ValueError: no activation, none that ever fires, no batches or something else,
        unknown method, channels that cannot be found; SpikingError: an activation in a
        `while` or `cond` that the data decide.

    >>> import jax.numpy as jnp
    >>> net = lambda w, x: jax.nn.relu(x @ w) @ w
    >>> x = jnp.array([[1.0, -2.0], [3.0, 0.4]])
    >>> quantised = quantise(net, jnp.eye(2), [x], levels=3, method="maximum")
    >>> quantised.variables["theta"]
    {'neuron': array(3., dtype=float32)}
    >>> quantised.apply_fn(quantised.variables, x)
    Array([[1., 0.],
           [3., 0.]], dtype=float32)
    >>> print(quantised.report)
    activation  function  levels  theta  note
    neuron      relu      3       3
    """
    check_levels(levels)
    batches = kept(batches, apply_fn, variables, max_batches=max_batches)
    example = batches[0]
    warn_unless_apart(apply_fn, variables, example)
    activations, numbers = read_numbers(apply_fn, variables, example)
    choices = choose(activations, numbers)
    _check_found(activations, choices)
    check_skip(skip, [choice.path for choice in choices])
    network = Sought(
        apply_fn,
        choices,
        skip=skip,
        levels=levels,
        method=method,
        per_channel=per_channel,
        channel_axis=channel_axis,
        correct_biases=correct_biases,
    )
    network.look_at(variables, batches)
    found = _thetas(network, variables, batches, percentile, sequential)
    plain, keys = without_keys(variables)
    quantised = {"network": plain, "theta": found.theta}
    if correct_biases:
        quantised["offset"] = found.offset
    quantised_fn = ReplacedReLU(
        apply_fn,
        levels,
        channel_axis,
        keys,
        skip=exactly(network.reasons),
        taken=network.taken,
        activations=network.report(activations),
    )
    left = _left(quantised_fn, quantised, example)
    return Quantised(dataclasses.replace(quantised_fn, left=left), quantised)


def replace_relu(
    apply_fn: ApplyFn,
    *,
    levels: ByPath[int] = 15,
    channel_axis: int | None = None,
    skip: Skip = (),
) -> ReplacedReLU:
    """Put `qcfs` at each activation, given thresholds; see `quantise`.

    Use it for stored thresholds or other levels: thetas of `quantise` are valid for any
    number of levels. Scales that `quantise` took over belong to what it returned; here
    they stay in the network, with a code behind them.

    Gradient: that of `qcfs`, with respect to the network's variables, theta and x. A
    theta above the cap of its ReLU6 counts as the cap, and has no gradient.

    Args:
      apply_fn: pure, (variables, x) -> output. Scans over layers are unrolled and
        `jax.checkpoint` is entered, so that fine-tuning needs the memory of all layers.
      levels: highest code, for all or by path, as in `quantise`.
      channel_axis: for one threshold a channel, as in `quantise`.
      skip: activations to leave, as in `quantise`.

    Returns:
      ({"network": variables, "theta": {path: [] or [C]}}, x) -> output. An "offset",
      {path: [C]}, is added in front of the neurons that it names.

    Raises:
      ValueError: when called: thresholds missing, superfluous, not positive, or of
        another shape.

    >>> import jax.numpy as jnp
    >>> net = replace_relu(lambda _, x: jnp.clip(x, 0, 6), levels=4)
    >>> variables = {"network": None, "theta": {"neuron": jnp.array(1.0)}}
    >>> net(variables, jnp.array([-1.0, 0.3, 0.5, 9.0]))
    Array([0.  , 0.25, 0.5 , 1.  ], dtype=float32)
    """
    check_levels(levels)
    return ReplacedReLU(apply_fn, levels, channel_axis, skip=skip)


def _thetas(network: Sought, variables, batches, percentile, sequential) -> Found:
    """Find thresholds and offsets, in the order of firing."""
    for method in network.methods:
        check_options(METHODS, method, percentile)
    known, found = network.trained, Found({}, {})
    if len(known) < len(network.coded):
        found = find_thetas(
            network.run,
            variables,
            batches,
            method="mse",  # each activation has its own
            percentile=percentile,
            sequential=sequential or "output" in network.methods,
            correct_biases=network.correct_biases,
        )
    known |= found.theta
    sites = [path for choice in network.coded for path in network.sites(choice)]
    return Found({path: known[path] for path in sites}, found.offset)


def _check_found(activations: Activations, choices: Sequence[Choice]) -> None:
    """Raise ValueError if there is no activation."""
    if any(not choice.left for choice in choices):
        return
    reasons = [
        *(f"{c.name} {c.path} ({c.left})" for c in choices),
        *(f"{region.bent[-1].name} ({why})" for region, why in activations.dismissed),
    ]
    found = f"; found and left: {', '.join(reasons[:4])}" if reasons else ""
    raise ValueError(
        "found no ReLU or other activation in the program: looked for functions of "
        "single values that depend on the input and are not affine, as max(z, 0), "
        "where(z > 0, z, 0), clip(z, 0, c), silu, gelu, tanh and leaky_relu are, "
        f"however written{found}"
    )


def _left(quantised_fn, quantised, example) -> tuple[Nonspiking, ...]:
    """List, and warn of, operations that are not affine and stay."""
    program, _ = trace(quantised_fn, quantised, example)
    flat = map(jax.tree.leaves, (quantised, example))
    left = tuple(real_numbers(program, *flat, nonspiking="decode").operations)
    if left:
        named = [f"`{each.operation}` in {each.path or 'the program'}" for each in left]
        rest = f" and {len(left) - 4} more" if len(left) > 4 else ""
        warnings.warn(
            f"left as they are, since they are no activation: {', '.join(named[:4])}"
            f"{rest}; a spiking network computes them on real numbers or not at all; "
            "see `report`",
            stacklevel=3,
        )
    return left
