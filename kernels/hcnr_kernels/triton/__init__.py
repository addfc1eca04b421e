"""What the Triton kernels of the families share; the kernels are in `ops/<family>/triton.py`.

Importing this package, `launch` or `tiles` does not import Triton; `precision`, `items` and the
kernels do.
"""
