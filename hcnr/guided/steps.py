"""Steps that are done once: what is finished, and belongs to the same inputs, is not done again."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hcnr.checkpoint import atomic_file

FILE = "steps.json"


class Steps:
    """The steps of one run, kept in a file of its directory.

    Attributes:
        done: names of the steps that this object did itself, in order; the others were read.
    """

    def __init__(self, directory: Path, tell: Callable[[str], None]) -> None:
        """Read what was finished before; an unreadable file counts as nothing.

        Args:
            directory: of the run.
            tell: told in a sentence when a step is read instead of done.
        """
        self._directory, self._tell = directory, tell
        self.done: list[str] = []
        try:
            content = json.loads((directory / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}
        self._finished: dict[str, Any] = content if isinstance(content, dict) else {}

    @property
    def finished(self) -> list[str]:
        """Names of the steps that were finished, now or before, in their order."""
        return list(self._finished)

    def step(
        self,
        name: str,
        inputs: Mapping[str, Any],
        outputs: Callable[[], Mapping[str, str]],
        work: Callable[[], Any],
    ) -> Any:
        """Do a step, or take its result where it is finished.

        It is finished if it was done with the same inputs and its outputs are what they were then.

        Args:
            name: of the step.
            inputs: everything that its result depends on, plain values.
            outputs: what it leaves: name -> something that changes with the content.
            work: does it; returns plain values for JSON.
        """
        key = fingerprint_of(inputs)
        known = self._finished.get(name)
        if isinstance(known, dict) and known.get("key") == key:
            if known.get("outputs") == dict(outputs()):
                self._tell(f"{name}: finished before, read")
                return known.get("result")
            self._tell(f"{name}: its files have changed since, done again")
        elif known is not None:
            self._tell(f"{name}: its inputs or settings have changed, done again")
        # Forgotten before it begins: an interruption must not leave the old one beside new files.
        if self._finished.pop(name, None) is not None:
            self._keep()
        result = work()
        self._finished[name] = {"key": key, "outputs": dict(outputs()), "result": result}
        self._keep()
        self.done.append(name)
        return json.loads(json.dumps(result))

    def _keep(self) -> None:
        with atomic_file(self._directory / FILE) as temporary:
            temporary.write_text(json.dumps(self._finished, indent=2) + "\n", encoding="utf-8")


def fingerprint_of(inputs: Mapping[str, Any]) -> str:
    """SHA-256 of plain values."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def contents_of(*paths: Path) -> dict[str, str]:
    """SHA-256 of files by name, those of weights by their size and time; absent ones are left out.

    Weights may be many gigabytes, and nothing but a restoration writes them.
    """
    contents = {}
    for path in paths:
        if not path.is_file():
            continue
        if path.suffix == ".safetensors":
            status = path.stat()
            contents[path.name] = f"{status.st_size} bytes, {status.st_mtime_ns}"
        else:
            contents[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return contents
