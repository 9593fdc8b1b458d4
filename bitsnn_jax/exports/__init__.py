"""Networks out: our own bundle of files, NIR, StableHLO."""
