"""The directory of a trial: what is written there, and what is never replaced unasked."""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.trial.seed_result import SeedResult
from hcnr.checkpoint import atomic_file
from hcnr.errors import OutputError

_ODD = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_RESULT = {"key", "world", "seed", "ways"}


def prepared(out: str | Path) -> Path:
    """The directory of the output, made and known to take files.

    Raises:
        OutputError: It does not, or it has no name.
    """
    if out == "":
        raise OutputError("--out is empty, expected a directory; name one, such as trial")
    directory = Path(out)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"the trial cannot write to {directory} ({reason}); choose another --out"
        ) from None


def read_result(file: Path, key: str) -> SeedResult | None:
    """The result in a file, if it is of this very trial.

    Args:
        file: Need not exist.
        key: Digest of all that decides the result.

    Returns:
        None where there is none, or that of another trial, which may be replaced: the journal
        keeps what it is made of.

    Raises:
        OutputError: The file is no result of a trial.
    """
    if not file.exists():
        return None
    content = _content(file)
    if content["key"] == key:
        # What an older version wrote under the same key is made again.
        with contextlib.suppress(*_ODD):
            return SeedResult.from_dict(content)
    return None


def finished_results(out: str | Path) -> list[SeedResult]:
    """All results of a directory by rising seed, whichever machine they come from.

    Raises:
        OutputError: There are none, a file is no result of a trial, or they differ in the world,
            the methods or the levels, so that they make no table together.
    """
    files = sorted(Path(out).glob("seed-*.json"))
    if not files:
        raise OutputError(
            f"{out} holds no finished seed (seed-N.json), expected at least one; run the trial "
            "there first"
        )
    results: list[SeedResult] = []
    for file in files:
        try:
            results.append(SeedResult.from_dict(_content(file)))
        except _ODD:
            raise OutputError(
                f"{file} is of another version of the trial; run that seed again"
            ) from None
        first, last = (_about(result) for result in (results[0], results[-1]))
        for what, value in last.items():
            if value != first[what]:
                raise OutputError(
                    f"{file} has the {what} {value}, expected {first[what]} as in {files[0]}; move "
                    "it to a directory of its own, or run that seed again"
                )
    return sorted(results, key=lambda result: result.seed)


def _about(result: SeedResult) -> dict[str, Any]:
    """What seeds of one table have in common."""
    return {
        "world": result.world,
        "ways": list(result.method_results),
        "levels": sorted(
            {level for one in result.method_results.values() for level in one.selections}
        ),
    }


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
        if not content.keys() >= _RESULT:
            raise ValueError("something else")
    except (OSError, *_ODD) as error:
        reason = error.strerror if isinstance(error, OSError) else "something else"
        raise OutputError(
            f"{file} is no result of a trial ({reason}); choose another --out, or remove it"
        ) from None
    return content


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write a JSON file whole."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Tables:
    """`STEM.json` and `STEM.md`: replaced by a trial that includes what they hold.

    Attributes:
        out: Their directory.
        stem: Of their names.
        world: Where the new trial is held.
        seeds: Its seeds.
        methods: Names of its methods.
        overwrite: Replace whatever is there.
    """

    out: Path
    stem: str
    world: str
    seeds: Sequence[int]
    methods: Sequence[str]
    overwrite: bool = False

    def check(self) -> None:
        """Refuse to run where the tables could not be written.

        Raises:
            OutputError: There are others.
        """
        if (lost := self._lost()) is not None:
            raise OutputError(
                f"{lost}; add what is left out, choose another --out, or pass --overwrite"
            )

    def write(self, facts: dict[str, Any], markdown: str) -> str | None:
        """Write them, unless another process has written others meanwhile.

        Returns:
            Why they were not written.
        """
        if (lost := self._lost()) is not None:
            return (
                f"{lost}, and was finished meanwhile; it stays, and a run over the seeds of both "
                "puts them into one table"
            )
        write_json(self.out / f"{self.stem}.json", facts)
        with atomic_file(self.out / f"{self.stem}.md") as temporary:
            temporary.write_text(markdown, encoding="utf-8")
        return None

    def _lost(self) -> str | None:
        """What would be lost by writing; None where that is nothing."""
        file = self.out / f"{self.stem}.json"
        if self.overwrite or not (file.exists() or file.with_suffix(".md").exists()):
            return None
        try:
            content = json.loads(file.read_bytes())
            lost = {
                "world": {content["world"]} - {self.world},
                "seed": set(content["seeds"]) - set(self.seeds),
                "way": set(content["results"][0]["ways"]) - set(self.methods),
            }
            parts = [
                f"{word} {', '.join(map(repr, sorted(some)))}"
                for word, some in lost.items()
                if some
            ]
        except (OSError, *_ODD):
            return f"{file} or its .md file is there and is no table of a trial"
        if not parts:
            return None
        return f"{file} holds a finished trial of {' and '.join(parts)}, which this run leaves out"
