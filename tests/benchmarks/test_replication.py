"""The data sets of a replication: built twice alike, whole or not at all, free of overlap."""

import hashlib
import importlib
import json

import pytest
from typer import Typer
from typer.testing import CliRunner

import invented
from hcnr.benchmarks import replication
from hcnr.benchmarks.catalogue import load_benchmark
from hcnr.benchmarks.own_questions import load_questions
from hcnr.benchmarks.replication import RECORD, build_replication
from hcnr.benchmarks.selfchecks import COUNTS
from hcnr.benchmarks.sources import SOURCES
from hcnr.commands.data import EPILOG, build_data
from hcnr.data.samples import load_samples
from hcnr.errors import DataError, OutputError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return root, invented.write(root, invented.corpus())


@pytest.fixture
def root(written, monkeypatch):
    for path, source in written[1].items():
        monkeypatch.setitem(SOURCES, path, source)
    monkeypatch.setattr(replication, "COUNTS", {"evaluation/nec.jsonl": (4, 4)})
    return written[0]


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_two_runs_are_byte_equal(root, tmp_path):
    for name in ("one", "two"):
        build_replication(root, tmp_path / name)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    record = json.loads(one[RECORD])
    assert record["files"] == {
        name: {"lines": text.count(b"\n"), "sha256": hashlib.sha256(text).hexdigest()}
        for name, text in one.items()
        if name != RECORD
    }
    assert record["sources"] == {
        path: source.sha256
        for path, source in sorted(SOURCES.items())
        if "puqa" not in path and "trivia" not in path
    }
    assert all(check["passed"] for check in record["checks"])
    assert str(tmp_path) not in one[RECORD].decode()


def test_outputs_are_what_restore_and_evaluate_read(root, tmp_path):
    built = build_replication(root, tmp_path / "out")
    assert built.directory == tmp_path / "out"
    for name in ("honesty-128", "hotpotqa-128", "nq-128", "medmcqa-128", "bioasq-128"):
        samples = load_samples(tmp_path / f"out/{name}.jsonl")
        assert (len(samples), samples.available) == (128, 128)
    nq = [json.loads(line) for line in (tmp_path / "out/nq-128.jsonl").read_text().splitlines()]
    assert {one["response"] for one in nq} == {"Red"}
    own = load_questions(tmp_path / "out/evaluation/kuq.jsonl").questions
    assert own == load_benchmark("kuq", root).questions
    lines = (tmp_path / "out/pools/falseqa.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["rebuttals"] == ["There is no such thing."]


def test_rait_pool_is_extra(root, tmp_path, monkeypatch):
    for module in (replication.rait_samples.__module__, "hcnr.benchmarks.selfchecks"):
        monkeypatch.setattr(importlib.import_module(module), "RAIT_SIZE", 215)
    monkeypatch.setattr(replication, "RAIT_SIZE", 215)
    build_replication(root, tmp_path / "out", rait=True)
    lines = (tmp_path / "out/rait-215.jsonl").read_text().splitlines()
    assert len(lines) == 215
    assert {json.loads(line)["set"] for line in lines} == {"kuq", "falseqa", "puqa", "triviaqa"}
    assert "Jane Roe" not in "".join(lines)


def test_failed_self_check_leaves_nothing(root, tmp_path, monkeypatch):
    monkeypatch.setattr(replication, "COUNTS", {"evaluation/nec.jsonl": (4, 5)})
    with pytest.raises(DataError, match=r"fails 1 of its self-checks \(count of evaluation/nec"):
        build_replication(root, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_targets_are_tested_with_the_detector(root, tmp_path):
    with pytest.raises(DataError, match=r"targets of honesty-128.jsonl: 64 of 64 refusals are"):
        build_replication(root, tmp_path / "out", is_refusal=lambda response, question: False)


def test_existing_output_is_kept(root, tmp_path):
    build_replication(root, tmp_path / "out")
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="already exists"):
        build_replication(root, tmp_path / "out")
    assert (tmp_path / "out/mine.txt").exists()
    build_replication(root, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out/mine.txt").exists()


def test_output_inside_the_data_root_is_refused(root):
    with pytest.raises(OutputError, match="inside the input"):
        build_replication(root, root / "out")


def test_command(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HCNR_DATA_ROOT", str(root))
    app = Typer()
    app.command(epilog=EPILOG)(build_data)
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "ok  count of evaluation/nec.jsonl: 4 unanswerable + 4 answerable\n" in result.output
    assert f"written: {tmp_path / 'out'} (20 files, " in result.output


@invented.needs_data
def test_real_files(tmp_path):
    built = build_replication(None, tmp_path / "out", rait=True)
    assert {name for name, count in COUNTS.items() if built.files[name] != sum(count)} == set()
    assert all(check.passed for check in built.checks)
    assert len(built.checks) == 45
    lines = (tmp_path / "out/pools/kuq.jsonl").read_text().splitlines()
    category = {row["id"]: row["category"] for row in map(json.loads, lines)}
    honesty = [
        json.loads(line) for line in (tmp_path / "out/honesty-128.jsonl").read_text().splitlines()
    ]
    unknowns = [one for one in honesty if one["set"] == "kuq" and not one["answerable"]]
    spread = [category[one["id"]] for one in unknowns]
    assert sorted(spread.count(name) for name in set(spread)) == [5, 5, 5, 5, 6, 6]
    twins = [
        {
            one["id"].rpartition("-")[0]
            for one in honesty
            if one["set"] == "falseqa" and one["answerable"] == kind
        }
        for kind in (True, False)
    ]
    assert twins[0] == twins[1]
    assert len(twins[0]) == 32


@pytest.mark.parametrize("rait", [False, True])
def test_every_missing_file_is_named_at_once(root, tmp_path, rait):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data files are missing below .*empty") as caught:
        build_replication(tmp_path / "empty", tmp_path / "out", rait=rait)
    named = {line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]}
    assert named == {p for p in SOURCES if rait or ("puqa" not in p and "trivia" not in p)}
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
