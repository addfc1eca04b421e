"""Products and roundings of tiles, the same in every Triton kernel."""

import triton
import triton.language as tl

from hcnr_kernels.triton.launch import interpreting

INTERPRETED = tl.constexpr(interpreting())
"""Triton's interpreter multiplies the bits of bf16 numbers as integers, and cuts bits off when it
rounds to bf16."""


@triton.jit
def product(b_left, b_right, b_sum):
    """`b_sum + b_left @ b_right`, accumulated in fp32, no operand rounded.

    Operands of 16 bits enter the tensor cores as they are; fp32 operands as three TF32 products,
    which leaves about 1e-6. Operands of two dtypes are widened to fp32.
    """
    if INTERPRETED or b_left.dtype != b_right.dtype:
        b_left, b_right = b_left.to(tl.float32), b_right.to(tl.float32)
    if b_left.dtype == tl.float32:
        return tl.dot(b_left, b_right, b_sum, input_precision="tf32x3")
    return tl.dot(b_left, b_right, b_sum)


@triton.jit
def rounded(b, dtype):
    """`b` in `dtype`, rounded to nearest even; every bit kept where that is its own."""
    if b.dtype == dtype:
        return b
    b = b.to(tl.float32)
    if INTERPRETED and dtype == tl.bfloat16:
        # Triton's interpreter would cut the bits off.
        bits = b.to(tl.uint32, bitcast=True)
        nearest = tl.where(b == b, bits + 0x7FFF + (bits >> 16 & 1), bits | 0x400000) >> 16
        return nearest.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return b.to(dtype)
