"""The transformation: a program of QCFS activations, read as a spiking network."""

from collections.abc import Callable
from typing import Any

from jax import lax

from bitsnn_jax.conversion.readings import OneShot, SpikeStats, Stepped, run
from bitsnn_jax.conversion.rolled import Rolled
from bitsnn_jax.numerics.codings import coding_of
from bitsnn_jax.numerics.spikes import check_steps
from bitsnn_jax.tracing.program import ApplyFn

MODES = ("stepped", "fused")


def spiking(
    apply_fn: ApplyFn,
    *,
    steps: int,
    mode: str = "stepped",
    bias_shift: str = "parameters",
    nonspiking: str = "error",
    precision: Any = lax.Precision.HIGHEST,
    unroll: bool = True,
    coding: str = "bits",
) -> Callable[[Any, Any], tuple[Any, SpikeStats]]:
    """Read a program whose activations are `qcfs` as a spiking network.

    Each QCFS site becomes a layer of bit-serial integrate-and-fire neurons, Eq. (9) and
    (10), with levels 2**T - 1 and the threshold that was trained; everything between
    two layers is applied to each step's spikes. The output is its sum over time.

    * "stepped" simulates every spike, layer by layer. Takes converted variables (see
      `convert`), in which the biases have been shifted by Proposition I.
    * "fused" computes the same codes in one pass, by Eq. (2) with levels 2**T - 1, and
      counts their bits. Takes the variables of the ANN. `verify` proves the two equal.

    A value that has passed no neuron is analog: it enters a layer of neurons as charge,
    once. A maximum over spikes (max pooling) is exact, since codes are monotone. The
    function works under jit, vmap, pmap and sharding; wrap it in `jax.jit`.

    Gradient: "fused" has that of `qcfs`. "stepped" has none, since a spike is a step:
    gradients through it are zero.

    Args:
      apply_fn: pure, (variables, x) -> output; any pytrees.
      steps: T, at least 1; at most 24 in float32, and 23 in signed digits.
      mode: "stepped" or "fused".
      bias_shift: "parameters": the variables carry the shift. "auto": they are the
        ANN's, and each constant that meets a current is divided by T on the way,
        g_c(x) = g(x) - (1 - 1/T) g(0); for programs that `convert` cannot change.
      nonspiking: what to do with an operation that is not linear in the spikes:
        "error", or "decode" to compute it on the sum over time.
      precision: of convolutions and products that ask for none themselves.
      unroll: write the T steps into the program one after the other, so that XLA can
        fuse them. False: one `lax.scan` over time for each layer, so that neither the
        program nor its temporaries grow with T, up to T = 16, from where on a code
        takes four bytes in place of two. The codes are the same but for rounding:
        where a current feeds several layers its sums are taken in another order (see
        `rolled`). For "stepped"; "fused" has no steps.
      coding: "bits", or "signed_digits": the same codes in digits of -1, 0 and 1, with
        fewer spikes and a step more (see `codings`). The counts then have T + 1 steps;
        of the biases, which were shifted for T steps, each step brings T / (T + 1).

    Returns:
      A function (variables, x) -> (output, SpikeStats).

    Raises:
      ValueError: unknown mode or option, steps out of range; SpikingError, when called,
        for an operation without a spiking form, with its module.

    >>> import jax.numpy as jnp
    >>> from bitsnn_jax import qcfs
    >>> net = lambda v, x: qcfs(x @ v["w"], v["theta"]) @ v["w"]
    >>> variables = {"w": jnp.eye(2), "theta": jnp.array(15.0)}
    >>> snn = spiking(net, steps=4)
    >>> out, stats = snn(variables, jnp.array([[5.2, 20.0]]))
    >>> out, stats.spikes["neuron"]
    (Array([[ 5., 15.]], dtype=float32), Array([1, 2, 1, 2], dtype=int32))
    """
    check_steps(steps, before=coding_of(coding).before)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")

    def snn_fn(variables, x):
        options = {"steps": steps, "nonspiking": nonspiking, "precision": precision}
        options["coding"] = coding
        if mode == "fused":
            reading = OneShot(**options)
        else:
            reading_type = Stepped if unroll else Rolled
            reading = reading_type(bias_shift=bias_shift, **options)
        output = run(reading, apply_fn, variables, x)
        if mode == "stepped":
            output = lax.stop_gradient(output)
        return output, reading.stats()

    return snn_fn
