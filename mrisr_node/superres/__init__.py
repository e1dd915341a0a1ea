"""Through-plane super-resolution: physics, network, checkpoints, training and measurement."""
