# %% [markdown]
"""
# Convert a network of ReLUs that you already have

Takes a trained Flax NNX network with ReLUs and batch norm, replaces its ReLUs by
quantised activations without a change to its code, and runs it spike by spike. At
T = 1 a few epochs of fine-tuning regain what rounding costs.

    pip install -e '.[digits]'
    python examples/relu_network.py

Takes about 15 seconds on two CPU cores. Expect about 97 % with ReLU and from T = 2 on,
some points less at T = 1, and most of them back after fine-tuning. Writes
`accuracy.png`.
"""

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bitsnn_jax import convert, in_float64, quantise, spiking, verify

pixels, labels = load_digits(return_X_y=True)
images = np.asarray(pixels, np.float32).reshape(-1, 8, 8, 1) / 8 - 1
train_images, test_images, train_labels, test_labels = train_test_split(
    images, labels, train_size=1400, random_state=0
)

# %% [markdown]
# ## A network as anybody writes it


# %%
class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.second = nnx.Conv(16, 16, (3, 3), strides=2, rngs=rngs)
        self.last = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        x = nnx.relu(self.second(x))
        return self.last(x.reshape(len(x), -1))


def cross_entropy(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def epochs(count):
    for epoch in range(count):
        order = np.random.default_rng(epoch).permutation(1400).reshape(-1, 100)
        yield from ((train_images[rows], train_labels[rows]) for rows in order)


@nnx.jit
def train_step(model, optimizer, x, y):
    grads = nnx.grad(lambda model: cross_entropy(model(x), y))(model)
    optimizer.update(model, grads)


model = Net(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(0.005), wrt=nnx.Param)
for x, y in epochs(12):
    train_step(model, optimizer, x, y)
model.eval()  # batch norm with its running statistics


def accuracy(logits):
    return float(np.mean(np.argmax(logits, -1) == test_labels))


print(f"ReLU: {accuracy(model(test_images)):.2%}")

# %% [markdown]
# ## The same network, spiking
# All that `quantise` needs is a pure function of variables and input, from any
# framework. It finds each `max(x, 0)` in the program that JAX traces, and a threshold
# for it from some training images.

# %%
graph, params, statistics = nnx.split(model, nnx.Param, ...)


def apply_fn(params, x):
    return nnx.merge(graph, params, statistics)(x)


def simulate(quantised, steps):
    """Run the spiking network on the test images."""
    variables, _ = convert(
        quantised.apply_fn, quantised.variables, test_images[:1], steps=steps
    )
    return jax.jit(spiking(quantised.apply_fn, steps=steps))(variables, test_images)


accuracies = {}
for steps in (1, 2, 4):
    quantised = quantise(apply_fn, params, [train_images[:500]], levels=2**steps - 1)
    logits, stats = simulate(quantised, steps)
    accuracies[f"T = {steps}"] = accuracy(logits)
    spikes = f"{stats.spikes_per_neuron:.2f} spikes per neuron"
    print(f"T = {steps}: {accuracy(logits):.2%}, {spikes}")

# %% [markdown]
# ## Fine-tuning at T = 1
# `quantised.variables` is a pytree of the weights and the thresholds, and
# `quantised.apply_fn` has gradients in both.

# %%
quantised = quantise(apply_fn, params, [train_images[:500]], levels=2**1 - 1)
tuned = quantised.variables
tuner = optax.adam(0.002)


@jax.jit
def tune_step(variables, state, x, y):
    grads = jax.grad(lambda v: cross_entropy(quantised.apply_fn(v, x), y))(variables)
    updates, state = tuner.update(grads, state)
    return optax.apply_updates(variables, updates), state


tuner_state = tuner.init(tuned)
for x, y in epochs(8):
    tuned, tuner_state = tune_step(tuned, tuner_state, x, y)

quantised = quantised._replace(variables=tuned)
accuracies["T = 1, tuned"] = accuracy(simulate(quantised, 1)[0])
print(f"T = 1, fine-tuned: {accuracies['T = 1, tuned']:.2%}")

with jax.enable_x64(True):  # in float64 no spike code may differ
    wide = in_float64((quantised.variables, jnp.asarray(test_images)))
    certificate = verify(quantised.apply_fn, *wide, steps=1)
print(certificate)
assert certificate.exact

# %%
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
bars = axes.bar(list(accuracies), list(accuracies.values()))
axes.bar_label(bars, fmt="{:.1%}", label_type="center", color="white")
axes.axhline(accuracy(model(test_images)), color="black", linestyle="--", label="ReLU")
axes.set(ylabel="test accuracy", ylim=(0.5, 1.08))
axes.legend(loc="lower right")
figure.savefig("accuracy.png")
