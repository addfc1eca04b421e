"""Files are read only if they are the known ones."""

import hashlib

import pytest

import invented
from hcnr.benchmarks import sources
from hcnr.benchmarks.catalogue import files_of
from hcnr.benchmarks.sources import SOURCES, SourceReader, parse_records
from hcnr.errors import DataError

PATH = "nq_open/NQ-open.dev.jsonl"


@pytest.fixture
def root(tmp_path, monkeypatch):
    written = invented.write(tmp_path, {PATH: invented.corpus()[PATH]})
    monkeypatch.setitem(SOURCES, PATH, written[PATH])
    return tmp_path


def test_reads_and_remembers(root):
    reader = SourceReader(root)
    assert reader(PATH) == invented.corpus()[PATH]
    content = hashlib.sha256((root / PATH).read_bytes()).hexdigest()
    assert reader.files == {PATH: content}
    assert reader.sha256() == hashlib.sha256(f"{content}  {PATH}\n".encode()).hexdigest()


def test_data_root_from_the_environment(root, monkeypatch):
    monkeypatch.setenv("HCNR_DATA_ROOT", str(root))
    assert len(SourceReader()(PATH)) == 4


def test_no_data_root(monkeypatch):
    monkeypatch.delenv("HCNR_DATA_ROOT", raising=False)
    with pytest.raises(DataError, match=r"--data-root DIR or set HCNR_DATA_ROOT"):
        SourceReader()


def test_data_root_is_no_directory(tmp_path):
    with pytest.raises(DataError, match="is no directory"):
        SourceReader(tmp_path / "absent")


def test_missing_file_says_where_to_get_it(root):
    with pytest.raises(DataError, match=r"falseqa/test.csv is missing; get .*thunlp/FalseQA"):
        SourceReader(root)("falseqa/test.csv")


def test_directory_in_place_of_a_file(root):
    (root / "falseqa/test.csv").mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be read"):
        SourceReader(root)("falseqa/test.csv")


def test_changed_file(root):
    with open(root / PATH, "a") as file:
        file.write('{"question": "q", "answer": ["a"]}\n')
    with pytest.raises(DataError, match=r"and 5 records, expected sha256 .* and 4 records; get "):
        SourceReader(root)(PATH)


def test_garbage(root):
    (root / PATH).write_bytes(b"\xff{")
    with pytest.raises(DataError, match="no readable records, expected"):
        SourceReader(root)(PATH)


def test_count_is_checked_too(root, monkeypatch):
    one = SOURCES[PATH]
    monkeypatch.setitem(sources.SOURCES, PATH, sources.SourceFile(one.sha256, 5, one.kind, "here"))
    with pytest.raises(DataError, match="holds 4 records, expected 5; get here"):
        SourceReader(root)(PATH)


def test_kinds():
    assert parse_records(b'a,b\n1,"x\ny"\n', "csv", "f") == [{"a": "1", "b": "x\ny"}]
    line = '{"a": "one\u2028line"}\n'.encode()
    assert parse_records(b"\xef\xbb\xbf" + line + b"\n", "jsonl", "f") == [{"a": "one\u2028line"}]
    assert parse_records(b'[{"a": 1}]', "json", "f") == [{"a": 1}]
    assert parse_records(b'{"k": [{"a": 1}]}', "json:k", "f") == [{"a": 1}]


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"{}", "json"), (b"[1]", "json"), (b"{}", "json:k"), (b"[]", "json:k"), (b"1\n", "jsonl")],
)
def test_no_list_of_records(content, kind):
    with pytest.raises(DataError, match=r"^f "):
        parse_records(content, kind, "f")


@invented.needs_data
@pytest.mark.parametrize("path", SOURCES)
def test_real_files_are_the_known_ones(path):
    assert len(SourceReader()(path)) == SOURCES[path].count


def test_all_that_is_missing_is_named_at_once(root):
    reader = SourceReader(root)
    reader.check([PATH])
    missing = ["falseqa/test.csv", "medmcqa/dev.json"]
    with pytest.raises(DataError) as caught:
        reader.check([PATH, *missing])
    head, *lines = str(caught.value).splitlines()
    assert head.startswith(f"2 of 3 data files are missing below {root}")
    assert [line.split(":")[0].strip() for line in lines] == missing
    assert all(SOURCES[path].origin in line for path, line in zip(missing, lines, strict=True))


def test_a_set_knows_its_files_without_reading_them():
    assert files_of(["nec"]) == [
        f"unknownbench/NEC/NEC_{kind}.json" for kind in ("unanswerable", "answerable")
    ]
    # What is in a honesty set is no question of a task.
    assert {"hotpotqa/hotpot_dev_v1_simplified.json", "falseqa/test.csv"} < set(
        files_of(["hotpotqa"])
    )
