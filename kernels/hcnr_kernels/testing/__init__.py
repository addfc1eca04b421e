"""What tests, benchmarks and the table of resources know of the operators.

Slow float64 twins, seeded inputs, costs, tolerances, and what the Triton kernels need of a GPU.
Nothing else of the library imports this package.
"""
