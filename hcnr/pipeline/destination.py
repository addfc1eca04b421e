"""Where a restored model goes: into a directory, or back to the caller."""

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnr import ranks
from hcnr.checkpoint import output_directory, shares_of
from hcnr.config import RestoreConfig
from hcnr.errors import HcnrError
from hcnr.models.directory import DirectorySource
from hcnr.models.model import computable
from hcnr.models.pair import Pair
from hcnr.pipeline.stages import Output
from hcnr.record.files.restoration import AdapterRecord, PatchRecord
from hcnr.record.front_matter import Origin
from hcnr.record.writing import write_companions
from hcnr.repair.adapter_output import AdapterOutput
from hcnr.repair.interpolation import Interpolation
from hcnr.repair.output_form import OutputForm
from hcnr.repair.patch_output import PatchOutput
from hcnr.repair.repairs import Repairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hcnr.repair.verdict import Verdict

_TOKEN = "hcnr-token"
Job = Repairs | Interpolation
"""What makes the weights."""


class InMemory:
    """A model for the caller, with its report as `hcnr_report`."""

    output: Output = "memory"
    copies = False

    def __init__(self, pair: Pair) -> None:
        """Make nothing yet."""
        self._pair = pair
        self._model: PreTrainedModel | None = None

    def writes(self, matrix: str) -> bool:
        """Whether this process makes the final weight of a matrix."""
        return ranks.leads()

    def write(self, job: Job) -> None:
        """Make the model."""
        with ranks.alone():
            self._model = job.model()
        self._pair.check_unchanged()

    @contextlib.contextmanager
    def opened(self, config: RestoreConfig) -> "Iterator[PreTrainedModel]":
        """What was made, to take its losses."""
        assert self._model is not None
        # Both ends of a directory's pair were taken in this dtype too.
        own = isinstance(self._pair.tuned, DirectorySource) and config.dtype == "auto"
        yield computable(self._model) if own else self._model

    def finish(self, job: Job, verdict: "Verdict | None", config: RestoreConfig) -> Any:
        """The model with its report."""
        # Plain data, no part of the module tree.
        self._model.__dict__["hcnr_report"] = job.report(verdict)
        return self._model


class OutputDirectory:
    """A directory that appears when it is complete, with report, settings and card."""

    def __init__(
        self,
        pair: Pair,
        out: str | Path,
        directory: Path,
        origin: Origin,
        tokenizer: Any,
        form: OutputForm | None,
        files: frozenset[str] | None,
    ) -> None:
        """Write nothing yet.

        Args:
            pair: base and tuned.
            out: the place that the caller named.
            directory: what is renamed to it in the end.
            origin: where both models come from, for the card.
            tokenizer: where tuned does not come with one.
            form: how an adapter or a patch is written; None for a whole checkpoint.
            files: weight files that this process writes, others the rest; None for all.
        """
        self._files = files
        self._pair, self._out, self._directory = pair, out, directory
        self._origin, self._tokenizer, self._form = origin, tokenizer, form
        self._facts: AdapterRecord | PatchRecord | None = None

    @property
    def output(self) -> Output:
        """What is made."""
        if isinstance(self._form, AdapterOutput):
            return "adapter"
        return "directory" if isinstance(self._pair.tuned, DirectorySource) else "saved"

    @property
    def copies(self) -> bool:
        """Whether this process copies all of tuned's files, each matrix made once."""
        return self._form is None and self._files is None and self.output == "directory"

    def writes(self, matrix: str) -> bool:
        """Whether this process makes the final weight of a matrix."""
        return self._files is None or _is_in(matrix, self._pair, self._files)

    def write(self, job: Job) -> None:
        """Write the weights and all that `from_pretrained` needs."""
        if self._files is not None:
            _write_share(job, self._pair, self._directory, self._files)
            return
        with ranks.alone():
            self._facts = job.write(self._directory, self._tokenizer, self._form)
        self._pair.check_unchanged()

    @contextlib.contextmanager
    def opened(self, config: RestoreConfig) -> "Iterator[PreTrainedModel]":
        """What was written, so that the verdict is about that."""
        form = self._form
        if isinstance(form, PatchOutput):
            with form.opened(self._directory, config) as model:
                yield model
            return
        written = form.on if form else DirectorySource(self._directory)
        with written.opened(config, computing=True) as model:
            yield form.merged(self._directory, model) if form else model

    def finish(self, job: Job, verdict: "Verdict | None", config: RestoreConfig) -> Path:
        """Write what lies beside the weights; the path of the finished directory."""
        report = job.report(verdict, self._facts)
        write_companions(self._directory, report, config, self._origin)
        return Path(self._out).expanduser()


