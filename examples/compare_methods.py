"""Compare conversion methods on one checkpoint, one of your own among them.

Trains a small network on 8x8 digits, converts it by several published methods and by a
neuron that is defined here, and prints accuracy, distance from the ANN, and spikes.

    pip install -e '.[digits]'
    python examples/compare_methods.py

Takes about 20 seconds on two CPU cores. Expect the bit-serial network to have the
logits of the ANN at T = 4, where the others are still off. `compare.py` does the same
for seventeen methods and writes a report.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bitsnn_jax import qcfs
from bitsnn_jax.comparators import METHODS, Method, Network, Sent, StepNeuron, simulate


# A neuron is a state to start with and a step. This one leaks: it loses a tenth of its
# membrane at each step. What a layer sends is worth its mean over time.
def start(layer):
    return layer.full(0.5 * layer.theta)


def step(layer, membrane, current, t):
    membrane = 0.9 * membrane + current
    spikes = membrane >= layer.theta
    sent = Sent(value=jnp.where(spikes, layer.theta, 0.0), spikes=spikes)
    return jnp.where(spikes, membrane - layer.theta, membrane), sent


LEAKY = Method(
    name="leaky",
    title="leaky integrate and fire",
    source="this file",
    neuron=lambda steps: StepNeuron(start, step),
)


# The network: three hidden layers, as a function of arrays. Any framework will do.
def network(variables, x):
    for layer in variables["hidden"]:
        x = qcfs(x @ layer["w"] + layer["b"], layer["theta"], levels=15)
    return x @ variables["last"]


def trained(x, y, steps=300):
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = [
        {"w": jax.random.normal(key, (64, 64)) / 8, "b": jnp.zeros(64), "theta": 2.0}
        for key in keys[:3]
    ]
    variables = {"hidden": hidden, "last": jax.random.normal(keys[3], (64, 10)) / 8}
    variables = jax.tree.map(jnp.asarray, variables)
    optimizer = optax.adam(0.003)

    def loss_fn(variables):
        logits = network(variables, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def train(variables):
        def step(carry, _):
            variables, state = carry
            updates, state = optimizer.update(jax.grad(loss_fn)(variables), state)
            return (optax.apply_updates(variables, updates), state), None

        carry = (variables, optimizer.init(variables))
        (variables, _), _ = jax.lax.scan(step, carry, length=steps)
        return variables

    return train(variables)


def main(names=("bit_serial", "qcfs", "snm", "ttfs"), times=(4, 16)):
    pixels, labels = load_digits(return_X_y=True)
    x, test_x, y, test_y = train_test_split(
        np.asarray(pixels, np.float32) / 8 - 1, labels, test_size=200, random_state=0
    )
    ann = Network(network, trained(x, y), activation="qcfs")
    logits = network(ann.variables, test_x)
    print(f"ANN: {(logits.argmax(-1) == test_y).mean():.2%}\n")
    print("method      T    accuracy  logits off by  spikes per neuron")
    for method in (*(METHODS[name] for name in names), LEAKY):
        for steps in times:
            if method.can(steps):  # why it cannot
                continue
            # Some methods look at training images first, for thresholds or charges.
            made = method.prepare(ann, [x[:200]], steps)
            snn = simulate(network, method.neuron(steps), steps=steps, found=made.found)
            simulated = jax.jit(snn)(made.variables, test_x)
            output = simulated.outputs[-1]
            correct = (output.argmax(-1) == test_y).mean()
            error = jnp.abs(output - logits).mean()
            spikes = sum(counts.sum() for counts in simulated.spikes.values())
            each = spikes / (len(test_x) * 3 * 64)
            row = f"{method.name:10}  {steps:<3}  {correct:8.2%}  {error:13.2f}"
            print(f"{row}  {each:17.2f}")


if __name__ == "__main__":
    main()
