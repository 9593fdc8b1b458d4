"""Networks in and out: PyTorch, NIR, StableHLO, and our own bundle of files."""
