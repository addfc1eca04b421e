"""The compiled extension: values and failures on the host, and on a GPU where there is one."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hcnr_kernels.errors import OperatorError
from hcnr_kernels.native import Native, cuda_trouble, invert_blocks, native, unavailable

CSRC = Path(__file__).parents[2] / "csrc"
MODULE, REASON = native()
TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-14}
SIZES = [*range(1, 35), 47, 48, 49, 63, 64, 65, 96, 127, 128, 129, 200, 255, 256]
CPUINFO = Path("/proc/cpuinfo")
SUPPORTED = [
    name
    for name, flag in (("avx2", " avx2 "), ("avx512", " avx512bw "))
    if CPUINFO.exists() and flag in CPUINFO.read_text()
]
LIMITS = {torch.float32: 256, torch.float64: 128}

needs_module = pytest.mark.skipif(MODULE is None, reason=f"no compiled extension: {REASON}")
on_every_device = pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=needs_module),
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(
                not torch.cuda.is_available() or cuda_trouble() is not None,
                reason=cuda_trouble() or "no CUDA device",
            ),
        ),
    ],
)


def spd(count, size, dtype=torch.float64, seed=0):
    """Well-conditioned matrices with ones on the diagonal, roughly."""
    generator = torch.Generator().manual_seed(seed + size)
    x = torch.randn(count, size, 2 * size, generator=generator, dtype=torch.float64)
    return (x @ x.mT / (2 * size) + 0.1 * torch.eye(size)).to(dtype)


def damped(block, shift):
    """The oracle's matrix: float64, the lower triangle alone, dead neurons with a unit pivot."""
    lower = block.double().tril()
    matrix = lower + lower.tril(-1).mT
    diagonal = matrix.diagonal()
    diagonal.copy_(torch.where(diagonal == 0, 1.0, diagonal + float(shift)))
    return matrix


def norm(matrix, live):
    return matrix.abs().sum(0)[live].max() if live.any() else torch.tensor(0.0)


def close(actual, expected, tolerance):
    return float((actual.double().cpu() - expected).norm() / expected.norm()) < tolerance


def assert_inverse(block, shift, result, norms, tolerance):
    matrix = damped(block.cpu(), shift)
    inverse = torch.linalg.inv(matrix)
    live = block.cpu().diagonal() != 0
    assert close(result, inverse, tolerance)
    assert torch.equal(result, result.mT)
    assert float(norms[0]) == pytest.approx(float(norm(matrix, live)), rel=tolerance)
    assert float(norms[1]) == pytest.approx(float(norm(inverse, live)), rel=10 * tolerance)


def assert_factors(block, shift, result, norms, tolerance):
    matrix = damped(block.cpu(), shift)
    factor = torch.linalg.cholesky(matrix)
    assert close(result[0], factor, tolerance)
    assert close(result[1], torch.linalg.inv(factor), tolerance)
    assert torch.equal(result, result.tril())
    assert norms[1].isnan()


@on_every_device
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_size(device, dtype):
    for size in SIZES:
        if device == "cuda" and size > LIMITS[dtype]:
            continue
        blocks = spd(2, size, dtype).to(device)
        shifts = torch.tensor([0.0, 0.3], dtype=dtype, device=device)
        inverse, status, norms = invert_blocks(blocks, shifts)
        factors = invert_blocks(blocks, shifts, mode="factor")
        assert not status.any() and not factors.status.any()
        for i in range(2):
            assert_inverse(blocks[i], shifts[i], inverse[i], norms[i], TOLERANCES[dtype])
            row = factors.results[i], factors.norms[i]
            assert_factors(blocks[i], shifts[i], *row, TOLERANCES[dtype])
        assert torch.equal(factors.norms[:, 0], norms[:, 0])


@on_every_device
@pytest.mark.parametrize("mode", ["inverse", "factor"])
def test_unequal_blocks(device, mode):
    sizes = [64, 1, 17, 0, 100, 33, 2]
    blocks = [spd(1, size, torch.float32)[0].to(device) for size in sizes]
    shifts = torch.linspace(0, 0.5, len(sizes), device=device)
    results, status, norms = invert_blocks(blocks, shifts, mode=mode)
    assert not status.any()
    check = assert_inverse if mode == "inverse" else assert_factors
    for block, shift, result, both in zip(blocks, shifts, results, norms, strict=True):
        assert result.shape[-2:] == block.shape
        if block.numel():
            check(block, shift, result, both, 2e-6)


