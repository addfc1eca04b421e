from pathlib import Path

import pytest
import torch

from hcnr.checkpoint import Checkpoint, all_finite, check_finite
from hcnr.checkpoint.finite import CHUNK_BYTES
from hcnr.errors import CheckpointError

from .helpers import save, weights

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("bad", "found"),
    [
        ([NAN], "1 NaN of"),
        ([INF], "1 infinite of"),
        ([-INF], "1 infinite of"),
        ([INF, -INF], "2 infinite of"),
        ([NAN, INF, NAN], "2 NaN and 1 infinite of"),
    ],
)
def test_bad_values_are_counted(tmp_path: Path, dtype: torch.dtype, bad: list[float], found: str):
    tensors = weights(dtype=dtype)
    name = "model.layers.1.down_proj.weight"
    # Spread, so that the first and the last value are among them.
    places = [0, 43, 17][: len(bad)]
    tensors[name].view(-1)[places] = torch.tensor(bad, dtype=dtype)
    checkpoint = Checkpoint.open(save(tmp_path, tensors, shards=2))
    with pytest.raises(CheckpointError, match=rf"{name!r} of .* holds {found} 44 values"):
        check_finite(checkpoint)
    check_finite(checkpoint, [other for other in tensors if other != name])
    with pytest.raises(CheckpointError, match=found):
        check_finite(checkpoint, [name])


def test_counts_go_over_all_chunks(tmp_path: Path):
    values = torch.zeros(CHUNK_BYTES // 2 * 2 + 5, dtype=torch.bfloat16)
    values[[0, CHUNK_BYTES // 2, -1]] = NAN
    checkpoint = Checkpoint.open(save(tmp_path, {"a": values}))
    with pytest.raises(CheckpointError, match=f"3 NaN of {values.numel()} values"):
        check_finite(checkpoint)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_large_values_are_finite(tmp_path: Path, dtype: torch.dtype):
    # Their sum overflows.
    checkpoint = Checkpoint.open(
        save(tmp_path, {"a": torch.full((999,), torch.finfo(dtype).max, dtype=dtype)})
    )
    check_finite(checkpoint)


def test_float8_is_looked_at_and_integers_are_finite(tmp_path: Path):
    tensors = {
        "i": torch.full((9,), -1, dtype=torch.int64),
        "c": torch.ones(3, dtype=torch.complex64),
    }
    check_finite(Checkpoint.open(save(tmp_path / "a", tensors)))
    tensors["f"] = torch.tensor([0.0, NAN]).to(torch.float8_e4m3fn)
    with pytest.raises(CheckpointError, match=r"'f' .* holds 1 NaN of 2"):
        check_finite(Checkpoint.open(save(tmp_path / "b", tensors)))
    tensors["c"] = torch.tensor([1, complex(0, INF), 1])
    with pytest.raises(CheckpointError, match=r"'c' .* holds 1 infinite of 3"):
        check_finite(Checkpoint.open(save(tmp_path / "c", tensors)), ["c"])


def test_progress_adds_up(tmp_path: Path):
    tensors = {"a": torch.zeros(CHUNK_BYTES + 3), "b": torch.zeros(5, dtype=torch.int8)}
    steps: list[int] = []
    check_finite(Checkpoint.open(save(tmp_path, tensors)), progress=steps.append)
    assert sum(steps) == sum(tensor.nbytes for tensor in tensors.values())
    assert max(steps) == CHUNK_BYTES


def test_unknown_name(tmp_path: Path):
    with pytest.raises(CheckpointError, match="has no tensor 'x'"):
        check_finite(Checkpoint.open(save(tmp_path)), ["x"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_tensor_is_finite_or_not(dtype: torch.dtype):
    values = torch.full((999,), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite(values), "their sum overflows"
    for bad in (NAN, INF, -INF):
        values[500] = bad
        assert not all_finite(values)
