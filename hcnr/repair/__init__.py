"""Repairs: which neurons, by which weights, of one matrix or of all of them."""
