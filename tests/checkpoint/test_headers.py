import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from hcnr.checkpoint.headers import DTYPES, MAX_HEADER_BYTES, read_header
from hcnr.errors import CheckpointError

from .helpers import raw_file, weights

FUZZ = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)


def entry(begin: int, end: int, dtype: str = "F32", shape: list[int] | None = None) -> dict:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def check_as_library(file: Path) -> bool:
    """Reads a header; whatever we accept, the library must accept and see the same."""
    try:
        shard = read_header(file)
    except CheckpointError as error:
        assert str(file) in str(error)
        return False
    with safe_open(file, "pt") as library:
        assert {info.name for info in shard.tensors} == set(library.keys())
        for info in shard.tensors:
            assert list(info.shape) == library.get_slice(info.name).get_shape()
            assert DTYPES[library.get_slice(info.name).get_dtype()] == info.dtype
    return True


def test_every_dtype_is_found_where_it_lies(tmp_path: Path):
    tensors = {
        name: torch.arange(6, dtype=torch.uint8).repeat(dtype.itemsize).view(dtype).reshape(2, 3)
        for name, dtype in DTYPES.items()
        if dtype is not torch.bool
    }
    tensors["BOOL"] = torch.tensor([[True, False, True], [False, False, True]])
    tensors["scalar"] = torch.tensor(1.5)
    tensors["empty"] = torch.empty(0, 3)
    save_file(tensors, tmp_path / "a.safetensors")
    shard = read_header(tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    assert {info.name for info in shard.tensors} == set(tensors)
    assert [info.begin for info in shard.tensors] == sorted(info.begin for info in shard.tensors)
    for info in shard.tensors:
        tensor = tensors[info.name]
        assert (info.dtype, info.shape) == (tensor.dtype, tuple(tensor.shape))
        assert info.nbytes == tensor.nbytes
        expected = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        assert content[info.begin : info.end] == expected
    assert shard.size == len(content)
    assert check_as_library(tmp_path / "a.safetensors")


BAD: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "has 0 bytes"),
    "seven bytes": (b"\x02\0\0\0\0\0\0", "has 7 bytes"),
    "oversized header": ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "at most 100000000"),
    "huge header": (b"\xff" * 8 + b"{}", "claims 18446744073709551615 bytes"),
    "header past the end": (
        (3).to_bytes(8, "little") + b"{}",
        r"only 2 bytes follow \(truncated\)",
    ),
    "no header": (raw_file(b""), "no JSON object"),
    "not JSON": (raw_file(b"hello"), "no JSON object"),
    "not UTF-8": (raw_file(b'{"\xff": 1}'), "no JSON object"),
    "UTF-16": (raw_file("{}".encode("utf-16")), "no JSON object"),
    "deep": (raw_file(b"[" * 200_000), "no JSON object"),
    "lone surrogate": (raw_file(rb'{"\ud800": 1}'), "no JSON object"),
    "list": (raw_file([]), "a JSON list"),
    "metadata list": (raw_file({"__metadata__": []}), "__metadata__"),
    "metadata number": (raw_file({"__metadata__": {"a": 1}}), "__metadata__"),
    "twice": (
        raw_file(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":0}'),
        "'a' appears twice",
    ),
    "entry is no object": (raw_file({"a": 1}), "entry of 'a'"),
    "entry lacks a key": (raw_file({"a": {"dtype": "F32", "shape": []}}), "entry of 'a'"),
    "entry has a key more": (raw_file({"a": {**entry(0, 4), "x": 1}}, b"\0" * 4), "entry of 'a'"),
    "unknown dtype": (raw_file({"a": entry(0, 4, "F33")}, b"\0" * 4), "dtype 'F33'.*known ones"),
    "dtype is no text": (raw_file({"a": {**entry(0, 4), "dtype": [1]}}, b"\0" * 4), r"dtype \[1\]"),
    "shape is no list": (raw_file({"a": {**entry(0, 4), "shape": "1"}}, b"\0" * 4), "shape '1'"),
    "negative size": (raw_file({"a": entry(0, 4, shape=[-1, -1])}, b"\0" * 4), r"shape \[-1, -1\]"),
    "size is a float": (raw_file({"a": entry(0, 4, shape=[1.0])}, b"\0" * 4), "shape"),  # type: ignore[list-item]
    "size is a bool": (raw_file({"a": entry(0, 4, shape=[True])}, b"\0" * 4), "shape"),
    "size overflows": (raw_file({"a": entry(0, 0, shape=[2**63, 0])}), "shape"),
    "product overflows": (raw_file({"a": entry(0, 0, shape=[2**62, 4, 0])}), "impossible shape"),
    "three offsets": (
        raw_file({"a": {**entry(0, 4), "data_offsets": [0, 4, 4]}}, b"\0" * 4),
        "pair",
    ),
    "negative offset": (
        raw_file({"a": {**entry(0, 4), "data_offsets": [-4, 0]}}, b"\0" * 4),
        "pair",
    ),
    "backwards": (raw_file({"a": {**entry(0, 4), "data_offsets": [4, 0]}}, b"\0" * 4), "hold -4"),
    "shape against offsets": (
        raw_file({"a": entry(0, 4, shape=[2])}, b"\0" * 4),
        "8 bytes.*hold 4",
    ),
    "overlap": (
        raw_file({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12),
        "'b' overlaps the tensor before it.*offset 4, and 8",
    ),
    "gap": (
        raw_file({"a": entry(0, 4), "b": entry(8, 12)}, b"\0" * 12),
        "'b' leaves a gap.*offset 8, and 4",
    ),
    "gap at the start": (raw_file({"a": entry(4, 8)}, b"\0" * 8), "'a' leaves a gap"),
    "beyond the file": (raw_file({"a": entry(0, 8)}, b"\0" * 7), r"end at byte \d+.*truncated"),
    "bytes left over": (raw_file({"a": entry(0, 4)}, b"\0" * 6), "2 bytes follow its last tensor"),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "git lfs pull",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_header(tmp_path: Path, case: str):
    content, message = BAD[case]
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(file)
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_megabytes_in_a_name_do_not_reach_the_message(tmp_path: Path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(raw_file({"x" * 1_000_000: 1}))
    with pytest.raises(CheckpointError) as caught:
        read_header(file)
    assert len(str(caught.value)) < 1000


def test_pipe_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(tmp_path / "a.safetensors")


def test_truncated_at_every_byte(tmp_path: Path):
    tensors = {name: weights()[name] for name in list(weights())[:3]}
    save_file(tensors, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    file = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_header(file)
    file.write_bytes(whole)
    assert len(read_header(file).tensors) == len(tensors)


@FUZZ
@given(st.binary(max_size=200))
@example(b"\0" * 8)
@example((2).to_bytes(8, "little") + b"{}")
def test_random_bytes(tmp_path: Path, content: bytes):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    check_as_library(file)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@FUZZ
@given(header=JSON, data=st.binary(max_size=16), wrong=st.integers(-3, 3))
def test_random_json(tmp_path: Path, header: Any, data: bytes, wrong: int):
    text = json.dumps(header).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(max(len(text) + wrong, 0).to_bytes(8, "little") + text + data)
    check_as_library(file)


SIZES = st.integers(0, 3) | st.sampled_from([-1, 2**31, 2**62, 2**63, 2**64])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "F4", "f32", "OBJECT"]),
        "shape": st.lists(SIZES, max_size=3),
        "data_offsets": st.lists(SIZES | st.integers(0, 24), min_size=2, max_size=2),
    }
)


@FUZZ
@given(header=st.dictionaries(st.text(max_size=4), ENTRIES, max_size=3), size=st.integers(0, 24))
@example({"a": entry(0, 4), "b": entry(4, 4), "c": entry(4, 12)}, 12)
@example({"a": entry(0, 0, shape=[2**62, 0, 4])}, 0)
def test_random_entries(tmp_path: Path, header: dict, size: int):
    file = tmp_path / "a.safetensors"
    file.write_bytes(raw_file(header, b"\0" * size))
    check_as_library(file)


@FUZZ
@given(data=st.data())
def test_one_byte_changed(tmp_path: Path, data: st.DataObject):
    tensors = {name: weights()[name] for name in list(weights())[:3]}
    save_file(tensors, tmp_path / "a.safetensors", {"format": "pt"})
    content = bytearray((tmp_path / "a.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.integers(0, header - 1))
    content[place] = data.draw(st.integers(0, 255))
    (tmp_path / "a.safetensors").write_bytes(content)
    check_as_library(tmp_path / "a.safetensors")
