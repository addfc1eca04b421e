"""The Triton kernels of the Fisher scores: routing, what no luck may decide."""

# To a type checker a jitted function never returns: nothing but a kernel may call it.
# pyright: reportGeneralTypeIssues=false

from typing import Any

import pytest
import torch
from torch import Tensor

import hcnr_kernels as hk
from hcnr_kernels.ops.fisher.forms import gram_crossover
from hcnr_kernels.testing.accuracy import TOLERANCES, relative_error
from hcnr_kernels.testing.tensors import packed, padded
from hcnr_kernels.triton.launch import Launch, interpreting, recording

triton = pytest.importorskip("triton", reason="triton is not installed")

from hcnr_kernels.ops.fisher import direct_form, gram_form, token_grams  # noqa: E402
from hcnr_kernels.ops.fisher import triton as fisher  # noqa: E402
from hcnr_kernels.testing.specialization import specialize  # noqa: E402
from hcnr_kernels.triton import items  # noqa: E402

interpreted = pytest.mark.skipif(not interpreting(), reason="needs TRITON_INTERPRET=1")
compiled = pytest.mark.skipif(interpreting(), reason="looks at kernels to be compiled")


def oracle(x: Tensor, g: Tensor, cu_seqlens: Tensor, seqused: Tensor | None = None) -> Tensor:
    """Sum over samples of the squared gradient `[out, in]`, in float64."""
    total = torch.zeros(g.shape[1], x.shape[1], dtype=torch.float64)
    for b, start in enumerate(cu_seqlens[:-1].tolist()):
        stop = int(cu_seqlens[b + 1]) if seqused is None else start + int(seqused[b])
        total += (g[start:stop].double().T @ x[start:stop].double()).square()
    return total


if interpreting():
    import triton.language as tl

    @triton.jit
    def note_pairs(p_numbers, p_found):
        i = tl.program_id(0)
        row, column = token_grams.pair_of(tl.load(p_numbers + i))
        tl.store(p_found + 2 * i, row)
        tl.store(p_found + 2 * i + 1, column)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", ["gram", "direct", "auto"])
