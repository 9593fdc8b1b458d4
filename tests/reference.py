"""The paper's spiking network in NumPy float64, from the equations alone.

A second formulation to compare with: nothing of the library is imported, time is a loop
and each layer is written out. The notation is that of the equations: T steps, spikes
s(t) most significant first, delta = theta / (2**T - 1), weight(t) = 2**(T-t).
"""

import numpy as np

EPSILON = 1e-5  # of the batch norms


def bias_of_norm(norm, stats, steps):
    """Proposition I: beta_c = beta/T + (1 - 1/T) gamma mu / sigma."""
    sigma = np.sqrt(stats["var"] + EPSILON)
    return (
        norm["bias"] / steps + (1 - 1 / steps) * norm["scale"] * stats["mean"] / sigma
    )


def bias_of_sum(bias, steps):
    """Proposition I for a convolution or a dense layer: b_c = b/T."""
    return bias / steps


def normalise(x, norm, stats, bias):
    return norm["scale"] * (x - stats["mean"]) / np.sqrt(stats["var"] + EPSILON) + bias


def convolve(x, kernel, *, stride=1):
    """[n, h, w, c] with [k, k, c, d], zeros of k // 2 around the image."""
    size = len(kernel)
    half = size // 2
    x = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    return np.einsum("nhwcij,ijcd->nhwd", windows[:, ::stride, ::stride], kernel)


def average_pool(x):
    """2x2 with stride 2."""
    return np.mean([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)


def fire(currents, theta):
    """Eq. (9) and (10) on [T, ...]: charge for T steps, then fire for T steps."""
    steps = len(currents)
    delta = theta / (2**steps - 1)
    u = np.zeros(currents[0].shape) + delta / 2
    for current in currents:
        u = u + current
    spikes = []
    for t in range(1, steps + 1):
        spike = u >= delta * 2 ** (steps - t)
        u = u - spike * delta * 2 ** (steps - t)
        spikes.append(spike)
    return np.array(spikes)


class Network:
    """Layers of neurons by name, and what they sent: `spikes[name]` is [T, ...]."""

    def __init__(self, variables, steps):
        self.params = variables["params"]
        self.stats = variables.get("batch_stats", {})
        self.steps = steps
        self.spikes = {}

    def neurons(self, name, currents, act):
        """Fires, and returns what each step brings: delta 2**(T-t) s(t)."""
        theta = act["theta"]
        self.spikes[name] = fire(currents, theta)
        delta = theta / (2**self.steps - 1)
        weights = [2 ** (self.steps - t) for t in range(1, self.steps + 1)]
        pairs = zip(weights, self.spikes[name], strict=True)
        return [delta * weight * spike for weight, spike in pairs]

    def conv_norm(self, currents, layer, stats, *, stride=1):
        """One batch norm of one convolution, at each step, with its shifted bias."""
        bias = bias_of_norm(layer["norm"], stats["norm"], self.steps)
        kernel = layer["conv"]["kernel"]
        return [
            normalise(
                convolve(x, kernel, stride=stride), layer["norm"], stats["norm"], bias
            )
            for x in currents
        ]

    def dense(self, currents, layer):
        bias = bias_of_sum(layer["bias"], self.steps)
        return [x @ layer["kernel"] + bias for x in currents]

    def conv_bias(self, currents, layer):
        bias = bias_of_sum(layer["bias"], self.steps)
        return [convolve(x, layer["kernel"]) + bias for x in currents]

    def once(self, z):
        """The image is seen once: all of its charge comes at the first step."""
        return [z] + [np.zeros_like(z)] * (self.steps - 1)


def resnet(variables, image, *, steps):
    """Stem, an identity block, a block that halves the image; mean, dense.

    Returns the logits and the spikes of each layer of neurons.
    """
    net = Network(variables, steps)
    params, stats = net.params, net.stats

    norm, norm_stats = params["stem"]["norm"], stats["stem"]["norm"]
    z = convolve(image, params["stem"]["conv"]["kernel"])
    z = normalise(z, norm, norm_stats, norm["bias"])
    x = net.neurons("stem_act", net.once(z), params["stem_act"])

    for name, stride in (("stages_0_0", 1), ("stages_1_0", 2)):
        block, block_stats = params[name], stats[name]
        y = net.conv_norm(x, block["conv_1"], block_stats["conv_1"], stride=stride)
        y = net.neurons(f"{name}/act_1", y, block["act_1"])
        y = net.conv_norm(y, block["conv_2"], block_stats["conv_2"])
        if stride == 2:
            shortcut, shortcut_stats = block["shortcut"], block_stats["shortcut"]
            x = net.conv_norm(x, shortcut, shortcut_stats, stride=2)
        sums = [a + b for a, b in zip(y, x, strict=True)]
        x = net.neurons(f"{name}/act_2", sums, block["act_2"])

    logits = net.dense([step.mean((1, 2)) for step in x], params["head"])
    return sum(logits), net.spikes


def vgg(variables, image, *, steps):
    """Three convolutions with bias and no norm, average pooling, two dense layers."""
    net = Network(variables, steps)
    params = net.params

    z = convolve(image, params["conv_1"]["kernel"]) + params["conv_1"]["bias"]
    x = net.neurons("act_1", net.once(z), params["act_1"])
    x = net.neurons("act_2", net.conv_bias(x, params["conv_2"]), params["act_2"])
    x = [average_pool(step) for step in x]
    x = net.neurons("act_3", net.conv_bias(x, params["conv_3"]), params["act_3"])
    x = [average_pool(step).reshape(len(image), -1) for step in x]
    x = net.neurons("act_4", net.dense(x, params["hidden"]), params["act_4"])
    return sum(net.dense(x, params["head"])), net.spikes
