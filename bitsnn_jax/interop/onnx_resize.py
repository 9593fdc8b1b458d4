"""ONNX's resizing of images, in any of its systems of coordinates."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from bitsnn_jax.interop import windows
from bitsnn_jax.interop.onnx_values import known, whole


def _resize(
    x,
    roi=None,
    scales=None,
    sizes=None,
    *,
    antialias=0,
    axes=None,
    coordinate_transformation_mode="half_pixel",
    cubic_coeff_a=-0.75,
    exclude_outside=0,
    extrapolation_value=0.0,
    keep_aspect_ratio_policy="stretch",
    mode="nearest",
    nearest_mode="round_prefer_floor",
):
    """Resize the axes that have another size or scale.

    Places outside of the image take the value at the border.
    """
    unsupported = {
        "antialias=1": antialias,
        "exclude_outside=1": exclude_outside,
        f"keep_aspect_ratio_policy={keep_aspect_ratio_policy}": (
            keep_aspect_ratio_policy != "stretch"
        ),
        "coordinate_transformation_mode=tf_crop_and_resize": (
            coordinate_transformation_mode == "tf_crop_and_resize"
        ),
    }
    if asked := [name for name, is_asked in unsupported.items() if is_asked]:
        raise ValueError(f"{asked[0]} has no JAX form: resize without it")
    chosen = list(range(x.ndim)) if axes is None else [a % x.ndim for a in axes]
    before = [x.shape[axis] for axis in chosen]
    after, factors = _sizes(before, scales, sizes)
    for axis, size, outputs, scale in zip(chosen, before, after, factors, strict=True):
        if scale == 1 and size == outputs:
            continue
        places = _places(size, outputs, scale, coordinate_transformation_mode)
        if mode == "nearest":
            at = _ROUNDED[nearest_mode](places).astype(int)
            x = windows.nearest(x, axis, outputs, at)
        elif mode == "linear":
            x = windows.along(x, axis, windows.linear_weights(size, places))
        else:
            weights = windows.cubic_weights(size, places, a=cubic_coeff_a)
            x = windows.along(x, axis, weights)
    return x


def _upsample(x, scales=None, *, mode="nearest"):
    """Resize as before opset 10."""
    if not isinstance(scales, list):
        scales = known(scales, "scales")
    return _resize(
        jnp.asarray(x),
        scales=np.asarray(scales, np.float32),
        coordinate_transformation_mode="asymmetric",
        mode=mode,
        nearest_mode="floor",
    )


def _sizes(before, scales, sizes) -> tuple[list[int], Sequence[float]]:
    """Return the sizes after it, and the factors that go with them."""
    if sizes is not None and np.size(sizes):
        after = whole(sizes, "sizes")
        return after, [m / n for m, n in zip(after, before, strict=True)]
    factors = known(scales, "scales").reshape(-1)
    # In float32, as the file has them: 1.1 of 10 are 11.
    after = [
        int(np.floor(np.float32(n) * f)) for n, f in zip(before, factors, strict=True)
    ]
    return after, [float(f) for f in factors]


def _places(size: int, outputs: int, scale: float, mode: str) -> np.ndarray:
    """Find where each output lies on the axis that it comes from."""
    if mode == "align_corners":
        return windows.source_places(size, outputs, align_corners=True)
    if mode == "asymmetric":
        return np.arange(outputs) / scale
    if mode == "pytorch_half_pixel" and outputs == 1:
        return np.zeros(1)
    places = windows.source_places(size, outputs, scale=scale)
    if mode == "half_pixel_symmetric":
        return places + size / 2 * (1 - outputs / (scale * size))
    return places


_ROUNDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ceil": np.ceil,
    "floor": np.floor,
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
}
RESIZE: dict[str, Callable[..., Any]] = {"Resize": _resize, "Upsample": _upsample}
