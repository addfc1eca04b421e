"""The files that the readers need: where each comes from, and proof that it is the right one."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcnr.errors import DataError

DATA_ROOT = "HCNR_DATA_ROOT"

Record = dict[str, Any]
# Path below the data root -> records of that file.
Records = Callable[[str], Sequence[Record]]


@dataclass(frozen=True)
class SourceFile:
    """What is known about a file.

    Attributes:
        sha256: of its bytes.
        count: records that it holds.
        kind: csv, jsonl, json (a list), or json:KEY (the list under a key).
        origin: where to get it.
    """

    sha256: str
    count: int
    kind: str
    origin: str


def _github(repository: str, commit: str, path: str) -> str:
    return f"{path} of https://github.com/{repository} at commit {commit}"


def _files(
    folder: str, kind: str, origin: tuple[str, str, str], *files: tuple[str, str, int]
) -> dict[str, SourceFile]:
    """Files of one repository by their paths below the data root.

    Args:
        folder: below the data root.
        kind: as in `SourceFile`.
        origin: repository on GitHub, commit, and folder there.
        files: of each its name, SHA-256 and number of records.
    """
    repository, commit, remote_folder = origin
    return {
        f"{folder}/{name}": SourceFile(
            sha256, count, kind, _github(repository, commit, f"{remote_folder}/{name}")
        )
        for name, sha256, count in files
    }


_MIRAGE = ("Teddy-XiongGZ/MIRAGE", "392943af99cd94cafd50a0de2e7fca24bbf65494")

SOURCES = {
    **_files(
        "falseqa",
        "csv",
        ("thunlp/FalseQA", "9a9729974d8c5cfbfc6929e5b830111c0ed7c0c7", "dataset"),
        ("train.csv", "2aa13cf9dd1fb7751de17a59e83a225d3cc50eb263b32697d97f97968a9c160f", 2374),
        ("test.csv", "8983aa5054982b88be37cbc7ce3fd9c9faeb56fd1481da01f51a806dac110624", 1374),
    ),
    # JSON lines, whatever the extension says.
    **_files(
        "unknownbench",
        "jsonl",
        ("genglinliu/UnknownBench", "7283e4218b9146275d3069306927c3289fad576a", "data"),
        ("NEC/NEC_answerable.json",
         "458201872dd39bf194f62b6e6c44233242dd99f0ca6cd6723199f39ef84e74df", 2072),
        ("NEC/NEC_unanswerable.json",
         "72a666544e4fc5269ece3d80f27f6f7a29a3e45ac50660da2e85b94f0eae2f05", 2078),
        ("RefuNQ/RefuNQ_answerable.json",
         "6f16a61912076245c8592728b7d68a7f9dc9fb725344b671615b466b0faeb7a3", 2266),
        ("RefuNQ/RefuNQ_unanswerable.json",
         "3e1510f12df0a38f032d291942e224811d40755c358129798fcd15f53d6042c5", 2173),
    ),
    "kuq/knowns_unknowns.jsonl": SourceFile(
        "798d1677f962d11d069f77d1e3db91ad2ddb483a94b697e46bc8ca62ad0aedf6",
        6884,
        "jsonl",
        "knowns_unknowns.jsonl of https://huggingface.co/datasets/amayuelas/KUQ, to which "
        "https://github.com/amayuelas/knowledge-of-knowledge links",
    ),
    **_files(
        "selfaware",
        "json:example",
        ("yinzhangyue/SelfAware", "f0bad1ff77bd42fc4eb2360281ed646c7bb7bd0c", "data"),
        ("SelfAware.json",
         "32929585ffdd4048f35f7f167720722eb8ddcf59908ffc958da2f84ea634dc54", 3369),
    ),
    **_files(
        "hotpotqa",
        "json",
        ("ysymyth/ReAct", "6bdb3a1fd38b8188fc7ba4102969fe483df8fdc9", "data"),
        ("hotpot_dev_v1_simplified.json",
         "05001dcdeb2b2b2243a88f23daaf8de9237494cd387e13bc25854d3e031101d3", 7405),
    ),
    **_files(
        "alignment_for_honesty",
        "jsonl",
        ("GAIR-NLP/alignment-for-honesty", "5357ef8700e12b506e1e18685eded3fb082940fe",
         "data/evaluation_data"),
        ("nonambigqa.jsonl",
         "95c62e97a4c31a4757e0e6303a164534ac1948ba43ef6e82bc38fdae807e7149", 5325),
        ("puqa.jsonl", "211aa28ef38fca893ab034b1c1e1bf7943d39a6854d361bf5196d28bede49042", 1000),
    ),
    **_files(
        "nq_open",
        "jsonl",
        ("google-research-datasets/natural-questions", "fb26a3073b1fe636c97302890a27b491d6530130",
         "nq_open"),
        ("NQ-open.dev.jsonl",
         "f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616", 3610),
    ),
    **_files(
        "medmcqa",
        "jsonl",
        (*_MIRAGE, "rawdata/medmcqa/data"),
        ("dev.json", "a2b5f53890f4e742b728378fb847bc5338088d48ea01218676379f587270af31", 4183),
    ),
    "bioasq/bioasq_7b-11b_golden_nosnippets.jsonl": SourceFile(
        "be03ef5ef709f32328312fabe4be4f91fdb46303b4c7e150c244f07fc82505fe",
        2310,
        "jsonl",
        _github(*_MIRAGE, "rawdata/bioasq/Task{7..11}BGoldenEnriched/*.json")
        + " (7B1 first, 11B4 last): of each question all but the keys snippets, documents, "
        "concepts and triples, then source_file (such as 11B4_golden.json), written by Python's "
        "json.dumps(question, ensure_ascii=False), one per line",
    ),
    "triviaqa/test_subsample.jsonl": SourceFile(
        "4a46971e676400b102885b4690f26014cbfed71d6d9785f134b22182170e58e3",
        1000,
        "jsonl",
        _github(
            "GaurisankarJ/reason_over_search",
            "45495b576c768f0d5996789e2db29eaa285a3c54",
            "data_subsample/triviaqa/test.jsonl",
        ),
    ),
}  # fmt: skip


class SourceReader:
    """Reads verified files below a data root, and remembers which.

    Attributes:
        root: the data root.
        files: SHA-256 of what was read, by path below the root, in the order of first reading.
    """

    def __init__(self, data_root: str | os.PathLike[str] | None = None) -> None:
        """Take the data root from the argument, else from the environment.

        Raises:
            DataError: there is none, or it is no directory.
        """
        folder = data_root or os.environ.get(DATA_ROOT)
        if not folder:
            raise DataError(
                f"no data root was given, expected a folder that holds files such as "
                f"falseqa/test.csv ({SOURCES['falseqa/test.csv'].origin}); pass --data-root DIR "
                f"or set {DATA_ROOT}"
            )
        self.root = Path(folder).expanduser()
        self.files: dict[str, str] = {}
        if not self.root.is_dir():
            raise DataError(
                f"the data root {self.root} is no directory, expected a folder that holds files "
                f"such as falseqa/test.csv; pass --data-root DIR or set {DATA_ROOT}"
            )

    def check(self, paths: Sequence[str]) -> None:
        """Raise DataError where files are missing: one that names them all.

        Args:
            paths: keys of `SOURCES`.
        """
        missing = [path for path in paths if not (self.root / path).is_file()]
        if len(missing) > 1:
            lines = "".join(f"\n  {path}: {SOURCES[path].origin}" for path in missing)
            raise DataError(
                f"{len(missing)} of {len(paths)} data files are missing below {self.root}; get "
                f"each from where this list says and save it under its name there:{lines}"
            )

    def __call__(self, path: str) -> list[Record]:
        """Return the records of a file.

        Args:
            path: a key of `SOURCES`.

        Raises:
            DataError: the file is missing, unreadable, or not the one that is known.
        """
        source, file = SOURCES[path], self.root / path
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            raise DataError(
                f"the data file {file} is missing; get {source.origin} and save it there"
            ) from None
        except OSError as error:
            raise DataError(
                f"the data file {file} cannot be read ({error.strerror}); check its permissions"
            ) from None
        digest = hashlib.sha256(content).hexdigest()
        if digest != source.sha256:
            raise DataError(
                f"the data file {file} has sha256 {digest[:12]}... and "
                f"{_count(content, source.kind)}, expected sha256 {source.sha256[:12]}... and "
                f"{source.count} records; get {source.origin} anew"
            )
        records = parse_records(content, source.kind, str(file))
        if len(records) != source.count:
            raise DataError(
                f"the data file {file} holds {len(records)} records, expected {source.count}; "
                f"get {source.origin} anew"
            )
        self.files[path] = digest
        return records

    def sha256(self) -> str:
        """SHA-256 over all that was read, equal to that of `sha256sum FILE...`'s output."""
        lines = "".join(f"{sha256}  {path}\n" for path, sha256 in self.files.items())
        return hashlib.sha256(lines.encode()).hexdigest()


def parse_records(content: bytes, kind: str, name: str) -> list[Record]:
    """Parse the records of a file.

    Args:
        content: the file.
        kind: as in `SourceFile`.
        name: of the file, for messages.

    Raises:
        DataError: the content is not of that kind.
    """
    try:
        text = content.decode("utf-8-sig")
        if kind == "csv":
            records: Any = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        elif kind == "jsonl":
            # Not splitlines, which would also cut at U+2028 inside a JSON string.
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            records = json.loads(text)
            if key := kind.removeprefix("json").removeprefix(":"):
                records = records[key]
    except (ValueError, KeyError, TypeError, csv.Error, RecursionError) as error:
        raise DataError(f"{name} is no readable {kind} file ({error!r}); get it anew") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{name} holds no list of records; get it anew")
    return records


def _count(content: bytes, kind: str) -> str:
    try:
        return f"{len(parse_records(content, kind, 'it'))} records"
    except DataError:
        return "no readable records"
