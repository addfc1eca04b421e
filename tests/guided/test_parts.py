"""Task samples in parts that never overlap."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcnr.data.held_back import FEWEST
from hcnr.data.samples import load_samples
from hcnr.guided.parts import FEWEST_SAMPLES, Sizes, part_task, sizes_of, write_shuffled
from pairs import write_jsonl


@given(st.integers(FEWEST_SAMPLES, 2000), st.integers(1, 500), st.booleans())
def test_every_part_has_enough_and_none_more_than_there_is(available, wanted, judging):
    sizes = sizes_of(available, wanted, judging=judging)
    assert sizes.measured + sizes.choosing + sizes.judging <= available
    assert 1 <= sizes.measured <= max(wanted, available) and sizes.choosing >= FEWEST
    assert (sizes.judging >= FEWEST) if judging else (sizes.judging == 0)


def test_sizes_where_there_is_plenty_and_where_there_is_not():
    assert sizes_of(1000, 128) == Sizes(128, 64, 200)
    assert sizes_of(256, 128) == Sizes(128, 64, 64)
    assert sizes_of(192, 128) == Sizes(96, 48, 48)
    assert sizes_of(192, 128, judging=False) == Sizes(128, 64, 0)


@settings(max_examples=5, deadline=None)
@given(seed=st.none() | st.integers(0, 9))
def test_records_stay_as_they_are_and_are_shuffled_once(tmp_path_factory, seed):
    root = tmp_path_factory.mktemp("parts")
    rows = [{"prompt": f"p{i}", "response": f"r{i}", "answers": [f"a{i}"], "extra": i}
            for i in range(60)]  # fmt: skip
    source = str(write_jsonl(root / "own.jsonl", rows))
    part_task(source, root / "d", 20, seed, judging=True)
    read = [
        json.loads(line)
        for name in ("task", "task-questions")
        for line in (root / "d" / f"{name}.jsonl").read_text().splitlines()
    ]
    shuffled = load_samples(source, limit=60, shuffle_seed=seed)
    assert [row["prompt"] for row in read] == [s.prompt for s in shuffled.samples]
    assert sorted(read, key=lambda row: row["extra"]) == rows
    if seed is not None:
        path = write_shuffled(source, root / "whole.jsonl", seed)
        assert load_samples(path, limit=60).samples == shuffled.samples


def test_too_few(tmp_path):
    source = write_jsonl(tmp_path / "few.jsonl", [{"prompt": "p", "response": "r"}] * 5)
    with pytest.raises(ValueError, match="holds 5 samples, expected at least 32"):
        part_task(str(source), tmp_path / "d", 20, None, judging=True)
    assert not (tmp_path / "d").exists()
