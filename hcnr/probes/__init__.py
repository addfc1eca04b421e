"""Linear probes: what hidden states know about what a model does not."""