class OtherProcess:
    """The directory of another process, which puts it in its place and judges what was written."""

    output: Output = "directory"
    copies = False

    def __init__(
        self, pair: Pair, out: str | Path, directory: Path | None, files: frozenset[str]
    ) -> None:
        """Write nothing yet.

        Args:
            pair: base and tuned.
            out: the place that the other one writes to.
            directory: what it renames to that; None where it writes everything itself.
            files: weight files that this process writes there.
        """
        self._pair, self._out, self._directory, self._files = pair, out, directory, files

    def writes(self, matrix: str) -> bool:
        """Whether this process makes the final weight of a matrix."""
        return self._directory is not None and _is_in(matrix, self._pair, self._files)

    def write(self, job: Job) -> None:
        """Write a share of the weights, or leave them to the other."""
        if self._directory is not None:
            _write_share(job, self._pair, self._directory, self._files)

    @contextlib.contextmanager
    def opened(self, config: RestoreConfig) -> "Iterator[PreTrainedModel]":
        """Nothing was written here, so nothing is judged here."""
        raise AssertionError("only the process that writes judges")
        yield

    def finish(self, job: Job, verdict: "Verdict | None", config: RestoreConfig) -> Path:
        """The path that the other process writes to, which may not be there yet."""
        return Path(self._out).expanduser()


Destination = InMemory | OutputDirectory | OtherProcess


@contextlib.contextmanager
def destination(
    pair: Pair,
    out: str | Path | None,
    *,
    origin: Origin,
    tokenizer: Any,
    form: OutputForm | None,
    files: Sequence[Path],
    overwrite: bool,
) -> Iterator[Destination]:
    """The place for the result; a directory that cannot be written is refused now.

    Args:
        pair: base and tuned.
        out: a directory; None for a model in memory.
        origin: where both models come from.
        tokenizer: where tuned does not come with one.
        form: how an adapter or a patch is written; None for a whole checkpoint.
        files: of the data and the tokenizer, which no output may replace.
        overwrite: replace an existing `out`.

    Raises:
        OutputError: `out` cannot be written, or holds an input.
        ModelError: the model in memory cannot be saved.
    """
    if out is None:
        yield InMemory(pair)
        return
    rank, tuned = ranks.rank(), pair.tuned
    shares = None
    if form is None and isinstance(tuned, DirectorySource) and len(tuned.checkpoint.shards) > 1:
        shares = shares_of(tuned.checkpoint, ranks.size())
    with contextlib.ExitStack() as stack:
        directory, refused = None, None
        if ranks.leads():
            try:
                if form is None:
                    tuned.check_savable()
                directory = stack.enter_context(
                    output_directory(
                        out,
                        inputs=[*pair.base.read_paths, *tuned.read_paths, *files],
                        overwrite=overwrite,
                        nbytes=pair.nbytes if form is None else None,
                    )
                )
            except HcnrError as error:
                refused = error
        ranks.agreed(refused)
        shared_directory = directory
        if shares is not None and ranks.size() > 1:
            shared_directory = _seen_by_all(directory)
            if shared_directory is None:
                shares = None
                pair.messages.append(
                    "not every process sees the directory that the output is made in, as on "
                    "machines that share no disk, so process 0 wrote all of it"
                )
        if directory is None:
            yield OtherProcess(pair, out, shared_directory, shares[rank] if shares else frozenset())
        else:
            own = shares[0] if shares is not None and ranks.size() > 1 else None
            yield OutputDirectory(pair, out, directory, origin, tokenizer, form, own)


def _seen_by_all(directory: Path | None) -> Path | None:
    """The `directory` of the process that leads, None in others, where all can write into it."""
    announced = None
    if directory is not None:
        token = secrets.token_hex(16)
        (directory / _TOKEN).write_text(token, encoding="utf-8")
        announced = str(directory), token
    path, token = ranks.decided("where the output is made", announced or ("", ""))
    seen = all(ranks.gathered("whether it is seen", _sees(Path(path), token)))
    if directory is not None:
        (directory / _TOKEN).unlink()
    return Path(path) if seen else None


def _sees(directory: Path, token: str) -> bool:
    """Whether this process can write where another one has left a token."""
    try:
        content = (directory / _TOKEN).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return content == token and os.access(directory, os.W_OK | os.X_OK)


def _is_in(matrix: str, pair: Pair, files: frozenset[str]) -> bool:
    assert isinstance(pair.tuned, DirectorySource)
    return not files.isdisjoint(pair.tuned.files_of(matrix))


def _write_share(job: Job, pair: Pair, directory: Path, files: frozenset[str]) -> None:
    """Write some of the weight files, as every process does others; all wait for all.

    Raises:
        HcnrError: in every process what one of them could not do.
        RankError: one has ended.
    """
    failed = None
    try:
        with ranks.alone():
            job.write(directory, None, files=files)
        pair.check_unchanged()
    except HcnrError as error:
        failed = error
    ranks.agreed(failed)
    job.gather()
