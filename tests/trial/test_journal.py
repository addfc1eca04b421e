import json
import math
import multiprocessing
import os
from pathlib import Path

import pytest

from experiments.trial.journal import open_journal
from experiments.trial.metrics import Metrics
from full_disk import limited
from hcnr.errors import OutputError

METRICS = Metrics(50.0, 10.0, 2.0, 80.0, 95.0, {"names": {"f1": 50.0}})
LINE = {"candidate": "a", "part": "validation", "marks": METRICS.as_dict(), "seconds": 1.5}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seed-0.jsonl"


def add(path: Path, *names: str) -> None:
    with open_journal(path, "pair") as journal:
        for name in names:
            journal.add(name, "validation", METRICS, 1.5)


def names(path: Path) -> str:
    with open_journal(path, "pair") as journal:
        return "".join(name for name in "abc" if journal.get(name, "validation"))


def test_what_was_added_is_there_again(path: Path):
    undefined = Metrics(0.0, 0.0, 0.0, 0.0, math.nan, {})
    with open_journal(path, "pair") as journal:
        assert journal.get("a", "validation") is None
        journal.add("a", "validation", METRICS, 1.5)
        journal.add("b", "evaluated", undefined, 2.5)
        assert journal.get("a", "validation") == (METRICS, 1.5)
    with open_journal(path, "pair") as journal:
        assert journal.get("a", "validation") == (METRICS, 1.5)
        assert journal.get("a", "evaluated") is None
        known = journal.get("b", "evaluated")
        assert known is not None and math.isnan(known[0].retention) and known[1] == 2.5


def test_it_grows_at_its_end_alone(path: Path):
    add(path, "a")
    before, inode = path.read_bytes(), path.stat().st_ino
    assert before.splitlines()[0] == b'{"pair": "pair"}'
    add(path)
    assert path.read_bytes() == before and path.stat().st_ino == inode
    add(path, "b")
    assert path.read_bytes().startswith(before) and path.stat().st_ino == inode


def test_a_line_is_in_the_file_before_the_next_one_is_evaluated(path: Path):
    with open_journal(path, "pair") as journal:
        journal.add("a", "validation", METRICS, 1.5)
        assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize("tail", [b'{"candidate": "b", "part": "val', b"\0\0", b"\xc3", b"{}"])
def test_a_last_line_cut_short_is_cut_off_and_the_rest_goes_on(path: Path, tail: bytes):
    add(path, "a")
    before = path.read_bytes()
    path.write_bytes(before + tail)
    assert names(path) == "a"
    assert path.read_bytes() == before
    path.write_bytes(before + tail)
    add(path, "c")
    assert names(path) == "ac"


def test_a_first_line_cut_short_is_written_again(path: Path):
    add(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        add(path, "a")
        assert names(path) == "a"


@pytest.mark.parametrize(
    "content",
    [b"my notes", b"my notes\n", b'{"mine": 1}\n', b"[]\n", b"null\n", b'{"pair": 3}\n',
     b"\xff\xfe\n", b"\n", b"[" * 100_000 + b"\n"],
)  # fmt: skip
def test_somebody_elses_file_is_refused_and_kept(path: Path, content: bytes):
    path.write_bytes(content)
    with pytest.raises(OutputError, match=r"seed-0\.jsonl, line 1 is not what a trial writes"):
        add(path, "a")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "line",
    [
        b"\xff",
        b"",
        b"[]",
        b"3",
        b'{"candidate": "b", "part": "val',
        *(
            json.dumps(one).encode()
            for one in (
                *({key: LINE[key] for key in LINE if key != name} for name in LINE),
                {**LINE, "part": "training"},
                {**LINE, "seconds": "long"},
                {**LINE, "marks": []},
                {**LINE, "marks": {"f1": 50.0}},
                {**LINE, "marks": {**METRICS.as_dict(), "f1": "good"}},
                {**LINE, "marks": {**METRICS.as_dict(), "sets": 3}},
            )
        ),
    ],
)
def test_a_damaged_line_is_named_and_kept(path: Path, line: bytes):
    add(path, "a", "b")
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second + line + b"\n" + third)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"seed-0\.jsonl, line 3 is not .* remove") as error:
        add(path, "c")
    assert path.read_bytes() == before and "\n" not in str(error.value)


def test_another_pairs_journal_is_refused_and_kept(path: Path):
    add(path, "a")
    before = path.read_bytes()
    with (
        pytest.raises(OutputError, match="another pair, expected that of other"),
        open_journal(path, "other"),
    ):
        pass
    assert path.read_bytes() == before


def test_a_directory_in_its_place_is_refused(path: Path):
    path.mkdir()
    with pytest.raises(OutputError, match=r"cannot be opened \(Is a directory\)"):
        add(path)


def test_a_full_disk_is_told_and_what_was_kept_stays(path: Path):
    add(path, "a")
    room = path.stat().st_size + 40
    with pytest.raises(OutputError, match="cannot be written to"), limited(room):
        add(path, "b")
    assert names(path) == "a"


def test_one_process_at_a_time_and_other_seeds_are_free(path: Path):
    with open_journal(path, "pair") as journal:
        before = path.read_bytes()
        with pytest.raises(OutputError, match="another process is running the seed"):
            add(path, "b")
        assert path.read_bytes() == before
        add(path.with_name("seed-1.jsonl"), "b")
        journal.add("a", "validation", METRICS, 1.5)
    assert names(path) == "a"
    assert names(path.with_name("seed-1.jsonl")) == "b"


def test_a_dead_process_holds_nothing(path: Path):
    def die() -> None:
        with open_journal(path, "pair") as journal:
            journal.add("a", "validation", METRICS, 1.5)
            os._exit(3)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == 3
    assert names(path) == "a"


def test_an_error_in_the_body_stays_what_it_is(path: Path):
    with pytest.raises(FileNotFoundError, match="mine"), open_journal(path, "pair"):
        raise FileNotFoundError("mine")
    assert names(path) == ""
