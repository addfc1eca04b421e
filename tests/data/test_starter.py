import hashlib
import json
from pathlib import Path

import pytest

import hcnr.data.starter
from hcnr.benchmarks.own_questions import load_questions
from hcnr.data.overlap import QuestionIndex
from hcnr.data.samples import data_files, load_samples
from hcnr.data.starter import STARTER, VALIDATION
from hcnr.detectors import open_detector
from hcnr.errors import DataError


def test_the_samples_are_balanced_from_the_first_on():
    found = load_samples(STARTER, limit=1000)
    assert (len(found), found.available, found.source) == (512, 512, "starter")
    assert [sample.answerable for sample in found.samples] == [False, True] * 256
    refuses = open_detector("unknownbench_keywords")
    for sample in found.samples:
        assert refuses(sample.response, sample.prompt) is not sample.answerable


@pytest.mark.parametrize(("name", "count"), [(STARTER, 300), (VALIDATION, 200)])
def test_no_question_is_near_a_sample(name, count):
    samples = QuestionIndex(s.prompt for s in load_samples(STARTER, limit=1000).samples)
    found = load_questions(name)
    assert (found.name, len(found.questions)) == (name, count)
    assert [one.answerable for one in found.questions] == [False, True] * (count // 2)
    assert not any(samples.near(one.question) for one in found.questions)
    assert all(one.answers for one in found.questions if one.answerable)
    assert all(one.prompt == one.question for one in found.questions)
    assert load_questions(name).sha256 == found.sha256


def test_what_chooses_is_not_near_what_judges():
    judging = QuestionIndex(one.question for one in load_questions(STARTER).questions)
    assert not any(judging.near(one.question) for one in load_questions(VALIDATION).questions)


def test_one_file_with_its_licence_serves_the_demo_too():
    folder = Path(hcnr.data.starter.__file__).parent
    assert "MIT License" in (folder / "KUQ-LICENSE").read_text()
    assert len(list(folder.parent.rglob("kuq*.jsonl"))) == 1
    # What the demo trained with: another file would make another pair.
    content = (folder / "kuq.jsonl").read_bytes()
    assert hashlib.sha256(content).hexdigest()[:12] == "f75a9fe95abe"
    assert len(content.splitlines()) == len(hcnr.data.starter.kuq_rows()) == 2420
    assert json.loads(content.splitlines()[0]) == hcnr.data.starter.kuq_rows()[0]


def test_the_name_is_no_place_and_no_task(tmp_path):
    path = tmp_path / "h.jsonl"
    assert data_files(STARTER, "hf:squad:train", path, None, [{}]) == [path]
    with pytest.raises(DataError, match=r"starter does not exist|starter is not a file"):
        load_samples(Path(STARTER))
