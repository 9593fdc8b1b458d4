"""Neurons and surrogates in NumPy, with gradients derived by hand: loops over time.

    u_t = a v_{t-1} + b x_t,   z_t = u_t - theta, or u_t / theta - 1,   s_t = [z_t >= 0]
    v_t = u_t (1 - s_t), or u_t - s_t theta

A loss has the gradients g_t to s_t and h_t to u_t. Backward, l the gradient to v_t:

    ds = g_t - l u_t, or g_t - l theta; g_t alone if the reset is detached
    du = h_t + l (1 - s_t) + ds H'(z_t) dz/du, or h_t + l + ...
    dx_t = b du,   l <- a du

and theta, which stands in z and in the second reset, gets the rest of both.
"""

from typing import NamedTuple

import numpy as np


class Leak(NamedTuple):
    """Shares of the membrane and of the current: u = a v + b x."""

    a: float
    b: float


def run(x, theta, leak, *, soft, relative):
    """Spikes and membranes before firing, [T, ...] each."""
    v, spikes, membranes = np.zeros_like(x[0]), [], []
    for current in x:
        u = leak.a * v + leak.b * current
        z = u / theta - 1 if relative else u - theta
        s = (z >= 0).astype(float)
        v = u - s * theta if soft else u * (1 - s)
        spikes.append(s)
        membranes.append(u)
    return np.stack(spikes), np.stack(membranes)


def gradients(x, theta, leak, g, h, slope, *, soft, relative, detached):
    """Gradients to x, to theta, and to sigma where a = 1 - sigma and b = sigma."""
    spikes, membranes = run(x, theta, leak, soft=soft, relative=relative)
    dx, dtheta, dsigma, later = np.zeros_like(x), 0.0, 0.0, np.zeros_like(x[0])
    for t in reversed(range(len(x))):
        s, u = spikes[t], membranes[t]
        ds = g[t].copy()
        if not detached:
            ds -= later * (theta if soft else u)
        if soft:
            dtheta -= (later * s).sum()
        z = u / theta - 1 if relative else u - theta
        dz = ds * slope(z)
        du = h[t] + later * (1 if soft else 1 - s) + dz / (theta if relative else 1)
        dtheta -= (dz * (u / theta**2 if relative else 1)).sum()
        before = np.zeros_like(u)
        if t:
            last, fired = membranes[t - 1], spikes[t - 1]
            before = last - fired * theta if soft else last * (1 - fired)
        dsigma += (du * (x[t] - before)).sum()
        dx[t], later = leak.b * du, leak.a * du
    return dx, dtheta, dsigma


def sigma(x):
    return (1 + np.tanh(x / 2)) / 2


def _dspike(b, reach):
    def slope(z):
        inside = b / np.cosh(b * z) ** 2 / (2 * np.tanh(b * reach))
        return inside * (np.abs(z) <= reach)

    def smooth(z):
        clipped = np.clip(z, -reach, reach)
        return (np.tanh(b * clipped) + np.tanh(b * reach)) / (2 * np.tanh(b * reach))

    return slope, smooth


def _ramp(z):
    return np.where(z < 0, (1 + z) ** 2 / 2, 1 - (1 - z) ** 2 / 2)


# Name -> (H', the smooth step that it is the derivative of).
SLOPES = {
    "triangle": (
        lambda z: np.where(np.abs(z) < 1, 1 - np.abs(z), 0),
        lambda z: _ramp(np.clip(z, -1, 1)),
    ),
    "linear": (
        lambda z: 0.3 * np.where(np.abs(z) < 1, 1 - np.abs(z), 0),
        lambda z: 0.3 * _ramp(np.clip(z, -1, 1)),
    ),
    "arctan": (
        lambda z: 1 / (1 + (np.pi * z) ** 2),
        lambda z: np.arctan(np.pi * z) / np.pi + 0.5,
    ),
    "sigmoid": (
        lambda z: 4 * sigma(4 * z) * sigma(-4 * z),
        lambda z: sigma(4 * z),
    ),
    "rectangle": (
        lambda z: (np.abs(z) <= 0.5).astype(float),
        lambda z: np.clip(z + 0.5, 0, 1),
    ),
    "dspike": _dspike(3.0, 0.5),
    "dspike_centred": _dspike(2.5, 1.0),
    "evolving": (
        lambda z: 0.5 / np.cosh(z) ** 2,
        lambda z: 0.5 * np.tanh(z) + 0.5,
    ),
}