@on_every_device
@pytest.mark.parametrize("mode", ["inverse", "factor"])
def test_failure_is_data(device, mode):
    """Each failing block is NaN and has its status; its neighbours are untouched by it."""
    blocks = spd(9, 50, torch.float32)
    blocks[1, 30, 7] = torch.nan
    blocks[2, 49, 49] = torch.inf
    blocks[3, 0, 0] = -torch.inf
    blocks[4, 20, 20] = -1.0
    blocks[5] = 1.0  # of rank one: the second pivot is exactly zero
    blocks[6, 0, 0] = -1.0
    blocks[7, 49, 49] = -1.0
    upper = blocks.clone()
    below = torch.ones(50, 50).tril() > 0
    upper[8] = torch.where(below, blocks[8], torch.nan)  # above the diagonal nothing is read
    results, status, norms = invert_blocks(
        upper.to(device), torch.zeros(9, device=device), mode=mode
    )
    assert status.tolist() == [0, -1, -1, -1, 21, 2, 1, 50, 0]
    assert results[1:8].isnan().all()
    assert not results[[0, 8]].isnan().any()
    assert norms[1:4].isnan().all() and norms[4:8, 1].isnan().all()
    assert not norms[4:8, 0].isnan().any()
    alone = invert_blocks(blocks[:1].to(device), torch.zeros(1, device=device), mode=mode)
    assert torch.equal(results[0], alone.results[0])


@on_every_device
def test_a_bad_shift_is_a_failing_pivot(device):
    blocks = spd(4, 20, torch.float32).to(device)
    shifts = torch.tensor([torch.nan, torch.inf, -5.0, 0.0], device=device)
    assert invert_blocks(blocks, shifts).status.tolist() == [1, 1, 1, 0]


@on_every_device
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_dead_neurons(device, dtype):
    blocks = spd(3, 40, dtype)
    dead = torch.zeros(3, 40, dtype=torch.bool)
    dead[0, ::3] = True
    dead[1] = True
    blocks[dead] = 0
    blocks.mT[dead] = 0
    blocks = blocks.to(device)
    shifts = torch.full((3,), 0.2, dtype=dtype, device=device)
    results, status, norms = invert_blocks(blocks, shifts)
    assert not status.any()
    for i in range(3):
        assert_inverse(blocks[i], shifts[i], results[i], norms[i], TOLERANCES[dtype])
    assert torch.equal(results[1].cpu(), torch.eye(40, dtype=dtype))
    assert norms[1].tolist() == [0, 0]


@on_every_device
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_scales(device, scale):
    """Neither overflow nor a change of digits: powers of two scale the result exactly."""
    power = 2.0 ** round(torch.tensor(scale).log2().item())
    blocks = spd(2, 70, torch.float32).to(device)
    shifts = torch.full((2,), 0.1, device=device)
    plain = invert_blocks(blocks, shifts)
    scaled = invert_blocks(blocks * power, shifts * power)
    assert not scaled.status.any()
    for block, shift, result, norms in zip(
        blocks * power, shifts * power, scaled.results, scaled.norms, strict=True
    ):
        assert_inverse(block, shift, result, norms, 2e-6)
    torch.testing.assert_close(scaled.results * power, plain.results, rtol=1e-4, atol=1e-5)


@on_every_device
def test_strides(device):
    """Rows may be apart, columns may not; whatever has another layout is copied first."""
    size, shifts = 37, torch.tensor([0.1, 0.0, 0.2], device=device)
    blocks = spd(3, size, torch.float32).to(device)
    expected = invert_blocks(blocks, shifts).results
    wide = torch.full((3, size + 4, size + 7), torch.nan, device=device)
    wide[:, 2:-2, 3:-4] = blocks
    before = wide.clone()
    assert torch.equal(invert_blocks(wide[:, 2:-2, 3:-4], shifts).results, expected)
    assert torch.equal(wide.nan_to_num(7), before.nan_to_num(7))
    for other in (blocks.mT, blocks.repeat_interleave(2, 2)[:, :, ::2]):
        torch.testing.assert_close(invert_blocks(other, shifts).results, expected)
    views = list(wide[:, 2:-2, 3:-4])
    assert all(map(torch.equal, invert_blocks(views, shifts).results, expected))
    same = invert_blocks(blocks[:1].expand(3, size, size), shifts[:1].expand(3))
    assert torch.equal(same.results[2], expected[0])


