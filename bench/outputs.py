"""Where results lie: a journal while a command runs, the JSON and the table made from it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.context import LATE
from bench.journal import INTERRUPTED, Journal, Result, fold, replace
from bench.report import as_json, markdown, slug

SUFFIXES = (".jsonl", ".json", ".md")


class Outputs:
    """The files of one command, alike in every destination.

    They are named `<device>-partial`, or `-partial-2` and so on where another command's lie; one
    that appends goes on in the files that it was given.
    """

    def __init__(self, directories: Sequence[Path], stem: str, device: str) -> None:
        self.directories = tuple(directories)
        self.stem, self._device = stem, device
        self.journal = Journal([path / f"{stem}.jsonl" for path in directories])
        self._written = -1

    @classmethod
    def open(
        cls,
        directories: Sequence[Path],
        device: Mapping[str, str],
        earlier: Result | None = None,
        appended: Path | None = None,
    ) -> "Outputs":
        """Begin the journals, with what an earlier command has left."""
        name = slug(device["name"])
        stem, number = f"{name}-partial", 1
        while any(_taken(path, stem) and not _same(path, stem, appended) for path in directories):
            number += 1
            stem = f"{name}-partial-{number}"
        outputs = cls(directories, stem, name)
        if earlier is not None:
            outputs.journal.restart("earlier", result=earlier)
            outputs.journal.add("run", device=dict(device))
        else:
            outputs.journal.restart("run", device=dict(device))
        outputs.refresh()
        return outputs

    def refresh(self) -> None:
        """Write the files anew if the journal has grown."""
        size = self.journal.files[0].stat().st_size
        if size != self._written:
            self._write(self.stem, fold(self.journal.entries()))
            self._written = size

    def conclude(
        self, sections: Iterable[str], *, partial: bool = False
    ) -> tuple[Result, list[Path]]:
        """The result and its files; not partial once every section has come to an end."""
        result = fold(self.journal.entries())
        ended = {
            name for name, found in result["sections"].items()
            if found["status"] not in (INTERRUPTED, LATE)
        }  # fmt: skip
        whole = not partial and ended >= set(sections)
        written = self._write(self._device if whole else self.stem, result)
        for directory in self.directories:
            (directory / f"{self.stem}.jsonl").unlink(missing_ok=True)
            for suffix in (".json", ".md") if whole else ():
                (directory / f"{self.stem}{suffix}").unlink(missing_ok=True)
        return result, written

    def _write(self, stem: str, result: Result) -> list[Path]:
        """Both files, in each of the directories."""
        written = []
        for directory in self.directories:
            for suffix, text in ((".json", as_json(result)), (".md", _table(result))):
                path = directory / f"{stem}{suffix}"
                replace(path, text)
                written.append(path)
        return written


def _table(result: Result) -> str:
    """The table; what cannot be shown must not end a run whose figures are in the JSON."""
    try:
        return markdown(result)
    except Exception as error:
        return f"no table could be made ({error!r}); the JSON file has all figures.\n"


def _taken(directory: Path, stem: str) -> bool:
    return any((directory / f"{stem}{suffix}").exists() for suffix in SUFFIXES)


def _same(directory: Path, stem: str, appended: Path | None) -> bool:
    """Whether a stem's files are those that this command goes on from."""
    if appended is None:
        return False
    return (directory / stem).resolve() == appended.with_suffix("").resolve()
