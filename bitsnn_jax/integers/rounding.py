"""Matrices rounded to integers against what their inputs make of the error.

With weights w, integers W and the second moments H = sum x x^T of the inputs x,

    sum |W^T x - w^T x|^2 = (W - w)^T H (W - w)

for each column. To the nearest integers, each weight has an error of its own. Here
later weights make up for the errors of earlier ones.
"""

import numpy as np

# Of the mean of H's diagonal, added to it: weights whose inputs were not seen stay.
DAMPING = 0.01
# Over all weights of a matrix, at most; most need four.
PASSES = 20


def rounded_to_inputs(
    weights: np.ndarray, moments: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Round matrices so that their results stay, for inputs of these moments.

    Three steps, for each column:

    1. error feedback: weights are rounded one by one, those of the largest inputs
       first, and the error of each moves the ones that are left. This is GPTQ (Frantar
       et al. 2023), in the form of Babai's nearest plane: with H = R^T R, from the last
       row to the first, W_i = round(w_i - sum_{j>i} R_ij (W_j - w_j) / R_ii);
    2. of this and the nearest integers, the column with the smaller error;
    3. single weights, to the integer that is best beside the others, until none moves.

    So no column has a larger error than its nearest integers.

    Args:
      weights: [groups, K, N].
      moments: [groups, K, K], H. It is damped by `DAMPING`.
      low, high: integers that broadcast to weights.

    Returns:
      Integers as floats, [groups, K, N].
    """
    hessian = damped(moments)
    low, high = (np.broadcast_to(side, weights.shape) for side in (low, high))
    nearest = np.clip(np.round(weights), low, high)
    fed_back = _fed_back(weights, hessian, low, high)
    errors = [squared_errors(w - weights, hessian) for w in (nearest, fed_back)]
    better = (errors[1] < errors[0])[:, None]
    return _descended(np.where(better, fed_back, nearest), weights, hessian, low, high)


def damped(moments: np.ndarray) -> np.ndarray:
    """Add a part of the mean of the diagonal to it; 1 where there is none."""
    mean = np.trace(moments, axis1=-2, axis2=-1) / moments.shape[-1]
    amount = np.where(mean > 0, DAMPING * mean, 1.0)
    return moments + amount[:, None, None] * np.eye(moments.shape[-1])


def squared_errors(errors: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Compute e^T H e of each column: [groups, N]."""
    return np.sum(errors * (hessian @ errors), axis=1)


def _fed_back(weights, hessian, low, high):
    order = np.argsort(np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
    rows = order[:, :, None]
    sorted_rows = np.take_along_axis(hessian, rows, 1)
    root = np.linalg.cholesky(np.take_along_axis(sorted_rows, order[:, None], 2))
    w, low, high = (np.take_along_axis(x, rows, 1) for x in (weights, low, high))
    rounded, errors = np.empty_like(w), np.zeros_like(w)
    for i in reversed(range(w.shape[1])):
        # Below the diagonal of the root is R^T.
        moved = root[:, i + 1 :, i, None].swapaxes(1, 2) @ errors[:, i + 1 :]
        wanted = w[:, i] - moved[:, 0] / root[:, i, i, None]
        rounded[:, i] = np.clip(np.round(wanted), low[:, i], high[:, i])
        errors[:, i] = rounded[:, i] - w[:, i]
    result = np.empty_like(rounded)
    np.put_along_axis(result, rows, rounded, 1)
    return result


def _descended(start, weights, hessian, low, high):
    rounded = start.copy()
    slopes = np.ascontiguousarray((hessian @ (rounded - weights)).swapaxes(1, 2))
    for _ in range(PASSES):
        moved = False
        for i in range(weights.shape[1]):
            best = rounded[:, i] - slopes[:, :, i] / hessian[:, i, i, None]
            change = np.clip(np.round(best), low[:, i], high[:, i]) - rounded[:, i]
            group, column = np.nonzero(change)
            if not group.size:
                continue
            moved = True
            by = change[group, column]
            rounded[group, i, column] += by
            slopes[group, column] += by[:, None] * hessian[group, i]
        if not moved:
            break
    return rounded
