"""The packages; all else is in pyproject.toml."""

from setuptools import find_packages, setup

# `configs/` goes along for `bitsnn-train --config NAME` away from a clone.
setup(packages=[*find_packages(include=["bitsnn_jax*"]), "bitsnn_jax.configs"])
