"""QCFS in the place of ReLU, in any program that JAX can trace.

In whatever library a network is written, its ReLU becomes `max(z, 0)` in the jaxpr. It
is found and replaced there: modules are not edited, and one rule serves Linen, NNX,
Equinox and functions of arrays.
"""

import dataclasses
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitsnn_jax.conversion.batches import kept
from bitsnn_jax.conversion.calibration import Activation, find_thetas
from bitsnn_jax.conversion.rectified import replaced
from bitsnn_jax.numerics.qcfs import qcfs
from bitsnn_jax.tracing.independence import warn_unless_apart
from bitsnn_jax.tracing.program import ApplyFn, trace
from bitsnn_jax.tracing.reading import Nonspiking
from bitsnn_jax.tracing.real_valued import real_numbers
from bitsnn_jax.tracing.sites import check_theta


class Quantised(NamedTuple):
    """A network whose ReLUs have become QCFS, and its variables.

    Attributes:
      apply_fn: (variables, x) -> output, for `convert`, `spiking`, `verify`, training.
        It can be pickled if the network's can.
      variables: {"network": those given, "theta": {path: threshold}}, and with
        `correct_biases` also "offset". Random keys are kept by `apply_fn` instead.
    """

    apply_fn: "ReplacedReLU"
    variables: dict[str, Any]

    @property
    def left(self) -> tuple[Nonspiking, ...]:
        """Operations that are not affine and were no ReLU: left as they are."""
        return self.apply_fn.left


def quantise(
    apply_fn: ApplyFn,
    variables: Any,
    batches: Iterable[Any],
    *,
    levels: int = 15,
    method: str = "mse",
    per_channel: bool = False,
    channel_axis: int | None = None,
    percentile: float = 99.9,
    max_batches: int | None = None,
    sequential: bool = False,
    correct_biases: bool = False,
) -> Quantised:
    """Put QCFS, Eq. (2), in the place of ReLU, with thresholds from data.

        max(z, 0)          ->  qcfs(z, theta)
        min(max(z, 0), c)  ->  qcfs(z, theta),   theta <= c

    The second is ReLU6, `jnp.clip(z, 0, c)` or `lax.clamp`, with a number c. The
    batches run through the network. Each call of a ReLU gets its own
    theta, and so does each iteration of a scan over layers. Thetas are named after
    their modules.

    Other activations stay, also those that contain a ReLU (softplus, celu,
    hard_sigmoid, hard_swish). So do maxima of parameters, and max(z, 0) that guards a
    root, a logarithm or a divisor, as in a layer norm. A warning names the operations
    that stay and are not affine, and `left` lists them. There is also a warning if
    examples of a batch depend on one another, as in a batch norm in training, and for a
    ReLU that never fires on the batches: its theta is 1.

    Args:
      apply_fn: pure, (variables, x) -> output, in inference; see `replace_relu`.
      variables: pytree of arrays.
      batches: inputs, or pairs of inputs and labels, from anything that yields them: a
        list, a data loader, a generator. They are read once and kept.
      levels: highest code; 2**T - 1 converts without loss at T steps.
      method: how theta is chosen, see `calibrate` and `find_thetas`.
      per_channel: one theta for each channel; one for each ReLU otherwise.
      channel_axis: of all values that go into a ReLU. None finds it from the layout of
        a convolution and the weights of a dense layer.
      percentile: see `calibrate`.
      max_batches: how many batches to read; None for all.
      sequential: find thresholds one after the other, see `find_thetas`.
      correct_biases: add an offset in front of each activation, see `find_thetas`.

    Returns:
      Quantised(apply_fn, variables).

    Raises:
      ValueError: no ReLU, none that ever fires, no batches or something else, unknown
        method, channels that cannot be found; SpikingError: a ReLU in a `while` or
        `cond` that the data decide.

    >>> net = lambda w, x: jax.nn.relu(x @ w) @ w
    >>> x = jnp.array([[1.0, -2.0], [3.0, 0.4]])
    >>> quantised = quantise(net, jnp.eye(2), [x], levels=3, method="maximum")
    >>> quantised.variables["theta"]
    {'neuron': array(3., dtype=float32)}
    >>> quantised.apply_fn(quantised.variables, x)
    Array([[1., 0.],
           [3., 0.]], dtype=float32)
    """
    _check_levels(levels)
    batches = kept(batches, apply_fn, variables, max_batches=max_batches)
    example = batches[0]
    warn_unless_apart(apply_fn, variables, example)

    by_channel = per_channel or correct_biases

    def run(visit, variables, x):
        def visited(path, z, cap, axis):
            axis = _known(axis, channel_axis, path, z) if by_channel else -1
            return visit(path, Activation(levels, per_channel, cap, axis), z)

        return replaced(apply_fn, variables, x, visited, levels)

    found = find_thetas(
        run,
        variables,
        batches,
        method=method,
        percentile=percentile,
        sequential=sequential,
        correct_biases=correct_biases,
    )
    network, keys = _without_keys(variables)
    quantised_fn = ReplacedReLU(apply_fn, levels, channel_axis, keys)
    quantised = {"network": network, "theta": found.theta}
    if correct_biases:
        quantised["offset"] = found.offset
    program, _ = trace(quantised_fn, quantised, example)
    flat = map(jax.tree.leaves, (quantised, example))
    left = tuple(real_numbers(program, *flat, nonspiking="decode").operations)
    if left:
        named = [f"`{each.operation}` in {each.path or 'the program'}" for each in left]
        rest = f" and {len(left) - 4} more" if len(left) > 4 else ""
        warnings.warn(
            f"left as they are, since they are no ReLU: {', '.join(named[:4])}{rest}; "
            "a spiking network computes them on real numbers or not at all",
            stacklevel=2,
        )
    return Quantised(dataclasses.replace(quantised_fn, left=left), quantised)


