"""method.md (1) and (2) against single-sample backward passes in float64."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels.chunks import chunk_length
from hcnr_kernels.ops.fisher import vectorised
from hcnr_kernels.ops.fisher.forms import Form
from hcnr_kernels.testing.accuracy import TOLERANCES, relative_error
from hcnr_kernels.testing.tensors import RAGGED, offsets, packed
from hcnr_kernels.triton.launch import interpreting

FORMS: tuple[Form, ...] = ("auto", "gram", "direct")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
AXES: dict[str, tuple[Callable[..., Tensor], int]] = {
    "output": (hk.fisher_output_, 1),
    "input": (hk.fisher_input_, 0),
}


def autograd_oracle(x: Tensor, g: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Sum over samples of the square of the gradient of a linear map `[out, in]`, by autograd.

    The loss `sum(g * (x W^T))` has g as its gradient at the output.
    """
    total = torch.zeros(g.shape[1], x.shape[1], dtype=torch.float64)
    start = 0
    for tokens in lengths:
        weight = torch.zeros_like(total, requires_grad=True)
        part, upstream = x[start : start + tokens].double(), g[start : start + tokens].double()
        (upstream * torch.nn.functional.linear(part, weight)).sum().backward()
        assert weight.grad is not None
        total += weight.grad.square()
        start += tokens
    return total


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(
    ("lengths", "in_features", "out_features"),
    [(RAGGED, 129, 63), ((1,), 1, 1), ((17,), 63, 129), ((64, 65, 128, 129), 33, 20), ((0,), 4, 3)],
)
def test_scores_equal_autograd(
    axis: str,
    form: Form,
    dtype: torch.dtype,
    lengths: tuple[int, ...],
    in_features: int,
    out_features: int,
) -> None:
    x, g, cu_seqlens = packed(lengths, in_features, out_features, "cpu", dtype)
    function, summed = AXES[axis]
    want = autograd_oracle(x, g, lengths).sum(summed)
    scores = function(torch.zeros(len(want)), x, g, cu_seqlens, form=form)
    assert relative_error(scores, want) <= TOLERANCES[dtype]


@pytest.mark.parametrize("axis", AXES)
def test_planes_of_long_samples(axis: str) -> None:
    """They are doubled already: no tile of theirs counts twice."""
    lengths = (64, 65, 0, 200)
    x, g, cu_seqlens = packed(lengths, 33, 20, "cpu", torch.bfloat16)
    function, summed = AXES[axis]
    want = autograd_oracle(x, g, lengths).sum(summed)
    planes = hk.split_token_gram(x if axis == "output" else g, cu_seqlens, max_seqlen=208)
    scores = function(torch.zeros(len(want)), x, g, cu_seqlens, token_gram=planes)
    assert relative_error(scores, want) <= 1e-5


@settings(max_examples=25 if interpreting() else 40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 140), min_size=0, max_size=5),
    in_features=st.integers(1, 70),
    out_features=st.integers(1, 70),
    axis=st.sampled_from(list(AXES)),
    form=st.sampled_from(FORMS),
)
def test_any_shape(
    lengths: list[int], in_features: int, out_features: int, axis: str, form: Form
) -> None:
    x, g, cu_seqlens = packed(tuple(lengths), in_features, out_features, "cpu", torch.float32)
    function, summed = AXES[axis]
    want = autograd_oracle(x, g, tuple(lengths)).sum(summed)
    scores = function(torch.zeros(len(want)), x, g, cu_seqlens, form=form)
    # Sums over tokens may cancel, so the error is held against the sum that does not.
    size = autograd_oracle(x.abs(), g.abs(), tuple(lengths)).sum(summed)
    assert float((scores - want).norm()) <= 1e-6 * float(size.norm())


def test_at_most_twice_the_error_of_plain_torch() -> None:
    lengths = (128,) * 8
    x, g, cu_seqlens = packed(lengths, 257, 130, "cpu", torch.float32)
    want = autograd_oracle(x, g, lengths).sum(1)
    plain = sum((g[i : i + 128].T @ x[i : i + 128]).square().sum(1) for i in range(0, 1024, 128))
    assert isinstance(plain, Tensor)
    for form in FORMS:
        scores = hk.fisher_output_(torch.zeros(130), x, g, cu_seqlens, form=form)
        assert relative_error(scores, want) <= 2 * relative_error(plain, want) + 1e-8


def test_neither_the_batch_nor_the_token_is_squared() -> None:
    """One sample of two tokens is not two samples, and two samples are not one."""
    x, g, together = packed((2,), 5, 3, "cpu", torch.float32)
    apart = offsets((1, 1), "cpu")
    one = hk.fisher_output_(torch.zeros(3), x, g, together)
    two = hk.fisher_output_(torch.zeros(3), x, g, apart)
    assert relative_error(two, one) > 0.1
    assert relative_error(one, (g.T @ x).square().sum(1)) < 1e-6


