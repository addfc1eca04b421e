"""Where a restored model goes: into a directory, or back to the caller."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnr import ranks
from hcnr.checkpoint import output_directory
from hcnr.config import RestoreConfig
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

Job = Repairs | Interpolation
"""What makes the weights."""


class InMemory:
    """A model for the caller, with its report as `hcnr_report`."""

    output: Output = "memory"

    def __init__(self, pair: Pair) -> None:
        """Make nothing yet."""
        self._pair = pair
        self._model: PreTrainedModel | None = None

    def write(self, job: Job) -> None:
        """Make the model."""
        self._model = job.model()

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
    ) -> None:
        """Write nothing yet.

        Args:
            pair: base and tuned.
            out: the place that the caller named.
            directory: what is renamed to it in the end.
            origin: where both models come from, for the card.
            tokenizer: where tuned does not come with one.
            form: how an adapter or a patch is written; None for a whole checkpoint.
        """
        self._pair, self._out, self._directory = pair, out, directory
        self._origin, self._tokenizer, self._form = origin, tokenizer, form
        self._facts: AdapterRecord | PatchRecord | None = None

    @property
    def output(self) -> Output:
        """What is made."""
        if isinstance(self._form, AdapterOutput):
            return "adapter"
        return "directory" if isinstance(self._pair.tuned, DirectorySource) else "saved"

    def write(self, job: Job) -> None:
        """Write the weights and all that `from_pretrained` needs."""
        self._facts = job.write(self._directory, self._tokenizer, self._form)

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
    """Nowhere: another process of the run writes, and judges what it has written."""

    output: Output = "directory"

    def __init__(self, out: str | Path) -> None:
        """`out` is the place that the other one writes to."""
        self._out = out

    def write(self, job: Job) -> None:
        """Leave it to the other."""

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
        files: of the data, which no output may replace.
        overwrite: replace an existing `out`.

    Raises:
        OutputError: `out` cannot be written, or holds an input.
        ModelError: the model in memory cannot be saved.
    """
    if out is None:
        yield InMemory(pair)
        return
    if not ranks.leads():
        yield OtherProcess(out)
        return
    if form is None:
        pair.tuned.check_savable()
    with output_directory(
        out,
        inputs=[*pair.base.places, *pair.tuned.places, *files],
        overwrite=overwrite,
        nbytes=pair.nbytes if form is None else None,
    ) as directory:
        yield OutputDirectory(pair, out, directory, origin, tokenizer, form)
