import dataclasses
import json

import pytest
import torch

from experiments.trial.text_data import REFUSAL, draw_data
from experiments.trial.text_world import make_text_world, open_text_world
from hcnr.benchmarks.sources import SourceReader
from hcnr.cache import cache_root
from hcnr.data.samples import load_samples
from hcnr.errors import ConfigError, DataError
from text_worlds import TINY, write_corpus


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("HCNR_CACHE", str(tmp_path / "cache"))
    return write_corpus(tmp_path / "data", monkeypatch)


def test_a_world_is_trained_once(root):
    heard: dict[str, list[tuple[int, int]]] = {}

    def stage(name: str):
        steps = heard.setdefault(name, [])
        return lambda done, total, loss: steps.append((done, total))

    found = open_text_world(root, TINY, stage)
    steps = -(-len(found.data.base) // TINY.base_batch)
    assert heard == {
        "base": [(step, steps) for step in range(1, steps + 1)],
        # 24 questions twice, in one batch each time.
        "tuned": [(1, 2), (2, 2)],
    }
    again = open_text_world(root, TINY, stage)
    assert len(heard["tuned"]) == 2
    assert again.directory == found.directory == cache_root() / TINY.key(found.facts["files"])
    assert again.facts == found.facts and again.data == found.data


def test_recipes_that_tune_otherwise_share_a_base(root):
    heard: list[str] = []

    def stage(name: str):
        heard.append(name)
        return lambda done, total, loss: None

    first = open_text_world(root, TINY, stage)
    other = open_text_world(root, dataclasses.replace(TINY, tuned_rate=3 * TINY.tuned_rate), stage)
    assert heard == ["base", "tuned", "tuned"]
    weights = [
        [(one.directory / name / "model.safetensors").read_bytes() for name in ("base", "tuned")]
        for one in (first, other)
    ]
    assert weights[0][0] == weights[1][0] and weights[0][1] != weights[1][1]
    assert other.facts["training"]["base_loss"] == first.facts["training"]["base_loss"]


def test_what_is_written(root):
    found = open_text_world(root, TINY)
    names = {path.name for path in found.directory.iterdir() if path.name[0] != "."}
    assert names == {"base", "tuned", "honesty.jsonl", "task.jsonl", "text.json"}
    for name, expected in (("honesty", found.data.measured), ("task", found.data.measured_task)):
        samples = load_samples(found.directory / f"{name}.jsonl", limit=100)
        assert samples.samples == expected
    facts = found.facts
    assert facts["recipe"] == dataclasses.asdict(TINY)
    assert facts["counts"] == found.data.counts
    assert facts["refusal"] == REFUSAL
    assert facts["files"] == _files(root)
    training = facts["training"]
    assert set(training) == {"base_seconds", "base_loss", "tuned_seconds", "tuned_loss"}
    assert found.tokenizer.eos_token == "</s>" and len(found.tokenizer) == TINY.vocabulary


def test_a_world_is_the_same_bytes_twice(root, tmp_path):
    reader = SourceReader(root)
    data = draw_data(reader, TINY)
    contents = []
    for place in (tmp_path / "one", tmp_path / "two"):
        place.mkdir()
        make_text_world(place, TINY, data, reader.files)
        files = [path for path in sorted(place.rglob("*")) if path.is_file()]
        contents.append(
            {str(p.relative_to(place)): p.read_bytes() for p in files if p.name != "text.json"}
        )
    assert contents[0] == contents[1]
    assert contents[0]["base/model.safetensors"] != contents[0]["tuned/model.safetensors"]


def test_a_large_world_is_refused_before_anything_is_written(root, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="CUDA"):
        open_text_world(root, dataclasses.replace(TINY, needs_cuda=True))
    assert list(cache_root().iterdir()) == []


def test_another_file_is_refused(root):
    (root / "kuq/knowns_unknowns.jsonl").write_text(json.dumps({"question": "who?"}) + "\n")
    with pytest.raises(DataError, match="sha256"):
        open_text_world(root, TINY)


def _files(root) -> dict[str, str]:
    reader = SourceReader(root)
    draw_data(reader, TINY)
    return reader.files
