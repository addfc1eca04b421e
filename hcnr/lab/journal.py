"""What was judged so far, line by line, so that an interrupted trial goes on where it stopped."""

import json
from pathlib import Path
from typing import Any

from hcnr.errors import OutputError
from hcnr.lab.arena import Marks, Part
from hcnr.lab.choosing import read_marks


class Journal:
    """Marks by candidate and part, in a file of JSON lines that belongs to one pair.

    A line is added as soon as a candidate is judged. A last line that was cut short is dropped.
    """

    def __init__(self, path: Path, pair: str) -> None:
        """Read what is there.

        Args:
            path: The file; its directory exists.
            pair: Digest of everything that marks depend on beside the candidate.

        Raises:
            OutputError: The file is about another pair.
        """
        self._path = path
        self._found: dict[tuple[str, str], tuple[Marks, float]] = {}
        head = {"pair": pair}
        lines = _whole_lines(path) or [head]
        if lines[0] != head:
            raise OutputError(
                f"{path} holds the trial of another pair, expected that of {pair}; choose another "
                "--out, or remove the old trial"
            )
        for line in lines[1:]:
            self._found[line["candidate"], line["part"]] = (
                read_marks(line["marks"]),
                line["seconds"],
            )
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def get(self, candidate: str, part: Part) -> tuple[Marks, float] | None:
        """Marks and seconds of a candidate, if it was judged on that part."""
        return self._found.get((candidate, part))

    def add(self, candidate: str, part: Part, marks: Marks, seconds: float) -> None:
        """Keep what was found."""
        self._found[candidate, part] = marks, seconds
        line = {
            "candidate": candidate,
            "part": part,
            "marks": marks.as_dict(),
            "seconds": seconds,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file up to the first that is no JSON; none where there is no file."""
    found = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return found
