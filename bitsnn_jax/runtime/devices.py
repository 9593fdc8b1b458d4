"""Device parallelism, isolated so that it can be replaced."""

import math
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"  # what collectives name


def data_parallel(step: Callable, **options: Any) -> Any:
    """Map a training step over devices, each with its own rows of the batch."""
    return jax.pmap(step, axis_name=AXIS, **options)


def over_devices(
    function: Callable,
    *,
    in_axes: int | None | tuple[int | None, ...] = 0,
    devices: Sequence[jax.Device] | None = None,
) -> Any:
    """Map a function over every device of every host, as `data_parallel` does.

    Evaluation compiles many programs. They are freed with the returned function, while
    the cache of `jax.pmap` would keep them for ever.

    Args:
      function: pure; collectives name `AXIS`.
      in_axes: for each argument, or for all: 0 for [devices, ...], one entry for each
        device of this host; None for what all devices share.
      devices: by default all of all hosts.

    Returns:
      A function whose results are [devices, ...], over the devices of all hosts.
    """
    mesh = Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))
    specs = jax.tree.map(
        lambda axis: PartitionSpec() if axis is None else PartitionSpec(AXIS),
        in_axes,
        is_leaf=lambda axis: axis is None,
    )

    def on_each(*args):
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        own = [
            arg if axis is None else jax.tree.map(lambda x: jnp.squeeze(x, 0), arg)
            for arg, axis in zip(args, axes, strict=True)
        ]
        return jax.tree.map(lambda x: jnp.expand_dims(x, 0), function(*own))

    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    compiled = jax.jit(
        jax.shard_map(
            on_each,
            mesh=mesh,
            in_specs=specs,
            out_specs=PartitionSpec(AXIS),
            check_vma=False,
        ),
        in_shardings=shardings,
    )
    if not mesh.is_multi_process:
        return compiled

    def over_hosts(*args):
        each = specs if isinstance(specs, tuple) else (specs,) * len(args)
        whole = multihost_utils.host_local_array_to_global_array
        return compiled(
            *(whole(arg, mesh, spec) for arg, spec in zip(args, each, strict=True))
        )

    return over_hosts


def share_of_host() -> dict[str, int]:
    """Return which share of every batch this host reads."""
    return {"shard_index": jax.process_index(), "num_shards": jax.process_count()}


def by_device(batch: Any) -> Any:
    """Share the rows of a batch, [n, ...], among local devices, [devices, ...]."""
    count = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)


def replicate(tree: Any) -> Any:
    """Copy arrays to every device of this host, [devices, ...]."""
    # By pmap, so that the first step sees what later steps see and compiles once.
    spread = data_parallel(lambda _, tree: tree, in_axes=(0, None))
    return spread(np.arange(jax.local_device_count()), tree)


def first_replica(tree: Any) -> Any:
    """Copy to the host what every device has alike."""
    # A copy: on a CPU the array would be a view of a buffer that the next step reuses.
    return jax.tree.map(lambda x: np.array(x.addressable_shards[0].data)[0], tree)


def unpadded(rows: Any, mask: Any) -> Any:
    """Return the rows of a pytree, [..., n, ...], that are no padding, joined.

    >>> unpadded({"a": np.array([[1, 2], [3, 3]])}, np.array([[1, 1], [1, 0]], bool))
    {'a': array([1, 2, 3])}
    """
    return jax.tree.map(lambda x: x[mask], rows)


def split_over_devices(
    function: Callable[[Any, Any], Any],
) -> Callable[[Any, Any], Any]:
    """Run `function(variables, x)` on parts of a batch, one for each local device.

    Args:
      function: pure; `x` is a pytree of arrays with examples along axis 0.

    Returns:
      (variables, x) -> what `function` returns, [devices, ...] in each array: of as
      many devices as share the batch in equal parts.

    >>> import numpy as np
    >>> sums = split_over_devices(lambda v, x: v * x.sum(0))
    >>> sums(2.0, np.arange(3.0)).sum()
    Array(6., dtype=float32)
    """

    @cache
    def shared_by(devices: int):
        chosen = jax.local_devices()[:devices]
        return over_devices(function, in_axes=(None, 0), devices=chosen)

    def split(variables, x):
        count = len(jax.tree.leaves(x)[0])
        devices = math.gcd(count, jax.local_device_count())
        parts = jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), x)
        return shared_by(devices)(variables, parts)

    return split


def one_device_per_core() -> None:
    """Make a device of each core that this process may use, on CPUs; call it first.

    On CPUs, two operations of XLA side by side use the cores better than one. A number
    of devices in XLA_FLAGS is left alone.
    """
    if "device_count" not in os.environ.get("XLA_FLAGS", ""):
        affinity = getattr(os, "sched_getaffinity", None)  # not on every system
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", cores)


def one_after_the_other() -> None:
    """Order operations so that they need little memory, on CPUs; call it first.

    By default XLA orders them so that many can run at once, and then holds the spike
    trains of all layers: ResNet-20 at T = 32 took 7 GB instead of 1.3, and half as long
    again. The flag has no effect as an option of `jax.jit`.
    """
    flag = "--xla_cpu_enable_concurrency_optimized_scheduler"
    given = os.environ.get("XLA_FLAGS", "")
    if flag not in given:
        os.environ["XLA_FLAGS"] = f"{given} {flag}=false".strip()
