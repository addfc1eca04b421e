"""The fused backends: one module a family, each function with the operator's name and arguments.

Importing this package, `launch` or `tiles` does not import Triton; the families do.
"""
