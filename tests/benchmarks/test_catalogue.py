"""Benchmarks by name, and a user's own."""

import hashlib

import pytest

import invented
from hcnr.benchmarks.catalogue import HONESTY_SETS, TASK_SETS, load_benchmark
from hcnr.benchmarks.sources import SOURCES
from hcnr.errors import ConfigError


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
