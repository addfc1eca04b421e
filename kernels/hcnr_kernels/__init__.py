"""Operators of hcnr: tensors in, tensors out."""
