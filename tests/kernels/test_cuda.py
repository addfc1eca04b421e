"""What only a GPU can show: real shapes, streams, no hidden waiting, the same bits on every run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels.testing.accuracy import relative_error
from hcnr_kernels.testing.tensors import offsets, packed, padded

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

WIDTHS = {"q": (4096, 4096), "k": (4096, 1024), "up": (4096, 14336), "down": (14336, 4096)}
MIXED = (1024, 16, 1, 0, 333, 700, 129, 64)
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
TOLERANCES = {torch.bfloat16: 1e-4, torch.float16: 1e-4, torch.float32: 1e-5}
"""Sums of up to 14336 products on tensor cores: see `registry.TENSOR_CORES`."""


def inputs(
    lengths: tuple[int, ...], widths: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens drawn on the device: of 8B shapes there are too many for the CPU's generator."""
    generator = torch.Generator("cuda").manual_seed(0)
    x, g = (
        torch.randn(sum(lengths), width, generator=generator, device="cuda").to(dtype)
        for width in widths
    )
    return x, g, offsets(lengths, "cuda")


def squares(x: Tensor, g: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Sum of the squared gradients of the samples `[out, in]` in float64."""
    total = torch.zeros(g.shape[1], x.shape[1], dtype=torch.float64, device="cuda")
    start = 0
    for tokens in lengths:
        part = slice(start, start + tokens)
        total += (g[part].double().T @ x[part].double()).square_()
        start += tokens
    return total


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("lengths", [(256,) * 4, MIXED], ids=["even", "mixed"])
def test_scores_at_real_shapes(name: str, lengths: tuple[int, ...], dtype: torch.dtype) -> None:
    x, g, cu_seqlens = inputs(lengths, WIDTHS[name], dtype)
    want = squares(x, g, lengths)
    for function, summed in ((hk.fisher_output_, 1), (hk.fisher_input_, 0)):
        exact = want.sum(summed)
        for form in ("auto", "gram", "direct"):
            scores = function(
                torch.zeros(len(exact), device="cuda"),
                x, g, cu_seqlens, form=form, max_seqlen=max(lengths),
            )  # fmt: skip
            assert relative_error(scores, exact) <= TOLERANCES[dtype]
            half = len(exact) // 2
            kept = scores.topk(half).indices, exact.topk(half).indices
            assert torch.isin(*kept).sum() >= half - max(1, 0.001 * half)
    both = hk.fisher_both_(
        torch.zeros(len(want), device="cuda"), torch.zeros(len(want[0]), device="cuda"),
        x, g, cu_seqlens,
    )  # fmt: skip
    for scores, summed in zip(both, (1, 0), strict=True):
        assert relative_error(scores, want.sum(summed)) <= TOLERANCES[dtype]
    diagonal = hk.fisher_weight_(torch.zeros(want.shape, device="cuda"), x, g, cu_seqlens)
    assert relative_error(diagonal, want) <= TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [512, 1024, 1152, 4096])
def test_curvature_at_real_shapes(width: int, dtype: torch.dtype) -> None:
    x, _, _ = inputs((5000,), (width, 1), dtype)
    gram = hk.symmetrize_(hk.gram_(torch.zeros(width, width, device="cuda"), x))
    assert relative_error(gram, x.double().T @ x.double()) <= 3e-5
    # Sums of squares only: here an accumulation that cuts bits off would show.
    assert relative_error(gram.diagonal(), x.double().square().sum(0)) <= 3e-5


@pytest.mark.parametrize("axis", ["output", "input"])
def test_weights_at_real_shapes(axis: Any) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (14336, 4096)
    base, change = (torch.randn(*shape, generator=generator, device="cuda") for _ in range(2))
    base, tuned = base.bfloat16(), (base + 0.01 * change).bfloat16()
    mask = torch.rand(shape[0 if axis == "output" else 1], device="cuda") < 0.5
    where = mask[:, None] if axis == "output" else mask[None, :]
    num, den = hk.perturbation(base, tuned, mask, axis=axis)
    zero = torch.zeros((), dtype=torch.float64, device="cuda")
    wide = torch.where(where, base.double(), zero)
    assert relative_error(den, wide.square().sum()) <= 1e-6
    wide = torch.where(where, base.double() - tuned.double(), zero)
    assert relative_error(num, wide.square().sum()) <= 1e-6
    for deviation in (None, change):
        merged = hk.merge(base, tuned, mask, deviation, axis=axis, dtype=torch.bfloat16)
        restored = base if deviation is None else (base.float() + deviation).bfloat16()
        assert torch.equal(merged, torch.where(where, restored, tuned))


def calls() -> dict[str, Callable[[], Any]]:
    """One call of every fused operator, on inputs of its own."""
    x, g, cu_seqlens = inputs(MIXED, (512, 1376), torch.bfloat16)
    longest, zeros = max(MIXED), lambda *shape: torch.zeros(*shape, device="cuda")
    mask = torch.rand(1376, device="cuda") < 0.5
    base, tuned = torch.randn(2, 1376, 512, device="cuda").bfloat16()
    gram = hk.gram_(zeros(512, 512), x)
    options: dict[str, Any] = {"max_seqlen": longest}
    return {
        "output": lambda: hk.fisher_output_(zeros(1376), x, g, cu_seqlens, **options),
        "input": lambda: hk.fisher_input_(zeros(512), x, g, cu_seqlens, **options),
        "both": lambda: torch.cat(hk.fisher_both_(zeros(1376), zeros(512), x, g, cu_seqlens)),
        "weight": lambda: hk.fisher_weight_(zeros(1376, 512), x, g, cu_seqlens),
        "token_gram": lambda: hk.token_gram(x, cu_seqlens, **options),
        "gram": lambda: hk.gram_(zeros(512, 512), x).tril(),
        "wide gram": lambda: hk.gram_(zeros(1376, 1376), g).tril(),
        "symmetrize": lambda: hk.symmetrize_(gram.clone()),
        "perturbation": lambda: torch.stack(hk.perturbation(base, tuned, mask, axis="output")),
        "merge": lambda: hk.merge(base, tuned, mask, None, axis="output", dtype=base.dtype),
    }


def test_the_same_bits_on_every_run() -> None:
    for name, call in calls().items():
        first = call()
        for _ in range(3):
            assert torch.equal(first, call()), name


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
def test_the_host_waits_for_nothing() -> None:
    found = calls()
    for call in found.values():
        call()  # compiles
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for call in found.values():
            call()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def test_kernels_run_on_the_current_stream() -> None:
    """A copy behind half a second of work on the stream is what the kernels must wait for."""
    x, g, cu_seqlens = inputs((256, 77), (512, 640), torch.bfloat16)
    want = hk.fisher_output_(torch.zeros(640, device="cuda"), x, g, cu_seqlens, max_seqlen=256)
    late = torch.full_like(g, torch.nan)
    scores = torch.zeros(640, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(500_000_000)
        late.copy_(g)
        hk.fisher_output_(scores, x, late, cu_seqlens, max_seqlen=256)
    stream.synchronize()
    assert torch.equal(scores, want)


def test_a_graph_can_be_captured() -> None:
    x, g, cu_seqlens = inputs((256, 77), (512, 640), torch.bfloat16)
    scores = torch.zeros(640, device="cuda")
    want = hk.fisher_output_(scores.clone(), x, g, cu_seqlens, max_seqlen=256)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        hk.fisher_output_(scores, x, g, cu_seqlens, max_seqlen=256)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(scores, want)


def test_offsets_that_do_not_hold_are_nan_not_a_crash() -> None:
    x, g, cu_seqlens = inputs((256, 77), (512, 640), torch.bfloat16)
    for wrong in (cu_seqlens + 1, cu_seqlens - 1, cu_seqlens.flip(0), cu_seqlens[:2]):
        scores = torch.zeros(640, device="cuda")
        assert hk.fisher_output_(scores, x, g, wrong.contiguous(), max_seqlen=256).isnan().all()
    torch.cuda.synchronize()


def test_many_lengths_compile_once() -> None:
    from hcnr_kernels.ops.fisher.gram_form import quadratic_kernel
    from hcnr_kernels.ops.fisher.token_grams import token_gram_kernel

    def compiled() -> int:
        return sum(
            len(cache[0])
            for kernel in (token_gram_kernel, quadratic_kernel)
            for cache in kernel.device_caches.values()
        )

    def run(*lengths: int) -> None:
        x, g, cu_seqlens = packed(lengths, 64, 96, "cuda", torch.bfloat16)
        scores = torch.zeros(96, device="cuda")
        hk.fisher_output_(scores, x, g, cu_seqlens, form="gram", max_seqlen=max(lengths))

    run(130)
    run(7, 9)
    before = compiled()
    for lengths in ((131,), (128,), (256, 512), (1,), (16, 16, 16), (97,) * 5, (300, 1)):
        run(*lengths)
    assert compiled() == before


def test_padding_is_not_read() -> None:
    x, g, cu_seqlens, used = padded(MIXED, 512, 640, "cuda", torch.bfloat16)
    lengths = tuple(MIXED)
    kept = torch.cat(
        [
            torch.arange(start, start + tokens)
            for start, tokens in zip(cu_seqlens.tolist(), lengths, strict=False)
        ]
    ).cuda()
    want = squares(x[kept], g[kept], lengths)
    for form in ("gram", "direct", "auto"):
        scores = hk.fisher_output_(
            torch.zeros(640, device="cuda"), x, g, cu_seqlens,
            seqused=used, form=form, max_seqlen=max(lengths),
        )  # fmt: skip
        assert relative_error(scores, want.sum(1)) <= 1e-5


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_another_device_than_the_current_one() -> None:
    x, g, cu_seqlens = (tensor.to("cuda:1") for tensor in inputs((70, 3), (64, 48), torch.float32))
    scores = hk.fisher_output_(torch.zeros(48, device="cuda:1"), x, g, cu_seqlens)
    assert relative_error(scores, squares(x, g, (70, 3)).sum(1)) <= 1e-5
