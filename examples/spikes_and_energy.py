"""Count spikes, operations and joules, with and without the bit-sparsity loss.

Trains one network twice, the second time with a loss on the bits of its activations,
and counts what the spiking networks do on the test images: spikes by layer, additions,
and energy by published costs of single operations, beside a 4-bit ANN.

    pip install -e '.[digits]'
    python examples/spikes_and_energy.py

Takes about 10 seconds on two CPU cores. Expect a quarter of the spikes with the loss,
for about one point of accuracy. The spiking network then needs less than half of the
energy of the dense 4-bit ANN, and about as much as the ANN that skips zeros.
"""

import flax.linen as nn
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bitsnn_jax import QCFS
from bitsnn_jax.integers import energy, operations
from bitsnn_jax.integers.execution import one_shot
from bitsnn_jax.integers.fixed_point import fixed_point
from bitsnn_jax.integers.lowering import lower
from bitsnn_jax.training.optimizer import keep_theta_positive
from bitsnn_jax.training.sparsity import layer_counts

STEPS, LEVELS = 4, 15


class Net(nn.Module):
    @nn.compact
    def __call__(self, pixels):  # 0..16, as the data set has them
        x = QCFS(LEVELS, theta_init=2.0)(nn.Conv(16, (3, 3))(pixels / 8 - 1))
        x = QCFS(LEVELS, theta_init=2.0)(nn.Conv(16, (3, 3), strides=2)(x))
        return nn.Dense(10)(x.reshape(len(x), -1))


def train(images, labels, spike_lambda, epochs):
    """Train with cross entropy + spike_lambda * spikes per image."""

    def loss_fn(variables, x, y):
        logits, sown = Net().apply(variables, x, mutable=["activations"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        counts = layer_counts(sown, levels=LEVELS)
        return loss + spike_lambda * sum(c.sum() for c in counts.values()) / len(x)

    @jax.jit
    def step(variables, state, x, y):
        updates, state = optimizer.update(
            jax.grad(loss_fn)(variables, x, y), state, variables
        )
        return optax.apply_updates(variables, updates), state

    optimizer = optax.chain(optax.adam(0.005), keep_theta_positive())
    variables = Net().init(jax.random.key(0), images[:1])
    state = optimizer.init(variables)
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(images))
        for rows in order[: len(order) // 100 * 100].reshape(-1, 100):
            variables, state = step(variables, state, images[rows], labels[rows])
    return variables


def main(epochs=15, spike_lambdas=(0.0, 3e-4)):
    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels, np.float32).reshape(-1, 8, 8, 1)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, train_size=1400, random_state=0
    )
    profile = energy.profile("mixed")  # picojoules of an addition, a fetch, ...
    for spike_lambda in spike_lambdas:
        variables = train(train_images, train_labels, spike_lambda, epochs)
        graph = lower(Net().apply, variables, test_images[:1])
        network = fixed_point(graph, steps=STEPS, white=16)

        # The bits of a code are its spikes, so that one pass counts all of them.
        result = jax.jit(one_shot(network))(test_images.astype(int))
        counted = operations.count(network, result.codes, examples=len(test_images))
        correct = result.outputs["output"].argmax(-1) == test_labels

        print(f"\nspike_lambda = {spike_lambda}: {correct.mean():.2%} correct")
        print(f"{counted.spikes_per_neuron:.2f} spikes per neuron")
        for node in counted.nodes:
            if node.kind == "neurons":
                each = (round(n / counted.examples) for n in node.spikes)
                print(f"  {node.name}: spikes per image at t = 1..4:", *each)
        print(f"{counted.total('synaptic_operations') // counted.examples:,} additions")
        print(energy.comparison(counted, profile))


if __name__ == "__main__":
    main()
