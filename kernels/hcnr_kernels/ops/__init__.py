"""The operators: a folder is a family, a file is one way to compute it.

It exports nothing: `ops.merge` is the family, `hcnr_kernels.merge` the function.
"""
