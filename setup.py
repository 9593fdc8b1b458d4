"""The packages; all else is in pyproject.toml."""

from setuptools import find_packages, setup

# `configs/` goes along for `bitsnn-train --config NAME` away from a clone.
CONFIGS = [
    "bitsnn_jax.configs",
    "bitsnn_jax.configs.binary",
    "bitsnn_jax.configs.direct",
]
setup(packages=[*find_packages(include=["bitsnn_jax*"]), *CONFIGS])
