"""SNM, the signed neuron with memory (Wang et al., IJCAI 2022).

    v(0) = 0,  m(0) = 0
    v(t) = v(t-1) + I(t)
    s(t) =  1  if v(t) >= theta,
           -1  if v(t) <= -theta and m(t-1) > 0,   else 0
    v(t) -= theta s(t);   m(t) = m(t-1) + s(t)

A negative spike takes back one that was sent too early; the memory m, what was sent so
far, stays at or above zero, as the activations of a ReLU do.

The source is a ReLU network. Each neuron has its own threshold, the largest activation
of that neuron over the training images. Here they are those of the calibration images:
fewer, so that thresholds are lower and the largest activations of other images are cut
off. The public code gives its thresholds the shape of a batch, one for each place in
it, from some 230 images each, of which some are test images; these are one for each
neuron. Its last layer is of signed neurons too, whose spikes are counted; here the
output is the current, as for all methods, a layer earlier. It reports T = 32 and more:
below, most neurons of a deep network have not charged yet.

A neuron that was silent for all calibration images has threshold zero. It would fire at
each step spikes that are worth nothing; here it does not fire.
"""

import jax.numpy as jnp

from bitsnn_jax.comparators.layer import Sent, StepNeuron
from bitsnn_jax.comparators.method import Method
from bitsnn_jax.comparators.observe import by_largest


def neuron() -> StepNeuron:
    """Build signed neurons with the thresholds that were found."""

    def start(layer):
        return layer.full(0), jnp.zeros(layer.site.shape, jnp.int32)

    def step(layer, state, current, t):
        v, memory = state
        theta = layer.theta
        v = v + current
        up = (v >= theta) & (theta > 0)
        down = (v <= -theta) & (memory > 0)
        sign = up.astype(jnp.int32) - down
        value = sign * theta
        return (v - value, memory + sign), Sent(value, up | down)

    return StepNeuron(start, step)


METHOD = Method(
    name="snm",
    title="SNM",
    source="Wang et al., Signed neuron with memory: towards simple, accurate and "
    "high-efficient ANN-SNN conversion, IJCAI 2022",
    neuron=lambda steps: neuron(),
    trained_with="relu",
    prepare=by_largest("neuron"),
    seeds=True,
)
