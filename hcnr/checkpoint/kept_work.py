"""Finished passes of a run that was interrupted, kept beside its output for the next one."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

from hcnr.cache import fsync_tree
from hcnr.checkpoint.fingerprints import file_digest
from hcnr.checkpoint.output import atomic_file, existing, parents_made
from hcnr.checkpoint.staging import Staging
from hcnr.errors import HcnrError, OutputError

T = TypeVar("T")
SUFFIX = ".unfinished"
KEY = "hcnr-kept-work"
"""The file by which such a directory is known: it holds the digest of the run's key."""
HASH = ".sha256"
_CHOICE = "choice-of-"
_LONGEST = 255
_DIGEST = re.compile("[0-9a-f]{64}")
_RATE = 0.5e9
"""Bytes that are written, hashed and synchronised in a second: assumed, not measured."""
_SHARE = 0.1
"""Most of the time that a result took which keeping it may take."""


class KeptWork:
    """Results of finished passes in a directory, by name; each is verified before it is used.

    A context: at a clean exit the directory goes, and after an error that another input would mend.
    Otherwise (Ctrl-C, a full disk, a fault of the machine) it stays, and the exception gets its
    place as `kept_work`.

    What takes longer to write than a tenth of the time it took to compute, or more than half of the
    disk that is free, is not kept.

    Attributes:
        directory: the directory; None keeps nothing.
        taken_over: names of the results that an earlier run had kept.
        kept: names of those that are there now.
        stays: whether it stays at a clean exit too, until it is released.
    """

    def __init__(self, directory: Path | None, *, fresh: bool = False) -> None:
        """Touch nothing yet.

        Args:
            directory: where it is kept; it need not be there.
            fresh: throw away what is there.
        """
        self.directory, self._fresh = directory, fresh
        self.taken_over: list[str] = []
        self.kept: list[str] = []
        self.stays = False
        self._opened, self._digest = False, ""
        self._stack = contextlib.ExitStack()

    @classmethod
    def beside(cls, out: str | Path | None, *, fresh: bool = False) -> "KeptWork":
        """That of a run with the output `out`; it keeps nothing where that is None."""
        if out is None:
            return cls(None)
        try:
            target = Path(out).expanduser().resolve()
        except (OSError, RuntimeError):
            # Whoever writes `out` says what is wrong with it.
            return cls(None)
        name = target.name + SUFFIX
        if not target.name or len(os.fsencode(name)) > _LONGEST:
            return cls(None)
        return cls(target.with_name(name), fresh=fresh)

    @classmethod
    def release(cls, out: str | Path) -> None:
        """Remove what was kept for an output that is written now."""
        cls.beside(out)._clear()

    def open(self, key: dict[str, Any]) -> list[str]:
        """Look at what is there and use what has the same key, until the context ends.

        Args:
            key: all that decides the results: plain values for JSON.

        Returns:
            Sentences about what is not used, or why nothing is kept.

        Raises:
            OutputError: another run is using it.
        """
        directory = self.directory
        if directory is None:
            return []
        try:
            self._stack.enter_context(parents_made(directory))
            self._stack.enter_context(Staging(directory).locked())
        except OutputError:
            raise
        except OSError as error:
            self.directory = None
            return [f"no finished pass is kept in {directory.name}: {error.strerror or error}"]
        notes = self._prepare(json.dumps(key, sort_keys=True))
        self._opened = self.directory is not None
        return notes

    @property
    def note(self) -> str | None:
        """A sentence about what was taken over; None where nothing was."""
        if self.directory is None or not self.taken_over:
            return None
        return (
            f"{_counted(self.taken_over)} taken over from {self.directory.name}, which an "
            "interrupted run left: the seconds are without them; --fresh begins anew"
        )

    def __enter__(self) -> "KeptWork":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if not self._opened and error is None:
                self._clear()
            elif self._opened:
                # An error of ours wants another input, so another run: it has no use for this.
                again = not isinstance(error, HcnrError) or isinstance(error, OutputError)
                self._opened = False
                if not self.kept or not again or (error is None and not self.stays):
                    self.discard()
                elif error is not None:
                    error.__dict__["kept_work"] = self.directory
        finally:
            self._stack.__exit__(kind, error, trace)

    def of(
        self, name: str, make: Callable[[], T], classes: Sequence[type] = (), device: Any = "cpu"
    ) -> T:
        """The result of that name: the one that was kept, or that of `make`, which is kept.

        Args:
            name: unique in the run.
            make: computes it. Its result holds tensors and plain values, and instances of:
            classes: what may be in it beside them.
            device: where its tensors shall be.
        """
        if not self._opened:
            return make()
        kept = self._read(self._file(name), classes, device)
        if kept is not None:
            self.taken_over.append(name)
            return kept[0]
        start = time.perf_counter()
        result = make()
        if self._keep(name, result, time.perf_counter() - start):
            self.kept.append(name)
        return result

    def choice(self, name: str, make: Callable[[], T | None]) -> T | None:
        """What the first part of a run chose, or `make` chooses now: plain values.

        It does not count among the finished passes, and None is not kept.
        """
        if not self._opened:
            return make()
        name = f"{_CHOICE}{name}"
        kept = self._read(self._file(name), (), "cpu")
        if kept is not None:
            return kept[0]
        result = make()
        if result is not None:
            self._keep(name, result, 0.0)
        return result

    def discard(self) -> None:
        """Remove all of it; what cannot be removed stays, as nothing depends on it."""
        if self.directory is not None and self.directory.is_dir():
            with contextlib.suppress(OSError):
                Staging(self.directory).discard(self.directory)

    def _clear(self) -> None:
        """Remove what an interrupted run left, at the end of one that had no use for it."""
        if self.directory is not None and self._known() is not None:
            with contextlib.suppress(OSError, OutputError), Staging(self.directory).locked():
                self.discard()

    def _known(self) -> str | None:
        """The digest of the directory's key; None where there is none of ours."""
        assert self.directory is not None
        try:
            digest = (self.directory / KEY).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None
        return digest if _DIGEST.fullmatch(digest) else None

    def _prepare(self, key: str) -> list[str]:
        directory, self._digest = self.directory, hashlib.sha256(key.encode()).hexdigest()
        assert directory is not None
        if not directory.exists():
            return []
        if (known := self._known()) is None:
            self.directory = None
            return [
                f"{directory.name} is there already and not of hcnr, so no finished pass is kept"
            ]
        # The hash is written last: a file without one counts for nothing.
        stems = sorted(path.stem for path in directory.glob(f"*{HASH}"))
        names = [stem for stem in stems if not stem.startswith(_CHOICE)]
        if not self._fresh and known == self._digest:
            self.kept = names
            return []
        self.discard()
        why = "--fresh was given" if self._fresh else "models, data, settings or versions differ"
        return [f"{_counted(names)} in {directory.name} not used: {why}"] if names else []

    def _file(self, name: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{name.replace(' ', '-').replace('/', '-')}.pt"

    def _read(self, file: Path, classes: Sequence[type], device: Any) -> tuple[Any] | None:
        """What a file holds, in a tuple; None where it is not what was written."""
        import torch

        stated = file.with_suffix(HASH)
        try:
            if stated.read_text(encoding="utf-8") != file_digest(file).hex():
                return None
            with torch.serialization.safe_globals(list(classes)):
                return (torch.load(file, map_location=device, weights_only=True),)
        except (OSError, RuntimeError, ValueError, UnpicklingError):
            return None

    def _keep(self, name: str, result: Any, seconds: float) -> bool:
        """Whether a result is kept now."""
        import torch

        assert self.directory is not None
        nbytes = bytes_of(result)
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(existing(self.directory)).free
            if nbytes > _SHARE * seconds * _RATE or nbytes > free / 2:
                return False
        file = self._file(name)
        try:
            if not self.directory.exists():
                # With its key from the start: a folder without one is taken for the user's.
                work = Staging(self.directory).make()
                (work / KEY).write_text(self._digest, encoding="utf-8")
                fsync_tree(work)
                work.rename(self.directory)
            with atomic_file(file) as temporary:
                torch.save(result, temporary)
                digest = file_digest(temporary).hex()
            with atomic_file(file.with_suffix(HASH)) as temporary:
                temporary.write_text(digest, encoding="utf-8")
        except (OSError, RuntimeError, OutputError):
            # A full disk costs the next run its head start, and this one nothing.
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
            return False
        return True


def _counted(names: Sequence[str]) -> str:
    return "1 finished pass is" if len(names) == 1 else f"{len(names)} finished passes are"


def bytes_of(result: Any) -> int:
    """Bytes that `torch.save` writes of nested tuples, dictionaries, lists and dataclasses.

    Of a view that is all it is a view of, once for all views of the same.
    """
    from torch import Tensor

    storages: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            visit(list(value.values()))
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)
        elif is_dataclass(value):
            visit(vars(value))

    visit(result)
    return sum(storages.values())
