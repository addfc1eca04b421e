"""Tensors set aside in files that have no name."""

import os

import pytest
import torch

from hcnr.checkpoint.mapped import mapped
from hcnr.errors import OutputError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_values_are_the_same_and_no_file_is_seen(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("hcnr.checkpoint.mapped.WRITE_BYTES", 16)  # of a tensor several writes
    own = torch.randn(5, 7).to(dtype)
    found = mapped({"turned": own.T, 3: own[0], "none": own[:0]})
    assert os.listdir(tmp_path) == []
    expected = {"turned": own.T, 3: own[0], "none": own[:0]}
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == dtype and torch.equal(found[key], value)
    assert mapped({}) == {}


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(tensor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("hcnr.checkpoint.mapped.byte_view", full)
    with pytest.raises(OutputError, match=r"No space left .*set TMPDIR to a larger disk"):
        mapped({"a": torch.zeros(2, 2)})
    assert os.listdir(tmp_path) == []
