import json

import pytest

from hcnr.benchmarks.loading import LoadedSets, load_sets
from hcnr.benchmarks.questions import Benchmark, Question
from hcnr.errors import ConfigError, DataError

QUESTIONS = (
    Question("1", "given", "q", False, (), "p"),
    Question("2", "given", "q", True, ("a",), "p"),
)


def test_sets_are_loaded_by_path_or_as_they_are(tmp_path):
    path = tmp_path / "mine.jsonl"
    record = {"question": "q", "answerable": True, "answers": ["a"]}
    path.write_text(json.dumps(record) + "\n" + json.dumps(record) + "\n")
    given = Benchmark("given", QUESTIONS, "d", "s", "f")
    found = load_sets([path, given], None, 1, task=False)
    assert {name: len(one.questions) for name, one in found.items()} == {"mine": 1, "given": 2}
    assert load_sets(str(path), None, None, task=True)["mine"].source == str(path)


def test_sets_that_cannot_be_loaded(tmp_path, monkeypatch):
    monkeypatch.delenv("HCNR_DATA_ROOT", raising=False)
    given = Benchmark("given", QUESTIONS, "d", "s", "f")
    with pytest.raises(DataError, match="given is named twice under tasks"):
        load_sets([given, given], None, None, task=True)
    with pytest.raises(DataError, match="limit is 0"):
        load_sets([given], None, 0, task=False)
    with pytest.raises(ConfigError, match="did you mean falseqa"):
        load_sets("falsqa", None, None, task=False)
    with pytest.raises(DataError, match="HCNR_DATA_ROOT"):
        load_sets("falseqa", None, None, task=False)


def test_honesty_sets_and_tasks_are_loaded_together():
    honesty = Benchmark("mine", QUESTIONS, "d", "s", "f", notes=("mind this",))
    task = Benchmark("job", QUESTIONS[1:], "d", "s", "f", notes=("and that",))
    sets = LoadedSets.load(honesty, [task], None, None)
    assert (sets.honesty, sets.tasks) == ({"mine": honesty}, {"job": task})
    assert list(sets.all) == ["mine", "job"] and sets.notes == ["mind this", "and that"]
    with pytest.raises(ConfigError, match="the set mine is named as benchmark and as task"):
        LoadedSets.load([honesty], [honesty], None, None)