def test_every_partial_sum_is_written(
    form: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh memory is NaN here; the result must not be."""

    def poisoned(shape: tuple[int, ...], **kwargs: Any) -> Tensor:
        return torch.full(shape, torch.nan, **kwargs)

    class Poison:
        def __getattr__(self, name: str) -> Any:
            return poisoned if name == "empty" else getattr(torch, name)

    def poisoned_planes(x: Tensor, longest: int) -> Tensor:
        return torch.full((2, len(x), longest + 1), torch.nan, dtype=torch.bfloat16)[..., :longest]

    monkeypatch.setattr(gram_form, "torch", Poison())
    monkeypatch.setattr(token_grams, "empty_planes", poisoned_planes)
    monkeypatch.setattr(direct_form, "torch", Poison())
    x, g, cu_seqlens = packed((130, 0, 1, 257, 17), 70, 150, "cpu", dtype)
    want = oracle(x, g, cu_seqlens)
    for function, summed in ((hk.fisher_output_, 1), (hk.fisher_input_, 0)):
        scores = function(
            torch.zeros(want.shape[1 - summed]), x, g, cu_seqlens, form=form, max_seqlen=257
        )
        assert relative_error(scores, want.sum(summed)) <= TOLERANCES[dtype]
    both = hk.fisher_both_(torch.zeros(150), torch.zeros(70), x, g, cu_seqlens)
    for scores, summed in zip(both, (1, 0), strict=True):
        assert relative_error(scores, want.sum(summed)) <= TOLERANCES[dtype]


@interpreted
def test_rows_that_no_sample_uses_are_not_read() -> None:
    """They are NaN in these inputs, and stand before, between and behind the samples."""
    lengths = (70, 0, 1, 129)
    x, g, cu_seqlens, used = padded(lengths, 34, 21, "cpu", torch.bfloat16)
    want = oracle(x, g, cu_seqlens, used)
    gram = hk.token_gram(x, cu_seqlens, seqused=used, max_seqlen=133)
    options: Any
    for options in ({"form": "gram"}, {"form": "direct"}, {"token_gram": gram}):
        scores = hk.fisher_output_(
            torch.zeros(21), x, g, cu_seqlens, seqused=used, max_seqlen=129, **options
        )
        assert relative_error(scores, want.sum(1)) <= 1e-5


@interpreted
@pytest.mark.parametrize("form", ["gram", "direct"])
def test_offsets_may_be_views(form: Any) -> None:
    lengths = (10, 0, 33)
    x, g, cu_seqlens, used = padded(lengths, 20, 30, "cpu", torch.float32)
    want = oracle(x, g, cu_seqlens, used).sum(1)

    def strided(values: Tensor) -> Tensor:
        return torch.stack([values, values * 0 + 77], 1)[:, 0]

    scores = hk.fisher_output_(
        torch.zeros(30), x, g, strided(cu_seqlens),
        seqused=strided(used), form=form, max_seqlen=33,
    )  # fmt: skip
    assert relative_error(scores, want) <= 1e-5


@interpreted
@pytest.mark.parametrize("form", ["gram", "direct", "given"])
def test_padding_in_front_of_the_first_sample_is_longer_than_a_tile(form: Any) -> None:
    x, g, cu_seqlens, used = padded((70, 3), 34, 21, "cpu", torch.float32)
    x, g = (torch.cat([torch.full((200, t.shape[1]), torch.nan), t]) for t in (x, g))
    cu_seqlens = cu_seqlens + 200
    options: Any = {"form": form}
    if form == "given":
        options = {"token_gram": hk.token_gram(x, cu_seqlens, max_seqlen=80, seqused=used)}
    scores = hk.fisher_output_(
        torch.zeros(21), x, g, cu_seqlens, seqused=used, max_seqlen=70, **options
    )
    assert relative_error(scores, oracle(x, g, cu_seqlens, used).sum(1)) <= 1e-5


@interpreted
@pytest.mark.parametrize("layout", ["by columns", "odd stride", "every other"])
@pytest.mark.parametrize("lengths", [(64,), (64, 3)])
def test_a_token_gram_of_any_layout(layout: str, lengths: tuple[int, ...]) -> None:
    x, g, cu_seqlens = packed(lengths, 34, 21, "cpu", torch.float32)
    gram = hk.token_gram(x, cu_seqlens, max_seqlen=64)
    given = {
        "by columns": lambda t: t.T.contiguous().T,
        "odd stride": lambda t: torch.cat([t, t[:, :6] * torch.nan], 1)[:, :64],
        "every other": lambda t: torch.stack([t, t * torch.nan], 2).flatten(1)[:, ::2],
    }[layout](gram)
    scores = hk.fisher_output_(torch.zeros(21), x, g, cu_seqlens, token_gram=given)
    assert relative_error(scores, oracle(x, g, cu_seqlens).sum(1)) <= 1e-5


@interpreted
@pytest.mark.parametrize("form", ["gram", "direct"])
def test_scores_may_be_a_strided_view(form: Any) -> None:
    x, g, cu_seqlens = packed((70, 3), 34, 21, "cpu", torch.float32)
    room = torch.zeros(42)
    hk.fisher_output_(room[::2], x, g, cu_seqlens, form=form)
    assert relative_error(room[::2], oracle(x, g, cu_seqlens).sum(1)) <= 1e-5
    assert not room[1::2].any()


@compiled
def test_one_program_owns_each_tile_of_the_diagonal() -> None:
    """Two would race for it on a GPU; the interpreter runs them after each other."""
    scores, cu_seqlens = meta(96, 64, dtype=torch.float32), meta(9, dtype=torch.int32)
    with recording(90) as launches:
        fisher.fisher_weight_(scores, meta(512, 64), meta(512, 96), cu_seqlens, None)
    (one,) = launches
    across = -(-64 // one.arguments["BN"])
    assert one.grid == across * -(-96 // one.arguments["BM"])
    assert one.arguments["splits"] == 1


@interpreted
def test_rows_of_no_sample_at_all() -> None:
    """Only padding: nothing is read, not even lengths that are not there."""
    x, g = torch.full((200, 8), torch.nan), torch.full((200, 5), torch.nan)
    none: dict[str, Any] = {"seqused": torch.empty(0, dtype=torch.int32)}
    start = torch.zeros(1, dtype=torch.int32)
    for form in ("gram", "direct", "auto"):
        scores = hk.fisher_output_(torch.zeros(5), x, g, start, form=form, max_seqlen=16, **none)
        assert torch.equal(scores, torch.zeros(5))
    assert not hk.token_gram(x, start, max_seqlen=16, **none).any()
    assert not hk.fisher_weight_(torch.zeros(5, 8), x, g, start, **none).any()


@interpreted
@pytest.mark.parametrize("view", ["transposed", "expanded", "sliced", "reversed rows"])
def test_views_are_read_in_place(view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.Tensor.contiguous

    def offsets_alone(tensor: Tensor) -> Tensor:
        assert tensor.dim() == 1, "a matrix was copied"
        return original(tensor)

    monkeypatch.setattr(torch.Tensor, "contiguous", offsets_alone)
    x, g, cu_seqlens = packed((70, 3), 48, 40, "cpu", torch.float32)
    views = {
        "transposed": lambda t: t.clone().T.clone(memory_format=torch.contiguous_format).T,
        "expanded": lambda t: t[:1].expand(t.shape),
        "sliced": lambda t: t[:, 3::2],
        "reversed rows": lambda t: torch.cat([t, t], 1)[:, 5 : 5 + t.shape[1]],
    }
    x, g = views[view](x), views[view](g)
    want = oracle(x, g, cu_seqlens)
    for form in ("gram", "direct"):
        scores = hk.fisher_input_(torch.zeros(len(want[0])), x, g, cu_seqlens, form=form)
        assert relative_error(scores, want.sum(0)) <= 1e-5
    weight = torch.zeros(want.T.shape).T
    assert relative_error(hk.fisher_weight_(weight, x, g, cu_seqlens), want) <= 1e-5


@interpreted
def test_dtypes_of_input_and_gradient_may_differ() -> None:
    x, g, cu_seqlens = packed((70, 3), 33, 20, "cpu", torch.float32)
    x = x.bfloat16()
    want = oracle(x, g, cu_seqlens)
    for form in ("gram", "direct"):
        scores = hk.fisher_output_(torch.zeros(20), x, g, cu_seqlens, form=form)
        assert relative_error(scores, want.sum(1)) <= 1e-5


@interpreted
def test_a_gram_of_small_tiles_is_read_in_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input in fp32 has tiles of 64 tokens, a gradient in bf16 of 128: zeros fill the square."""

    def poisoned_planes(x: Tensor, longest: int) -> Tensor:
        return torch.full((2, len(x), longest), torch.nan, dtype=torch.bfloat16)

    monkeypatch.setattr(token_grams, "empty_planes", poisoned_planes)
    x, g, cu_seqlens = packed((257, 130, 64), 33, 20, "cpu", torch.float32)
    g = g.bfloat16()
    want = oracle(x, g, cu_seqlens)
    scores = hk.fisher_output_(torch.zeros(20), x, g, cu_seqlens, form="gram", max_seqlen=257)
    assert relative_error(scores, want.sum(1)) <= 1e-5


@interpreted
@pytest.mark.parametrize("lengths", [(300, 129), (1,) * 40 + (300,)])
def test_planes_are_the_triangle_to_sixteen_bits(lengths: tuple[int, ...]) -> None:
    """Equal lengths and lengths that differ much find their tiles in two ways."""
    longest = max(lengths)
    x, g, cu_seqlens = packed(lengths, 40, 24, "cpu", torch.bfloat16)
    planes = hk.split_token_gram(x, cu_seqlens, max_seqlen=longest)
    for start, tokens in zip(cu_seqlens.tolist(), lengths, strict=False):
        part = x[start : start + tokens].double()
        exact = part @ part.T
        got = planes[:, start : start + tokens].double().sum(0)
        assert not got[:, tokens:].any()
        assert not got[:, :tokens].triu(1).any()
        error = (got[:, :tokens] - exact.tril() - exact.tril(-1)).abs()
        assert bool((error <= 2.0**-16 * exact.abs() + 1e-5).all())
    want = oracle(x, g, cu_seqlens).sum(1)
    scores = hk.fisher_output_(torch.zeros(24), x, g, cu_seqlens, token_gram=planes)
    assert relative_error(scores, want) <= 1e-5


@interpreted
@pytest.mark.parametrize("longest", [0, 3, 129])
@pytest.mark.parametrize("short", [1, 40])
def test_samples_longer_than_the_planes_are_not_a_number(longest: int, short: int) -> None:
    """Beside one short sample, and beside so many that tiles are found by counting offsets."""
    x, g, cu_seqlens = packed((2, 400, *(1,) * short), 20, 10, "cpu", torch.bfloat16)
    per = items.items_of(len(x), short + 2, 128 if short == 1 else 64, longest).per
    assert bool(per) == (short == 1 or longest < 129)
    for form in (hk.token_gram, hk.split_token_gram):
        gram = form(x, cu_seqlens, max_seqlen=longest)
        rows = gram if gram.dim() == 2 else gram.sum(0)
        assert rows[2:402].isnan().all()
        assert not rows[:2].isnan().any()
        assert not rows[402:].isnan().any()
        scores = hk.fisher_output_(torch.zeros(10), x, g, cu_seqlens, token_gram=gram)
        assert scores.isnan().all()


@interpreted
def test_pairs_of_a_triangle_are_counted_row_by_row() -> None:
    # As many as the tiles of a sample of 65 536 tokens have, around every row's end, and some where
    # roots are rounded upwards.
    rows = torch.cat([torch.arange(1, 513), torch.arange(8000, 8064)])
    ends = rows * (rows + 1) // 2
    numbers = torch.cat([ends - 1, ends[:-1], ends[:-1] + 1]).tolist()
    found = torch.zeros(len(numbers), 2, dtype=torch.int64)
    note_pairs[(len(numbers),)](torch.tensor(numbers), found)
    for number, (row, column) in zip(numbers, found.tolist(), strict=True):
        assert 0 <= column <= row
        assert row * (row + 1) // 2 + column == number


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def fisher_launches(
    rows: int, samples: int, *, form: str = "auto", max_seqlen: int | None = None
) -> list[Launch]:
    """What `fisher_output_` starts at the shape of an up projection."""
    cu_seqlens = meta(samples + 1, dtype=torch.int32)
    scores, x, g = meta(14336, dtype=torch.float32), meta(rows, 4096), meta(rows, 14336)
    with recording(90) as launches:
        fisher.fisher_output_(scores, x, g, cu_seqlens, None, form, None, max_seqlen)
    return launches


def names(launches: list[Launch]) -> list[str]:
    return [launch.kernel.__name__ for launch in launches]


GRAM = ["token_gram_kernel", "quadratic_kernel", "add_rows_kernel"]
DIRECT = ["direct_kernel", "add_rows_kernel"]


@compiled
def test_auto_divides_the_samples_at_the_crossover() -> None:
    crossover = gram_crossover(4096, 14336)
    assert names(fisher_launches(8192, 8, max_seqlen=crossover - 1)) == GRAM
    both = fisher_launches(8192, 8, max_seqlen=crossover)
    assert names(both) == GRAM + DIRECT
    assert both[1].arguments["most"] == crossover - 1
    assert both[3].arguments["least"] == crossover
    assert names(fisher_launches(8192, 8, form="gram", max_seqlen=8192)) == GRAM
    assert names(fisher_launches(8192, 8, form="direct")) == DIRECT


@compiled
def test_the_gram_is_no_wider_than_the_samples_it_is_for() -> None:
    """Not `[n, n]`: 4096 tokens of one sample and many of sixteen."""
    launches = fisher_launches(8192, 257, max_seqlen=4096)
    crossover = gram_crossover(4096, 14336)
    assert launches[0].arguments["longest"] < crossover + 16


@compiled
def test_lengths_do_not_recompile() -> None:
    """Counts what Triton would compile: the arguments that become part of the kernel."""
    kernels = set()
    for rows, samples in [(17, 1), (1000, 3), (8192, 32), (8191, 32), (16, 1), (4097, 64), (1, 1)]:
        for max_seqlen in (rows, rows // samples + 1):
            for form in ("gram", "direct"):
                launches = fisher_launches(rows, samples, form=form, max_seqlen=max_seqlen)
                kernels |= {specialize(launch) for launch in launches}
    by_kernel: dict[str, int] = {}
    for kernel in kernels:
        name = kernel.kernel.__name__
        by_kernel[name] = by_kernel.get(name, 0) + 1
    # Two tiles of the Gram form, for short and for long samples.
    assert by_kernel == {
        "token_gram_kernel": 2,
        "quadratic_kernel": 2,
        "direct_kernel": 1,
        "add_rows_kernel": 1,
    }


@compiled
def test_nothing_of_size_batch_out_in_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    original = torch.empty

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal largest
        found = original(*args, **kwargs)
        largest = max(largest, found.nbytes)
        return found

    monkeypatch.setattr(torch, "empty", spy)
    monkeypatch.setattr(fisher.gram_form, "torch", torch)
    gradient = 4 * 4096 * 14336  # of one sample, in fp32
    for rows, samples, form in ((8192, 32, "gram"), (8192, 32, "direct"), (8192, 1, "direct")):
        cu_seqlens = meta(samples + 1, dtype=torch.int32)
        scores, x, g = meta(14336, dtype=torch.float32), meta(rows, 4096), meta(rows, 14336)
        largest = 0
        with recording(90):
            length = rows // samples
            fisher.fisher_output_(scores, x, g, cu_seqlens, None, form, None, length)
        assert 0 < largest < 0.05 * gradient
