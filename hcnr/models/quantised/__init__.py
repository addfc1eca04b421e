"""Quantised checkpoints -> plain ones, by the library of their format."""