@on_every_device
def test_the_same_bits_whatever_the_company(device):
    blocks = spd(70, 48, torch.float32).to(device)
    shifts = torch.rand(70, generator=torch.Generator().manual_seed(1)).to(device)
    before = torch.get_num_threads()
    every = invert_blocks(blocks, shifts)
    try:
        torch.set_num_threads(2)
        again = invert_blocks(blocks, shifts)
    finally:
        torch.set_num_threads(before)
    listed = invert_blocks(list(blocks), shifts)
    alone = invert_blocks(blocks[41:42], shifts[41:42])
    assert torch.equal(every.results, again.results)
    assert torch.equal(every.results, torch.stack(listed.results))
    assert torch.equal(every.results[41], alone.results[0])
    assert torch.equal(every.norms, listed.norms)


@needs_module
@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_other_instruction_sets(isa):
    """What an older processor would run."""
    program = """
import torch
from hcnr_kernels.native import invert_blocks, native, sums_of_squares
print(native().module.build_info()["host"])
for dtype in (torch.float32, torch.float64):
    for size in (1, 16, 45, 128):
        x = torch.randn(3, size, 2 * size, dtype=dtype)
        blocks = x @ x.mT / size + torch.eye(size, dtype=dtype)
        results, status, norms = invert_blocks(blocks, torch.zeros(3, dtype=dtype))
        error = (blocks @ results - torch.eye(size)).abs().max()
        assert not status.any() and error < 64 * torch.finfo(dtype).eps, (size, error)
        factors = invert_blocks(blocks, torch.zeros(3, dtype=dtype), mode="factor").results
        error = (factors[:, 0] @ factors[:, 0].mT - blocks).abs().max()
        assert error < 64 * torch.finfo(dtype).eps, (size, error)
for dtype in (torch.float32, torch.bfloat16):
    for shape in ((1, 1), (70, 45), (130, 1100)):
        base, tuned = (torch.randn(shape).to(dtype) for _ in range(2))
        squares = torch.stack([(base.double() - tuned.double()) ** 2, base.double() ** 2])
        for axis, along in (("output", 2), ("input", 1)):
            sums = sums_of_squares(base, tuned, axis)
            torch.testing.assert_close(sums, squares.sum(along), rtol=5e-7, atol=0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        **{"env": {**os.environ, "HCNR_HOST_ISA": isa}, "text": True, "capture_output": True},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (isa if isa in SUPPORTED else "generic")


@needs_module
def test_an_unknown_instruction_set_is_refused():
    program = "from hcnr_kernels.native import native; native().module.build_info()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HCNR_HOST_ISA": "sse"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert "HCNR_HOST_ISA must be generic, avx2 or avx512, not 'sse'" in done.stderr


@needs_module
def test_nothing_to_do():
    none = torch.zeros(0)
    assert invert_blocks(torch.zeros(0, 5, 5), none).results.shape == (0, 5, 5)
    assert invert_blocks([], none).results == []
    results, status, norms = invert_blocks(torch.zeros(3, 0, 0), torch.zeros(3))
    assert results.shape == (3, 0, 0) and status.tolist() == [0, 0, 0] and not norms.any()


@needs_module
def test_refusals():
    blocks, shifts = torch.eye(3).repeat(2, 1, 1), torch.zeros(2)
    for bad_blocks, bad_shifts, mode, words in [
        (blocks, torch.zeros(3), "inverse", r"shifts must be \[2\]"),
        (blocks[0], torch.zeros(3), "inverse", r"must be \[N, d, d\]"),
        (blocks[:, :2], shifts, "inverse", r"must be \[N, d, d\]"),
        ([blocks], torch.zeros(1), "inverse", r"must be \[d, d\]"),
        (blocks, shifts.double(), "inverse", "one dtype"),
        (blocks, shifts, "lower", "mode"),
        (blocks.half(), shifts.half(), "inverse", "no code for torch.float16"),
        (torch.zeros(1, 1025, 1025), torch.zeros(1), "inverse", "above its limit of 1024"),
    ]:
        with pytest.raises(OperatorError, match=words):
            invert_blocks(bad_blocks, bad_shifts, mode=mode)
    assert unavailable("cpu", torch.float32, 1024) is None
    assert unavailable("meta", torch.float32, 4) == "no meta code"


@needs_module
def test_the_module_checks_sizes_and_counts():
    assert MODULE is not None
    block, out = torch.eye(4), torch.empty(4, 4)
    rest = torch.zeros(1), torch.zeros(1, dtype=torch.int32), torch.zeros(1, 2)
    call = {
        **{"count": 1, "size": 4, "dtype": "float32"},
        **{"input": (block.data_ptr(), 16, 4), "output": (out.data_ptr(), 16, 4)},
        **dict(zip(("shifts", "status", "norms"), (t.data_ptr() for t in rest), strict=True)),
    }
    MODULE.invert_stack(**call)
    assert torch.equal(out, block)
    for change, words in [
        ({"count": -1}, "count"),
        ({"size": 5}, "rows that overlap"),
        ({"size": 4000}, "too large"),
        ({"size": -1}, "size"),
        ({"dtype": "float16"}, "dtype"),
        ({"mode": "both"}, "mode"),
        ({"mode": "factor"}, "null"),
        ({"device": "tpu"}, "device"),
        ({"status": 0}, "null"),
        ({"output": (out.data_ptr(), 16)}, "place"),
    ]:
        with pytest.raises(ValueError, match=words):
            MODULE.invert_stack(**{**call, **change})
    table = torch.tensor([[block.data_ptr(), 4, out.data_ptr(), 4, 0, 0, 9]])
    listed = {k: v for k, v in call.items() if k not in ("size", "input", "output")}
    with pytest.raises(ValueError, match="Block 0 has size 9, not 0 to 4"):
        MODULE.invert_table(table=table.data_ptr(), largest=4, **listed)


@needs_module
def test_cuda_without_a_driver_says_so():
    assert MODULE is not None
    info = MODULE.build_info()
    assert info["cuda"] == bool(info["architectures"]) == bool(MODULE.max_size("float32", "cuda"))
    assert MODULE.architectures() == info["architectures"]
    trouble = cuda_trouble()
    if trouble is None:
        pytest.skip("there is a driver")
    assert re.match("built without CUDA: |no CUDA device", trouble)
    assert unavailable("cuda", torch.float32, 4) == trouble
    place = (torch.eye(4).data_ptr(), 16, 4)
    with pytest.raises((ValueError, RuntimeError), match="CUDA"):
        MODULE.invert_stack(
            **{"count": 1, "size": 4, "input": place, "output": place, "device": "cuda"},
            **{"shifts": 8, "status": 8, "norms": 8, "dtype": "float32"},
        )


@needs_module
@pytest.mark.parametrize("stacked", [True, False])
def test_the_device_is_current_while_the_extension_starts(stacked, monkeypatch):
    """By torch's runtime, not by the extension's own, whose idea of it nobody else shares."""
    entered = []

    @contextlib.contextmanager
    def current(device):
        entered.append(device)
        yield
        entered.remove(device)

    class Watched:
        def __getattr__(self, name):
            assert entered == [torch.device("cpu")]
            return getattr(MODULE, name)

    blocks = spd(3, 8, torch.float32)
    monkeypatch.setattr("hcnr_kernels.native._current", current)
    monkeypatch.setattr("hcnr_kernels.native.unavailable", lambda *_: None)
    monkeypatch.setattr("hcnr_kernels.native.native", lambda: Native(Watched(), None))  # pyright: ignore[reportArgumentType]
    found = invert_blocks(blocks if stacked else list(blocks), torch.zeros(3))
    assert not found.status.any()
    assert entered == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_a_launch_on_another_gpu_leaves_the_current_one():
    blocks = spd(3, 8, torch.float32)
    found = invert_blocks(blocks.to("cuda:1"), torch.zeros(3, device="cuda:1"))
    assert torch.cuda.current_device() == 0
    # Work of the current device, by memory, a kernel and a library.
    product = torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")
    assert product.device.index == 0
    assert float(product.sum()) == 512
    exact = torch.linalg.inv(blocks.double())
    assert (found.results.cpu() - exact).norm() <= 1e-4 * exact.norm()