def replace_relu(
    apply_fn: ApplyFn, *, levels: int = 15, channel_axis: int | None = None
) -> "ReplacedReLU":
    """Put `qcfs` in the place of each ReLU, given thresholds; see `quantise`.

    Use it for stored thresholds or other levels: thetas of `quantise` are valid for any
    number of levels.

    Gradient: that of `qcfs`, with respect to the network's variables, theta and x. A
    theta above the cap of its ReLU6 counts as the cap, and has no gradient.

    Args:
      apply_fn: pure, (variables, x) -> output. Scans over layers are unrolled and
        `jax.checkpoint` is entered, so that fine-tuning needs the memory of all layers.
      levels: highest code.
      channel_axis: for one threshold a channel, as in `quantise`.

    Returns:
      ({"network": variables, "theta": {path: [] or [C]}}, x) -> output. An "offset",
      {path: [C]}, is added in front of the activations that it names.

    Raises:
      ValueError: when called: thresholds missing, superfluous, not positive, or of
        another shape.

    >>> net = replace_relu(lambda _, x: jnp.clip(x, 0, 6), levels=4)
    >>> variables = {"network": None, "theta": {"neuron": jnp.array(1.0)}}
    >>> net(variables, jnp.array([-1.0, 0.3, 0.5, 9.0]))
    Array([0.  , 0.25, 0.5 , 1.  ], dtype=float32)
    """
    _check_levels(levels)
    return ReplacedReLU(apply_fn, levels, channel_axis)


