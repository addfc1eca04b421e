"""What a run has found so far, line by line on disk, and the result that follows from the lines.

A line is written to every destination, and is on disk, before the next thing is measured: whatever
ends a run, what it had measured is there. Needs no torch.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.goals import derived

Entry = dict[str, Any]
Result = dict[str, Any]

INTERRUPTED = "interrupted"
UNFINISHED = "no result: the process ended while this was measured"


class Journal:
    """Appends entries to the same file in several places."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)

    def add(self, kind: str, **facts: Any) -> None:
        """Write one entry; it is on disk when this comes back."""
        line = _line({"kind": kind, **facts})
        for path in self.files:
            with path.open("ab+") as file:
                # A line that was cut off must not take this one with it.
                torn = file.tell() and not _ends_line(file)
                file.write(("\n" + line if torn else line).encode())
                file.flush()
                os.fsync(file.fileno())

    def restart(self, kind: str, **facts: Any) -> None:
        """Begin with one entry, in place of what the files hold."""
        for path in self.files:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, _line({"kind": kind, **facts}))

    def entries(self) -> list[Entry]:
        return read(self.files[0])


def _line(entry: Entry) -> str:
    return json.dumps(entry, default=_plain) + "\n"


def _plain(value: Any) -> float | str:
    """What JSON does not know, a tensor among them: no figure is lost for its type."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read(path: Path) -> list[Entry]:
    """The entries of a journal; lines that were cut off are left out."""
    entries = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "kind" in entry:
            entries.append(entry)
    return entries


def load(path: Path) -> Result:
    """The result of an earlier run, finished or not: its `.json`, or the journal beside it.

    Raises:
        ValueError: The file is missing or holds no such result.
    """
    journal, whole = path.with_suffix(".jsonl"), path.with_suffix(".json")
    if journal.exists() and (entries := read(journal)):
        return fold(entries)
    try:
        result = json.loads(whole.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} holds no results of make gpu ({error}); give the .json or .jsonl that a run "
            "has written"
        ) from None
    if not isinstance(result, dict) or not {"device", "sections", "records"} <= result.keys():
        raise ValueError(
            f"{path} holds JSON, but not results of make gpu; give the .json or .jsonl that a run "
            "has written"
        )
    return result


def fold(entries: Iterable[Entry]) -> Result:
    """The result of a run: what an earlier one left, and what these entries add.

    A case that was measured again replaces what there was of it; one that merely began does not.
    """
    runs: list[Mapping[str, str]] = []
    sections: dict[str, Entry] = {}
    records: list[Entry] = []
    open_cases: dict[tuple[str, str], int] = {}
    for entry in entries:
        facts = dict(entry)
        kind, section = facts.pop("kind"), facts.get("section", "")
        case = (section, str(facts.get("case")))
        if kind == "earlier":
            earlier = facts["result"]
            runs = list(earlier.get("runs", [earlier["device"]]))
            sections = dict(earlier["sections"])
            records = [one for one in earlier["records"] if one.get("section") != "derived"]
        elif kind == "run":
            runs.append(facts["device"])
        elif kind == "start":
            sections[section] = {"status": INTERRUPTED, "seconds": 0.0}
        elif kind == "section":
            sections[section] = {"status": facts["status"], "seconds": facts["seconds"]}
        elif kind == "begin":
            open_cases[case] = len(runs)
        elif kind == "record":
            records = [one for one in records if not _outdated(one, case, len(runs))]
            records.append({**facts, "run": len(runs)})
            open_cases.pop(case, None)
        elif kind == "end":
            open_cases.pop(case, None)
    known = {_case(one) for one in records}
    records += [
        {"section": section, "case": title, "title": title, "failed": UNFINISHED, "run": run}
        for (section, title), run in open_cases.items()
        if (section, title) not in known
    ]
    return {
        "device": runs[-1] if runs else {"name": "unknown device"},
        "runs": runs,
        "sections": sections,
        "records": records + derived(records),
    }


def _case(record: Entry) -> tuple[str, str]:
    return record.get("section", ""), str(record.get("case"))


def _outdated(record: Entry, case: tuple[str, str], run: int) -> bool:
    """Whether a record is of the same case, from an earlier run or from a failure of this one."""
    return _case(record) == case and (record["run"] != run or record.get("failed") == UNFINISHED)


def begun(entries: Iterable[Entry], section: str) -> list[str]:
    """Cases of a section that these entries saw begin."""
    return [e["case"] for e in entries if e["kind"] == "begin" and e["section"] == section]


def measured(result: Result, section: str) -> list[str]:
    """Cases of a section that have a result which is no failure."""
    mine = [record for record in result["records"] if record.get("section") == section]
    failed = {record.get("case") for record in mine if "failed" in record}
    return sorted({str(record.get("case")) for record in mine} - {str(one) for one in failed})
