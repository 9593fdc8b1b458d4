"""From a trained network to a spiking one, and the proof that they agree."""
