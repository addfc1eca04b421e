"""Benchmarks by name, and a user's own."""

import hashlib
import json

import pytest

import invented
from hcnr.errors import ConfigError, DataError
from hcnr.evaluate.benchmarks import HONESTY_SETS, TASK_SETS, load_benchmark, load_questions
from hcnr.evaluate.sources import SOURCES


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return root, invented.write(root, invented.corpus())


@pytest.fixture
def root(written, monkeypatch):
    for path, source in written[1].items():
        monkeypatch.setitem(SOURCES, path, source)
    return written[0]


@pytest.mark.parametrize("name", HONESTY_SETS + TASK_SETS)
def test_every_name(root, name):
    found = load_benchmark(name, root)
    assert found.name == name
    assert len({q.id for q in found.questions}) == len(found.questions) > 3
    assert {(q.set, q.task) for q in found.questions} == {(name, name in TASK_SETS)}
    answerable = {q.answerable for q in found.questions}
    assert answerable == ({True} if name in TASK_SETS else {True, False})
    assert found.detector == (
        "selfaware" if name in ("kuq", "selfaware") else "unknownbench_keywords"
    )
    assert load_benchmark(name, root, limit=3).questions == found.questions[:3]


def test_names_its_files(root, monkeypatch):
    monkeypatch.setenv("HCNR_DATA_ROOT", str(root))
    found = load_benchmark("selfaware")
    path = "selfaware/SelfAware.json"
    assert found.source == str(root / path)
    line = f"{SOURCES[path].sha256}  {path}\n"
    assert found.sha256 == hashlib.sha256(line.encode()).hexdigest()


def test_unknown_name():
    with pytest.raises(ConfigError, match=r"'SelfAwar' is unknown, .* did you mean selfaware\?"):
        load_benchmark("SelfAwar")


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_too_low(root, limit):
    with pytest.raises(ConfigError, match=f"limit is {limit}, expected at least 1"):
        load_benchmark("nec", root, limit=limit)


@pytest.fixture
def own(tmp_path):
    def make(*records):
        path = tmp_path / "own.jsonl"
        lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return make


def test_own_benchmark(own):
    path = own(
        {"question": "Who?", "answerable": True, "answers": ["A", "B"]},
        "",
        {"question": "When?", "answerable": False, "id": 7, "prompt": "P", "answers": None},
        {"question": "Why?", "answerable": False, "id": "x", "more": 1},
    )
    found = load_questions(path)
    assert (found.name, found.detector, found.source) == ("own", "unknownbench_keywords", str(path))
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    first, second, third = found.questions
    assert (first.id, first.set, first.answerable, first.answers) == ("1", "own", True, ("A", "B"))
    assert first.prompt.endswith("concise. \nWho?")
    assert (second.id, second.prompt, second.answers) == ("7", "P", ())
    assert third.id == "x"
    assert load_questions(path, limit=2).questions == (first, second)


GOOD = {"question": "Who?", "answerable": True, "answers": ["A"]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "line 2 is not valid JSON"),
        (r'{"question": "\ud800"}', "line 2 is not valid JSON .*surrogates not allowed"),
        ("[1]", r"line 2 is '\[1\]', expected an object"),
        ({**GOOD, "question": None}, "line 2: 'question' is missing, expected text"),
        ({**GOOD, "question": " "}, "line 2: 'question' is ' ', expected text"),
        ({**GOOD, "answerable": 1}, "line 2: 'answerable' is 1, expected true or false"),
        ({"question": "q"}, "line 2: 'answerable' is None, expected true or false"),
        ({**GOOD, "answers": "A"}, "line 2: 'answers' is 'A', expected a list of texts"),
        ({**GOOD, "answers": [""]}, r"line 2: 'answers' is \[''\], expected a list of texts"),
        ({**GOOD, "id": ["x"]}, r"line 2: 'id' is \['x'\], expected text"),
        ({**GOOD, "id": True}, "line 2: 'id' is True, expected text"),
        ({**GOOD, "prompt": 3}, "line 2: 'prompt' is 3, expected text"),
        ({**GOOD, "id": "1"}, "line 2 has the id '1' of an earlier line"),
    ],
)
def test_bad_records_are_named(own, record, message):
    path = own(GOOD, record)
    # Also where the limit would leave the record out.
    with pytest.raises(DataError, match=message):
        load_questions(path, limit=1)


def test_bad_files(own, tmp_path):
    with pytest.raises(DataError, match="holds no questions"):
        load_questions(own(""))
    with pytest.raises(DataError, match="cannot be read"):
        load_questions(tmp_path / "absent.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9")
    with pytest.raises(DataError, match="not valid UTF-8"):
        load_questions(tmp_path / "latin.jsonl")
    with pytest.raises(ConfigError, match="limit is 0"):
        load_questions(own(GOOD), limit=0)


COUNTS = {
    "falseqa": (686, 686),
    "nec": (2077, 2071),
    "refunq": (2173, 2266),
    "kuq": (1740, 2252),
    "selfaware": (1032, 2333),
    "hotpotqa": (0, 1441),
    "nq": (0, 3575),
    "medmcqa": (0, 845),
    "bioasq": (0, 184),
}


@invented.needs_data
@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_the_real_files(name):
    found = load_benchmark(name).questions
    answerable = sum(question.answerable for question in found)
    assert (len(found) - answerable, answerable) == COUNTS[name]
    assert len({question.id for question in found}) == len(found)
    assert all(a.strip() for question in found for a in question.answers)


@pytest.mark.parametrize(
    ("name", "detector"), [("kuq", "selfaware"), ("mine", "unknownbench_keywords")]
)
def test_a_file_named_as_a_published_set_has_its_detector(tmp_path, name, detector):
    path = tmp_path / f"{name}.jsonl"
    path.write_text('{"question": "Why?", "answerable": false}\n')
    assert load_questions(path).detector == detector
