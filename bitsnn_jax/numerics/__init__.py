"""The equations: QCFS, codes as spikes, neurons, layers that own thresholds."""
