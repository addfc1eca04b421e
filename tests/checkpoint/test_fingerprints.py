from pathlib import Path

import pytest
import torch

from hcnr.checkpoint import Checkpoint, fingerprint_tensors

from .helpers import save, targets, weights


def mixed() -> dict[str, torch.Tensor]:
    return {
        **weights(),
        "big": torch.randn(100, 3, 2, dtype=torch.float64),
        "scalar": torch.tensor(1.5),
        "vector": torch.arange(20, dtype=torch.int16),
        "empty": torch.empty(0, 3),
        "empty_rows": torch.empty(3, 0),
        "flags": torch.tensor([True, False]),
    }


@pytest.mark.parametrize("shards", [1, 3])
def test_same_on_disk_and_in_memory(tmp_path: Path, shards: int):
    tensors = mixed()
    checkpoint = Checkpoint.open(save(tmp_path, tensors, shards))
    expected = fingerprint_tensors(tensors)
    assert checkpoint.fingerprint(tensors) == expected
    assert checkpoint.fingerprint(reversed(list(tensors))) == expected
    assert len(expected) == 16
    assert set(expected) <= set("0123456789abcdef")


def test_same_for_parameters_and_for_other_strides(tmp_path: Path):
    tensors = {name: weights()[name] for name in targets()}
    expected = fingerprint_tensors(tensors)
    assert Checkpoint.open(save(tmp_path)).fingerprint(targets()) == expected
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    assert fingerprint_tensors(parameters) == expected
    assert fingerprint_tensors({"a": torch.arange(9.0)[::2]}) == fingerprint_tensors(
        {"a": torch.tensor([0.0, 2.0, 4.0, 6.0, 8.0])}
    )
    strided = {name: tensor.t().contiguous().t() for name, tensor in tensors.items()}
    assert fingerprint_tensors(strided) == expected


def test_known_value():
    # Statistics on users' disks carry fingerprints: they must not change between versions.
    tensors = {"b": torch.arange(60, dtype=torch.float32).view(20, 3), "a": torch.tensor(2.0)}
    assert fingerprint_tensors(tensors) == "ff3dc7957af033f8"


@pytest.mark.parametrize("row", [0, 14, 28, 42, 56, 70, 84, 99])
def test_every_one_of_the_eight_rows_counts(row: int):
    tensor = torch.zeros(100, 3)
    changed = tensor.clone()
    changed[row, 1] = 1
    assert fingerprint_tensors({"a": tensor}) != fingerprint_tensors({"a": changed})


@pytest.mark.parametrize("count", range(1, 9))
def test_every_row_of_a_short_tensor_counts(count: int):
    for row in range(count):
        changed = torch.zeros(count, 2)
        changed[row] = 1
        assert fingerprint_tensors({"a": changed}) != fingerprint_tensors(
            {"a": torch.zeros(count, 2)}
        )


def test_every_element_of_a_vector_counts():
    for place in range(50):
        changed = torch.zeros(50)
        changed[place] = 1
        assert fingerprint_tensors({"a": changed}) != fingerprint_tensors({"a": torch.zeros(50)})


@pytest.mark.parametrize("shape", [(12, 30, 4), (3, 5, 6, 4), (40, 1, 3)])
def test_rows_of_every_matrix_of_a_stack_count(tmp_path: Path, shape: tuple[int, ...]):
    """Experts: a change of a whole one is seen, whichever it is."""
    whole = torch.randn(shape)
    before = fingerprint_tensors({"a": whole})
    assert Checkpoint.open(save(tmp_path, {"a": whole})).fingerprint(["a"]) == before
    for which in range(shape[0]):
        for row in (0, -1):
            changed = whole.clone()
            changed[which].view(-1, shape[-1])[row, 1] += 1
            assert fingerprint_tensors({"a": changed}) != before


def test_name_dtype_shape_and_number_count():
    one = torch.zeros(2, 4)
    others = [
        {"b": one},
        {"a": one.view(4, 2)},
        {"a": one.view(torch.int32)},
        {"a": one, "b": torch.empty(0)},
        {},
    ]
    prints = {fingerprint_tensors(other) for other in [{"a": one}, *others]}
    assert len(prints) == len(others) + 1


def test_reads_few_bytes_of_a_large_tensor(tmp_path: Path):
    checkpoint = Checkpoint.open(save(tmp_path, {"a": torch.ones(1000, 2)}))
    before = checkpoint.fingerprint(["a"])
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(checkpoint.tensors["a"].begin + 8)
        file.write(b"\xff" * 8)
    assert Checkpoint.open(tmp_path).fingerprint(["a"]) == before
