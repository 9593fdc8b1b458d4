"""Runs that were never trained: folders with a checkpoint of a given state."""

from bitsnn_jax.config import to_dict
from bitsnn_jax.runs.checkpoint import Checkpoints

SHAPE = (8, 8, 1)  # of the digits


def save_state(folder, settings, state, **metadata):
    """Save a state as step 7 of a run, and return its variables."""
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(
            7,
            variables=state.variables,
            optimizer=state.opt_state,
            progress={},
            metadata={
                "config": to_dict(settings),
                "image_shape": SHAPE,
                "commit": "abc",
                "version": "0",
                **metadata,
            },
        )
    return state.variables
