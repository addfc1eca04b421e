import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hcnr.checkpoint import Checkpoint
from hcnr.errors import CheckpointError

from .helpers import CONFIG, raw_file, save, weights

INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_is_read_as_it_was_written(tmp_path: Path, shards: int):
    checkpoint = Checkpoint.open(save(tmp_path / "a", shards=shards))
    tensors = weights()
    assert checkpoint.path == tmp_path / "a"
    assert checkpoint.config == CONFIG
    assert len(checkpoint.shards) == shards
    assert set(checkpoint.tensors) == set(tensors)
    assert checkpoint.nbytes == sum(
        p.stat().st_size for p in (tmp_path / "a").glob("*.safetensors")
    )
    for name, tensor in tensors.items():
        loaded = checkpoint.load(name)
        assert loaded.dtype == tensor.dtype
        assert torch.equal(loaded, tensor)
    places = [(info.file.name, info.begin) for info in checkpoint.tensors.values()]
    assert places == sorted(places)


def test_loading_gives_fresh_memory(tmp_path: Path):
    checkpoint = Checkpoint.open(save(tmp_path))
    checkpoint.load("lm_head.weight").zero_()
    assert torch.equal(checkpoint.load("lm_head.weight"), weights()["lm_head.weight"])


def test_rows(tmp_path: Path):
    tensors = {
        "matrix": torch.randn(7, 2, 3),
        "vector": torch.arange(5, dtype=torch.int16),
        "scalar": torch.tensor(2.5),
        "no_rows": torch.empty(0, 3),
        "empty_rows": torch.empty(3, 0),
    }
    checkpoint = Checkpoint.open(save(tmp_path, tensors))
    assert torch.equal(
        checkpoint.load_rows("matrix", [6, 0, 0, 3]), tensors["matrix"][[6, 0, 0, 3]]
    )
    assert torch.equal(checkpoint.load_rows("vector", range(1, 4)), tensors["vector"][1:4])
    assert torch.equal(checkpoint.load_rows("scalar", [0]), torch.tensor([2.5]))
    assert checkpoint.load_rows("matrix", []).shape == (0, 2, 3)
    assert checkpoint.load_rows("no_rows", []).shape == (0, 3)
    assert checkpoint.load_rows("empty_rows", [2]).shape == (1, 0)
    assert checkpoint.load("scalar").shape == ()
    assert checkpoint.load("no_rows").shape == (0, 3)
    for rows in ([7], [-1], [0, 9]):
        with pytest.raises(CheckpointError, match=r"'matrix' has the shape \[7, 2, 3\] and no row"):
            checkpoint.load_rows("matrix", rows)


def test_data_that_is_not_aligned(tmp_path: Path):
    values = torch.randn(3, dtype=torch.float64)
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F64", "shape": [3], "data_offsets": [1, 25]},
    }
    save(tmp_path)
    content = raw_file(header, b"\x07" + values.numpy().tobytes())
    (tmp_path / "model.safetensors").write_bytes(content)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.load("a").tolist() == [7]
    assert torch.equal(checkpoint.load("b"), values)
    assert torch.equal(checkpoint.load_rows("b", [2]), values[2:])


def test_links_as_in_the_hub_cache(tmp_path: Path):
    save(tmp_path / "plain", shards=2)
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted((tmp_path / "plain").iterdir())):
        file.rename(blobs / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    checkpoint = Checkpoint.open(snapshot)
    assert [shard.file.parent for shard in checkpoint.shards] == [snapshot, snapshot]
    for name, tensor in weights().items():
        assert torch.equal(checkpoint.load(name), tensor)


def test_single_file_goes_before_an_index_as_in_transformers(tmp_path: Path):
    save(tmp_path, weights(1), shards=2)
    save(tmp_path, weights(2))
    loaded = Checkpoint.open(tmp_path).load("lm_head.weight")
    assert torch.equal(loaded, weights(2)["lm_head.weight"])


def test_tied_embeddings(tmp_path: Path):
    tensors = weights()
    assert not Checkpoint.open(save(tmp_path / "untied", tensors)).has_tied_embeddings
    tied = {**CONFIG, "tie_word_embeddings": True}
    assert not Checkpoint.open(save(tmp_path / "both", tensors, 1, tied)).has_tied_embeddings
    del tensors["lm_head.weight"]
    assert Checkpoint.open(save(tmp_path / "tied", tensors, 1, tied)).has_tied_embeddings
    nested = {"model_type": "gemma3", "text_config": {"tie_word_embeddings": True}}
    assert Checkpoint.open(save(tmp_path / "nested", tensors, 1, nested)).has_tied_embeddings


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_missing_path(tmp_path: Path):
    refused(tmp_path / "nothing", "does not exist", "OWNER/NAME")


def test_file_instead_of_a_directory(tmp_path: Path):
    save(tmp_path)
    refused(tmp_path / "model.safetensors", "is a file", "name the directory")


def test_no_config(tmp_path: Path):
    save(tmp_path)
    (tmp_path / "config.json").unlink()
    refused(tmp_path, "no config.json")


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "[" * 100_000], ids=["empty", "cut", "list", "deep"]
)
def test_bad_config(tmp_path: Path, content: str):
    save(tmp_path)
    (tmp_path / "config.json").write_text(content)
    refused(tmp_path, "config.json", "download or save it again")


