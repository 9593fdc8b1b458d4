"""What tests of direct training share."""

import sys

import jax
import pytest


@pytest.fixture
def float64():
    """Both JAX and PyTorch in float64."""
    torch = sys.modules["torch"]  # of those who compare with it
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(before)