def test_batching_does_not_change_the_ranking() -> None:
    lengths = (31, 7, 64, 12, 90, 3)
    x, g, cu_seqlens = packed(lengths, 40, 200, "cpu", torch.float32)
    ranking = autograd_oracle(x, g, lengths).sum(1).argsort()
    whole = hk.fisher_output_(torch.zeros(200), x, g, cu_seqlens)
    parts = torch.zeros(200)
    bounds = cu_seqlens.tolist()
    for start, stop in pairwise(bounds):
        alone = torch.tensor([0, stop - start], dtype=torch.int32)
        hk.fisher_output_(parts, x[start:stop], g[start:stop], alone)
    assert relative_error(whole, parts) < 1e-6
    assert torch.equal(whole.argsort(), ranking)


@pytest.mark.skipif(interpreting(), reason="looks into the CPU code")
def test_auto_takes_the_cheaper_form_for_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def spy(name: str) -> None:
        original = getattr(vectorised, name)

        def run(*args: Any) -> Any:
            taken.append(f"{name} {args[-1].shape[0]}")
            return original(*args)

        monkeypatch.setattr(vectorised, name, run)

    spy("_lower_token_gram")
    spy("_gradient_tiles")
    # 20 x 30 / (20 + 30) = 12 tokens is where the direct form starts to win.
    x, g, cu_seqlens = packed((11, 13), 20, 30, "cpu", torch.float32)
    hk.fisher_output_(torch.zeros(30), x, g, cu_seqlens)
    assert taken == ["_lower_token_gram 11", "_gradient_tiles 13"]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_shared_gram_replaces_the_tensor_it_came_from(axis: str, dtype: torch.dtype) -> None:
    x, g, cu_seqlens = packed((70, 0, 1, 129), 34, 21, "cpu", dtype)
    function, summed = AXES[axis]
    other = x if axis == "output" else g
    gram = hk.token_gram(other, cu_seqlens, max_seqlen=131)
    want = autograd_oracle(x, g, (70, 0, 1, 129)).sum(summed)
    gone = torch.full_like(other, torch.nan)
    pair = (gone, g) if axis == "output" else (x, gone)
    scores = function(torch.zeros(len(want)), *pair, cu_seqlens, token_gram=gram)
    assert relative_error(scores, want) <= TOLERANCES[dtype]


def test_token_gram_is_zero_outside_its_block() -> None:
    x, _, cu_seqlens = packed((70, 0, 3), 9, 1, "cpu", torch.float32)
    gram = hk.token_gram(x, cu_seqlens, max_seqlen=75)
    assert gram.shape == (73, 75)
    for start, stop in [(0, 70), (70, 73)]:
        padded = torch.zeros(75, 9)
        padded[: stop - start] = x[start:stop]
        torch.testing.assert_close(gram[start:stop], x[start:stop] @ padded.T)


def test_contributions_are_never_negative() -> None:
    """A Gram with a slightly negative eigenvalue, as rounding makes one, must not lower a score."""
    x, g, cu_seqlens = packed((4,), 6, 5, "cpu", torch.float32)
    scores = hk.fisher_output_(torch.ones(5), x, g, cu_seqlens, token_gram=-torch.eye(4))
    assert torch.equal(scores, torch.ones(5))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_do_not_change_scores(
    form: Form, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a budget of 600 bytes every loop over chunks is taken several times."""
    x, g, cu_seqlens = packed(RAGGED, 30, 50, "cpu", dtype)
    want = autograd_oracle(x, g, RAGGED)
    monkeypatch.setattr(vectorised, "chunk_length", lambda row: chunk_length(row, budget=600))
    scores = hk.fisher_output_(torch.zeros(50), x, g, cu_seqlens, form=form)
    assert relative_error(scores, want.sum(1)) <= 1e-5
    diagonal = hk.fisher_weight_(torch.zeros(50, 30), x, g, cu_seqlens)
    assert relative_error(diagonal, want) <= 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_diagonal_equals_autograd(dtype: torch.dtype) -> None:
    x, g, cu_seqlens = packed(RAGGED, 129, 63, "cpu", dtype)
    scores = hk.fisher_weight_(torch.zeros(63, 129), x, g, cu_seqlens)
    assert relative_error(scores, autograd_oracle(x, g, RAGGED)) <= TOLERANCES[dtype]


def test_views_are_not_copied_whole() -> None:
    x, g, cu_seqlens = packed((20, 9), 64, 48, "cpu", torch.float32)
    want = hk.fisher_output_(
        torch.zeros(24), x[:, 1::2].contiguous(), g[:, :24].contiguous(), cu_seqlens
    )
    got = hk.fisher_output_(torch.zeros(24), x[:, 1::2], g[:, :24], cu_seqlens)
    torch.testing.assert_close(got, want)
