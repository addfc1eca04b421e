"""Models larger than memory: weights are read from the checkpoint when a block runs."""
