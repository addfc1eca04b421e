"""Forms of the Fisher score against each other, a padded batch product, and plain torch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hcnr_kernels as hk
from bench.fisher import CASES
from hcnr_kernels.testing.accuracy import relative_error
from hcnr_kernels.testing.tensors import packed

BATCH, TOKENS = 32, 128
WIDTHS = [(512, 512), (512, 1376), (1376, 512)]


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, run_case: Callable[..., None]) -> None:
    run_case(CASES[name])


def batched(scores: Tensor, x: Tensor, g: Tensor) -> Tensor:
    """The usual vectorisation of method.md (2): two `bmm` and a reduction."""
    inputs, gradients = x.view(BATCH, TOKENS, -1), g.view(BATCH, TOKENS, -1)
    product = torch.bmm(torch.bmm(inputs, inputs.mT), gradients)
    return scores.add_(product.mul_(gradients).sum((0, 1)))


@pytest.mark.parametrize("width", WIDTHS, ids=str)
def test_forms(
    width: tuple[int, int], race: Callable[..., dict[str, float]], device: torch.device
) -> None:
    """In fp32; on a GPU eight times as wide, so that the products fill it."""
    if device.type == "cuda":
        width = (8 * width[0], 8 * width[1])
    x, g, cu_seqlens = packed((TOKENS,) * BATCH, *width, str(device), torch.float32)
    shared = hk.token_gram(x, cu_seqlens, max_seqlen=TOKENS)
    scores = torch.zeros(width[1], device=device)
    contenders: dict[str, Callable[[], Tensor]] = {
        "auto": lambda: hk.fisher_output_(scores.zero_(), x, g, cu_seqlens, max_seqlen=TOKENS),
        "shared Gram": lambda: hk.fisher_output_(
            scores.zero_(), x, g, cu_seqlens, token_gram=shared, max_seqlen=TOKENS
        ),
        "direct": lambda: hk.fisher_output_(
            scores.zero_(), x, g, cu_seqlens, form="direct", max_seqlen=TOKENS
        ),
        "bmm": lambda: batched(scores.zero_(), x, g),
    }
    want = contenders["direct"]().clone()
    for call in contenders.values():
        assert relative_error(call(), want) < 1e-5
    ratios = race(f"fisher_output_ {width[0]} -> {width[1]}", contenders)
    # NaN where nothing was timed.
    assert not ratios["direct"] <= 1, "the flop rule chose the slower form"
