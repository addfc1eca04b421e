"""What an operator cannot avoid: floating-point operations and bytes of one call.

Bytes are those of every tensor among the arguments, once, and of results that are larger.
"""

from typing import NamedTuple

from torch import Tensor

from hcnr_kernels.testing.inputs import Sample


class Cost(NamedTuple):
    """Operations and bytes that a call cannot avoid."""

    flops: float
    nbytes: float


def _bytes(sample: Sample) -> float:
    """Every tensor of the arguments once."""
    values = (*sample.args, *sample.kwargs.values())
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))


def fisher(sample: Sample) -> Cost:
    """The cheaper form of method.md (2) for every sample, the Gram's symmetric half left out."""
    scores, x, g, cu_seqlens = sample.args
    own, other = (g, x) if scores.shape[0] == g.shape[1] else (x, g)
    flops = 0.0
    for tokens in cu_seqlens.diff().tolist():
        gram = tokens * tokens * (other.shape[1] + own.shape[1])
        flops += min(gram, 2 * tokens * x.shape[1] * g.shape[1])
    return Cost(flops, _bytes(sample))


def direct(sample: Sample) -> Cost:
    """All tiles of every sample's gradient, formed once."""
    _, _, x, g, _ = sample.args
    return Cost(2 * x.shape[0] * x.shape[1] * g.shape[1], _bytes(sample))


def fisher_weight(sample: Sample) -> Cost:
    """As `direct`; its scores are as large as the weight."""
    scores, x, *_ = sample.args
    return Cost(2 * x.shape[0] * scores.numel(), _bytes(sample))


def token_gram(sample: Sample) -> Cost:
    """The symmetric half of every sample's Gram, which is written."""
    x, cu_seqlens = sample.args
    pairs = sum(tokens * tokens for tokens in cu_seqlens.diff().tolist())
    return Cost(pairs * x.shape[1], _bytes(sample) + 4 * pairs)


def gram(sample: Sample) -> Cost:
    """The lower triangle alone."""
    _, x = sample.args
    return Cost(x.shape[0] * x.shape[1] ** 2, _bytes(sample))


def streaming(sample: Sample) -> Cost:
    """A few operations for every element of the first argument."""
    return Cost(4 * sample.args[0].numel(), _bytes(sample))


def inverse(sample: Sample) -> Cost:
    """`d^3`, the inverse as large as the matrix."""
    hessian = sample.args[0]
    return Cost(hessian.numel() * hessian.shape[-1], 2 * _bytes(sample))


def compensation(sample: Sample) -> Cost:
    """A full inverse for `sum`, else a factorisation of the restored part; two half products."""
    delta, mask, _ = sample.args
    restored, neurons = int(mask.sum()), mask.shape[0]
    others = delta.numel() // neurons
    solve = neurons**3 if sample.kwargs["kind"] == "sum" else restored**3 / 3
    return Cost(solve + 4 * others * restored * neurons, _bytes(sample))


def objective(sample: Sample) -> Cost:
    """One product with H and one sum."""
    deviation, hessian = sample.args
    return Cost(2 * deviation.numel() * hessian.shape[0], _bytes(sample))


def objectives(sample: Sample) -> Cost:
    """The lower triangle of one product, and one sum."""
    deviation, _, hessian = sample.args
    return Cost(deviation.numel() * hessian.shape[0], _bytes(sample))
