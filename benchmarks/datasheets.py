"""Machines that ImageNet could be trained on, from their data sheets."""

import math
from typing import NamedTuple


class Machine(NamedTuple):
    """Peaks of one device, from the maker's data sheet; dense, no sparsity."""

    name: str
    devices: int  # as JAX counts them
    float32: float  # TFLOP/s of float32 convolutions at JAX's default precision
    bfloat16: float  # TFLOP/s
    gigabytes: float
    bandwidth: float  # GB/s
    links: float  # GB/s that a device can send to its neighbours
    cores: int  # vCPUs of the host
    dollars: float  # an hour of the whole machine; nan where no list price was found


# TPUs: Cloud TPU documentation (v4, v5e, v5p, v6e). float32 convolutions take one pass
# in bfloat16 there. A chip of so small a slice reaches its neighbours by two links.
# Prices on demand in the US: SkyPilot catalogue v8, commit 006059e.
# GPUs: data sheets of the SXM versions. float32 convolutions are TF32 there. Prices:
# AWS Capacity Blocks, December 2024; the H200 is an eighth of a p5e.48xlarge.
MACHINES = (
    Machine("TPU v4-8", 4, 275, 275, 32, 1200, 100, 240, 12.88),
    Machine("TPU v5e-8", 8, 197, 197, 16, 819, 100, 224, 9.60),
    Machine("TPU v5p-8", 4, 459, 459, 95, 2765, 200, 208, 16.80),
    Machine("TPU v6e-8", 8, 918, 918, 32, 1638, 200, 180, 21.60),
    Machine("8x A100-80GB", 8, 156, 312, 80, 2039, 300, 96, math.nan),
    Machine("8x H100", 8, 494, 989, 80, 3350, 450, 192, 39.33),
    Machine("1x H200", 1, 494, 989, 141, 4800, math.inf, 24, 43.26 / 8),
)