def test_config_that_is_no_text(tmp_path: Path):
    save(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    refused(tmp_path, "config.json")


def test_no_weights(tmp_path: Path):
    save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    refused(tmp_path, "not a checkpoint", "found no weights")
    save_file(weights(), tmp_path / "consolidated.safetensors")
    refused(tmp_path, "not a checkpoint", "found consolidated.safetensors instead")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles(tmp_path: Path, name: str):
    save(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    refused(tmp_path, name, "pickled", "save_pretrained")


@pytest.mark.parametrize("full", [False, True], ids=["alone", "beside weights"])
def test_adapter(tmp_path: Path, full: bool):
    if full:
        save(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file(weights(), tmp_path / "adapter_model.safetensors")
    refused(tmp_path, "adapter", "merge")


def test_malformed_shard(tmp_path: Path):
    save(tmp_path, shards=2)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    refused(tmp_path, shard.name, "truncated")


def test_no_tensor_at_all(tmp_path: Path):
    refused(save(tmp_path, {}), "no tensor at all")


def edit_index(directory: Path, tensor: str, shard: object) -> None:
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"][tensor] = shard
    (directory / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "place",
    [
        "../outside.safetensors",
        "..",
        ".",
        "",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "a\0.safetensors",
        7,
        None,
        ["model-00001-of-00002.safetensors"],
    ],
)
def test_index_that_leaves_the_directory(tmp_path: Path, place: object):
    save(tmp_path / "a", shards=2)
    # What it points to exists and is sound: only the path is at fault.
    save_file(weights(), tmp_path / "outside.safetensors")
    (tmp_path / "a" / "sub").mkdir()
    save_file(weights(), tmp_path / "a" / "sub" / "model.safetensors")
    edit_index(tmp_path / "a", "lm_head.weight", place)
    refused(tmp_path / "a", INDEX, "'lm_head.weight'", repr(place), "no plain file name")


def test_index_with_an_absolute_path(tmp_path: Path):
    save(tmp_path / "a", shards=2)
    save_file(weights(), tmp_path / "outside.safetensors")
    edit_index(tmp_path / "a", "lm_head.weight", str(tmp_path / "outside.safetensors"))
    refused(tmp_path / "a", "no plain file name")


def test_index_that_names_a_pickle(tmp_path: Path):
    save(tmp_path, shards=2)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    edit_index(tmp_path, "lm_head.weight", "pytorch_model.bin")
    refused(tmp_path, "only .safetensors")


def test_index_that_names_a_missing_shard(tmp_path: Path):
    save(tmp_path, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    refused(tmp_path, "'model-00002-of-00002.safetensors', which is missing")


def test_index_that_names_another_shard(tmp_path: Path):
    save(tmp_path, shards=2)
    edit_index(tmp_path, "no.such.weight", "model-00001-of-00002.safetensors")
    refused(tmp_path, "'no.such.weight'", "does not hold it")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": []}', "[]", "x"])
def test_index_without_a_map(tmp_path: Path, content: str):
    save(tmp_path, shards=2)
    (tmp_path / INDEX).write_text(content)
    refused(tmp_path, INDEX)


def test_tensor_in_two_shards(tmp_path: Path):
    save(tmp_path, shards=2)
    first, second = sorted(tmp_path.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    index = json.loads((tmp_path / INDEX).read_text())
    kept = {t: f for t, f in index["weight_map"].items() if f == first.name}
    name = next(iter(kept))
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {**kept, name: second.name}}))
    refused(tmp_path, "is stored twice", first.name, second.name)


def test_tensor_that_does_not_exist(tmp_path: Path):
    checkpoint = Checkpoint.open(save(tmp_path))
    for read in (checkpoint.load, lambda name: checkpoint.load_rows(name, [0])):
        with pytest.raises(CheckpointError, match=r"'lm_haed\.weight'.*perhaps 'lm_head\.weight'"):
            read("lm_haed.weight")


def test_file_that_shrinks_or_vanishes_while_in_use(tmp_path: Path):
    checkpoint = Checkpoint.open(save(tmp_path))
    last = list(checkpoint.tensors)[-1]
    os.truncate(tmp_path / "model.safetensors", checkpoint.nbytes - 1)
    with pytest.raises(CheckpointError, match="leave the checkpoint alone"):
        checkpoint.load(last)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        checkpoint.load(last)
