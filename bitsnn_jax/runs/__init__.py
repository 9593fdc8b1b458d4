"""Networks on disk: checkpoints, run folders, the networks of the package."""