@dataclasses.dataclass(frozen=True, eq=False)
class ReplacedReLU:
    """What `replace_relu` returns: a class, so that it can be pickled.

    Attributes:
      apply_fn, levels, channel_axis: as given.
      keys: random keys, where the network's variables have None.
      left: see `Quantised.left`.
    """

    apply_fn: ApplyFn
    levels: int
    channel_axis: int | None = None
    keys: tuple["_Key", ...] = ()
    left: tuple[Nonspiking, ...] = ()

    def __call__(self, variables: dict[str, Any], x: Any) -> Any:
        thetas, paths = variables["theta"], []
        offsets = variables.get("offset", {})

        def as_qcfs(path, z, cap, axis):
            paths.append(path)
            if path not in thetas:
                raise ValueError(
                    f"theta has none for the ReLU {path}, only for "
                    f"{', '.join(sorted(thetas)) or 'nothing'}: quantise this network"
                )
            check_theta(thetas[path], path)
            # Types below float32 cannot hold the top code, as in layers.QCFS.
            if path in offsets:
                channels = _known(axis, self.channel_axis, path, z)
                z = z + _along(jnp.asarray(offsets[path], z.dtype), channels, path, z)
            wide = jnp.promote_types(z.dtype, jnp.float32)
            theta = jnp.asarray(thetas[path], wide)
            if theta.ndim:
                theta = _along(theta, _known(axis, self.channel_axis, path, z), path, z)
            if cap is not None:  # not jnp.minimum, whose gradient is halved at the cap
                theta = jnp.where(theta > cap, cap, theta)
            a = qcfs(z.astype(wide), theta, levels=self.levels)
            return a.astype(z.dtype)

        network = _with_keys(variables["network"], self.keys)
        output = replaced(self.apply_fn, network, x, as_qcfs, self.levels)
        if extra := sorted(thetas.keys() - set(paths)):
            raise ValueError(
                f"theta has some for {', '.join(extra)}, but the ReLUs of this network "
                f"are {', '.join(paths)}: quantise this network"
            )
        return output


def _check_levels(levels) -> None:
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")


def _known(found, given, path, z) -> int:
    """Find the axis of the channels of z, not negative."""
    axis = found if given is None else given
    if axis is None and z.ndim < 3:
        axis = -1
    if axis is None:
        raise ValueError(
            f"which axis has the channels of the ReLU {path}, of shape {z.shape}, "
            "cannot be told: no convolution or dense layer leads to it; give "
            "channel_axis"
        )
    if not -z.ndim <= axis < z.ndim:
        raise ValueError(
            f"channel_axis={axis} is no axis of the ReLU {path}, of shape {z.shape}"
        )
    return axis % z.ndim


def _along(theta, axis, path, z):
    """Shape thresholds for each channel so that they broadcast against z."""
    if theta.shape != z.shape[axis : axis + 1]:
        raise ValueError(
            f"theta of the ReLU {path} must be one number or {z.shape[axis : axis + 1]}"
            f", one for each channel; got the shape {theta.shape}"
        )
    return theta.reshape(-1, *(1,) * (z.ndim - 1 - axis))


class _Key(NamedTuple):
    """A random key: its place among leaves and Nones, its bits, how it draws."""

    place: int
    bits: np.ndarray
    kind: str


def _without_keys(variables):
    """Replace random keys, which allow no arithmetic, by None."""
    leaves, tree = jax.tree.flatten(variables, is_leaf=_is_none)
    keys = tuple(
        _Key(i, np.asarray(jax.random.key_data(leaf)), str(jax.random.key_impl(leaf)))
        for i, leaf in enumerate(leaves)
        if _is_key(leaf)
    )
    for key in keys:
        leaves[key.place] = None
    return (jax.tree.unflatten(tree, leaves) if keys else variables), keys


def _with_keys(variables, keys):
    if not keys:
        return variables
    leaves, tree = jax.tree.flatten(variables, is_leaf=_is_none)
    for key in keys:
        if leaves[key.place] is None:  # otherwise keys were put back by hand
            leaves[key.place] = jax.random.wrap_key_data(
                jnp.asarray(key.bits), impl=key.kind
            )
    return jax.tree.unflatten(tree, leaves)


def _is_none(leaf) -> bool:
    return leaf is None


def _is_key(leaf) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
