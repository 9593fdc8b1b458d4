# %% [markdown]
"""
# Train a network, convert it, count what differs

Trains a small convolutional network on 8x8 digits with Optax, converts it into a
spiking network of 4 time steps, and compares every spike code of the two.

    pip install -e '.[digits]'
    python examples/train_and_convert.py

Takes about 10 seconds on two CPU cores. Expect about 98 % for both networks, 0.9 spikes
per neuron, and no differing code in float64. Writes `spikes.png`.
"""

# %%
import flax.linen as nn
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bitsnn_jax import QCFS, codes, convert, in_float64, spike_planes, spiking, verify

STEPS = 4  # time steps T
LEVELS = 2**STEPS - 1  # QCFS with 2**T - 1 levels converts without error

pixels, labels = load_digits(return_X_y=True)
images = np.asarray(pixels, np.float32).reshape(-1, 8, 8, 1) / 8 - 1
train_images, test_images, train_labels, test_labels = train_test_split(
    images, labels, train_size=1400, random_state=0
)

# %% [markdown]
# ## The network
# `QCFS` stands where a ReLU would be. It rounds to 16 levels, and its threshold
# `theta` is trained together with the weights.


# %%
class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = QCFS(levels=LEVELS, theta_init=2.0)(nn.Conv(16, (3, 3))(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = QCFS(levels=LEVELS, theta_init=2.0)(nn.Conv(32, (3, 3))(x))
        return nn.Dense(10)(x.reshape(len(x), -1))


apply_fn = jax.jit(Net().apply)  # (variables, images) -> logits


# %% [markdown]
# ## Training, as usual


# %%
def loss_fn(variables, x, y):
    logits = apply_fn(variables, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
def train_step(variables, state, x, y):
    updates, state = optimizer.update(jax.grad(loss_fn)(variables, x, y), state)
    return optax.apply_updates(variables, updates), state


variables = Net().init(jax.random.key(0), images[:1])
optimizer = optax.adam(0.01)
state = optimizer.init(variables)
for epoch in range(12):
    order = np.random.default_rng(epoch).permutation(1400).reshape(-1, 100)
    for rows in order:
        variables, state = train_step(
            variables, state, train_images[rows], train_labels[rows]
        )

ann_logits = apply_fn(variables, test_images)
print(f"quantised network: {(ann_logits.argmax(-1) == test_labels).mean():.2%}")

# %% [markdown]
# ## Conversion
# `convert` divides the biases that are fed by spikes among the T steps and leaves the
# rest as it is. `spiking` turns the function into one that runs spike by spike.

# %%
snn_variables, report = convert(apply_fn, variables, images[:1], steps=STEPS)
print("changed:", *(shift.path for shift in report.changed))

snn_fn = jax.jit(spiking(apply_fn, steps=STEPS))
snn_logits, stats = snn_fn(snn_variables, test_images)
print(f"spiking network: {(snn_logits.argmax(-1) == test_labels).mean():.2%}")
print(f"spikes per neuron: {stats.spikes_per_neuron:.2f}")
for layer, counts in stats.spikes.items():
    print(f"  {layer}: spikes at t = 1..{STEPS}:", *np.asarray(counts, int))

# %% [markdown]
# ## The certificate
# `verify` runs both networks side by side and compares every code. In float64 none may
# differ. In float32 a few may: the two networks add the same numbers in another order.

# %%
with jax.enable_x64(True):
    wide = in_float64((variables, test_images))
    certificate = verify(apply_fn, *wide, steps=STEPS)
print(certificate)
assert certificate.exact

# %% [markdown]
# ## One digit as spikes
# A spike at step t has the weight 2^(T - t): the first plane is worth as much as half
# of all four.

# %%
_, sown = Net().apply(variables, test_images[:1], mutable=["activations"])
[(activation, theta)] = sown["activations"]["QCFS_0"]["a"]
planes = spike_planes(codes(activation, theta, levels=LEVELS), steps=STEPS)

figure, axes = plt.subplots(1, 1 + STEPS, figsize=(10, 2.2))
axes[0].imshow(test_images[0, ..., 0], cmap="gray")
axes[0].set_title("image")
for t in range(STEPS):
    axes[1 + t].imshow(planes[t, 0].sum(-1), cmap="magma", vmin=0, vmax=16)
    axes[1 + t].set_title(f"spikes, t = {t + 1}")
for axis in axes:
    axis.set_axis_off()
figure.savefig("spikes.png")
