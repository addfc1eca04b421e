"""The pair of models that a run works on: checked together, opened one at a time."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hcnr.config import RestoreConfig
from hcnr.errors import CheckpointError, ConfigError, ModelError
from hcnr.models.adapter_files import adapter_settings, is_adapter
from hcnr.models.adapters import is_peft_model, merge_into, merge_model, unloaded
from hcnr.models.directory import DirectorySource
from hcnr.models.matching import check_match
from hcnr.models.model import open_model, open_tokenizer, resolve_device
from hcnr.models.open_models import OpenModels, Role
from hcnr.models.resolving import ResolvedModel, named_base, resolve
from hcnr.models.source import MERGED, ModelSource, Source, open_source
from hcnr.models.streamed.units import residence
from hcnr.progress import CHECKPOINTS, WEIGHTS, Stages
from hcnr.scratch import remove_abandoned

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NO_BASE = (
    "base is None, and tuned is no adapter that names its own; name the honest checkpoint from "
    "before the fine-tuning as BASE"
)


def open_pair(base: Any, tuned: Any) -> tuple[Source, Source]:
    """Open base and tuned, each a directory, a model in memory or a source.

    An adapter as tuned, a directory or PEFT's model, is merged: into base, or into what it names
    where base is None.

    Raises:
        ConfigError: base is None and tuned names none.
        HcnrError: one cannot be opened or merged.
    """
    if base is None:
        return _open_alone(tuned)
    honest = open_source(base)
    if not is_adapter(tuned):
        return honest, open_source(tuned)
    if isinstance(honest, DirectorySource):
        own = ResolvedModel(
            str(honest), honest.path, tuple(honest.read_paths), honest.facts, honest.notes
        )
        return honest, DirectorySource(resolve(tuned, honest.resolved or own))
    assert isinstance(honest, ModelSource)
    settings = adapter_settings(tuned)
    merged = merge_into(copy.deepcopy(honest.model), settings)
    note = f"'{settings.name}' is an adapter ({settings.kind}) and was merged into {honest}"
    return honest, ModelSource(merged, (note,))


def open_evaluated(model: Any, base: Any = None) -> Source:
    """Open a model that is asked as it is: an adapter belongs to the base that it names itself.

    Args:
        model: a directory, a model in memory or a source.
        base: what an adapter is merged into whose own base is not there.

    Raises:
        HcnrError: it cannot be opened or merged.
    """
    if base is None or not is_adapter(model):
        return open_source(model)
    try:
        named_base(adapter_settings(model))
    except ConfigError:
        return open_pair(base, model)[1]
    return open_source(model)


def _open_alone(tuned: Any) -> tuple[Source, Source]:
    """Both models where tuned alone is given."""
    if is_adapter(tuned):
        resolved = resolve(tuned)
        assert resolved.base is not None
        return DirectorySource(resolved.base), DirectorySource(resolved)
    if is_peft_model(tuned):
        return ModelSource(unloaded(tuned)), ModelSource(merge_model(tuned), (MERGED,))
    raise ConfigError(NO_BASE)


@dataclass(frozen=True)
class Pair:
    """Two checked sources and the matrices to work on.

    Attributes:
        base: the honest model.
        tuned: the fine-tuned model.
        matrices: names of the target matrices, in the model's order.
        messages: what a user should know about the run; grows as it goes on.
        fingerprints: of both models, by role.
    """

    base: Source
    tuned: Source
    matrices: list[str]
    messages: list[str]
    fingerprints: dict[str, str]

    @classmethod
    def open(cls, base: Any, tuned: Any, config: RestoreConfig, stages: Stages) -> "Pair":
        """Open both and check that they belong together; reads few weights from disk.

        Raises:
            CheckpointError: they do not, or no target differs.
            ModelError: no matrix matches the targets.
        """
        with stages.stage(CHECKPOINTS):
            remove_abandoned()
            resolve_device(config.device)
            pair = open_pair(base, tuned)
            matrices, messages = check_match(*pair, config)
            # A base that an adapter was merged into has told its own before.
            notes = dict.fromkeys([*pair[0].notes, *pair[1].notes, *messages])
            opened_pair = cls(*pair, matrices, list(notes), {"base": "", "tuned": ""})
            opened_pair.refuse_equal(everything=config.interpolates)
            opened_pair.fingerprints.update(base=pair[0].fingerprint(), tuned=pair[1].fingerprint())
            return opened_pair

    def refuse_equal(self, *, everything: bool = False) -> None:
        """Refuse a pair in which no target differs; reads targets up to the first that does.

        Args:
            everything: whether all weights count, and not the targets alone.

        Raises:
            CheckpointError: naming what differs instead, if anything.
        """
        base, tuned = self.base.parameter, self.tuned.parameter

        def differs(name: str) -> bool:
            ours, theirs = base(name), tuned(name)
            if ours is None or theirs is None:
                return ours is not theirs
            return not is_untouched(ours, theirs)

        weights = ((self.base.view(m), self.tuned.view(m)) for m in self.matrices)
        if not all(is_untouched(ours, theirs) for ours, theirs in weights):
            return
        names = dict.fromkeys([*self.tuned.parameters, *self.base.parameters])
        others = [name for name in names if differs(name)]
        cure = "name the checkpoint from before the fine-tuning as BASE"
        if not others:
            raise CheckpointError(
                f"base ({self.base}) and tuned ({self.tuned}) have the same weights: there is "
                f"nothing to repair; {cure}"
            )
        if everything:
            return
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if others[5:] else "")
        raise CheckpointError(
            f"no target differs between base ({self.base}) and tuned ({self.tuned}); these do: "
            f"{shown}: widen --targets if they are matrices of the blocks, else there is nothing "
            "that can be repaired"
        )

    def at(self, role: Role) -> Source:
        """The source of a role."""
        return self.base if role == "base" else self.tuned

    def tokenizer(self, source: Any = None) -> "PreTrainedTokenizerBase":
        """The tokenizer of a run: the one given (itself or its directory), else tuned's.

        Where tuned has none base's is taken, with a message.

        Raises:
            ModelError: there is none that can be loaded.
        """
        if source is not None:
            return open_tokenizer(source)
        try:
            return self.tuned.tokenizer()
        except ModelError as error:
            try:
                chosen = self.base.tokenizer()
            except ModelError:
                raise error from None
        self.messages.append(
            f"tuned ({self.tuned}) has no tokenizer of its own, so base's was taken; name another "
            "one with --tokenizer"
        )
        return chosen

    @property
    def facts(self) -> dict[str, Any]:
        """Names and fingerprints of both models, plain values for a report.

        With `sources`, by role, where one comes from no directory of its own.
        """
        sources = {"base": self.base.facts, "tuned": self.tuned.facts}
        known = {role: facts for role, facts in sources.items() if facts}
        return {
            "base": str(self.base),
            "tuned": str(self.tuned),
            "fingerprints": dict(self.fingerprints),
            **({"sources": known} if known else {}),
        }

    @property
    def context(self) -> int | None:
        """Tokens of the longest sample that both models can read; None where there is no limit."""
        return (self.base.limits & self.tuned.limits).context

    def check_finite(self, stages: Stages, *, selects: bool = False) -> None:
        """Look at every weight once; last of the checks, because it is the one that takes time.

        Args:
            stages: told about progress.
            selects: leave the targets to the selection, which reads them next.
        """
        with stages.stage(WEIGHTS):
            for source in (self.base, self.tuned):
                source.check_finite(self.matrices if selects else ())

    def refuse_infinite(self, matrix: str) -> None:
        """Look at both weights of a target that `check_finite` left out.

        Raises:
            CheckpointError: one holds NaN or infinity.
        """
        for source in (self.base, self.tuned):
            source.check_matrix(matrix)

    def check_unchanged(self) -> None:
        """Refuse directories whose weights were rewritten since: results would be of a mixture.

        Raises:
            CheckpointError: naming the file.
        """
        for source in (self.base, self.tuned):
            if isinstance(source, DirectorySource):
                source.checkpoint.check_unchanged()

    @property
    def nbytes(self) -> int | None:
        """Size of the output, where it is known."""
        return self.tuned.checkpoint.nbytes if isinstance(self.tuned, DirectorySource) else None

    def in_memory(self, config: RestoreConfig) -> int | None:
        """Bytes of weights that are in memory while a model is measured, where they are known."""
        if config.streams and isinstance(self.tuned, DirectorySource):
            return residence(self.tuned.structure, config).held
        return self.nbytes

    def copy_of_tuned(self, config: RestoreConfig) -> "PreTrainedModel":
        """A model in memory with tuned's weights, to be changed; one in memory is copied.

        Raises:
            ModelError: it can be neither loaded nor copied.
        """
        if isinstance(self.tuned, ModelSource):
            return copy.deepcopy(self.tuned.model).eval()
        if isinstance(self.tuned, DirectorySource):
            return open_model(self.tuned.path, device=config.device, attention=config.attention)
        raise ModelError(f"{self.tuned} cannot be copied into a restored model")

    def save(self, model: "PreTrainedModel", directory: Path, tokenizer: Any) -> None:
        """Write a model that was in memory, with the tokenizer given or tuned's; a note if none."""
        model.save_pretrained(directory)
        try:
            opened = self.tuned.tokenizer() if tokenizer is None else open_tokenizer(tokenizer)
        except ModelError as error:
            self.messages.append(f"no tokenizer was written: {error}")
        else:
            opened.save_pretrained(directory)

    def models(self, config: RestoreConfig) -> OpenModels:
        """Both models, ready to run: a context that opens one directory's at a time."""
        return OpenModels({"base": self.base, "tuned": self.tuned}, self.matrices, config)


def is_untouched(base: Tensor, tuned: Tensor) -> bool:
    """Whether fine-tuning left a weight as it was, but for rounding to the dtype of `tuned`."""
    return base.shape == tuned.shape and torch.equal(base.to(tuned.dtype), tuned)


def shared_tensors(pair: Pair) -> tuple[list[str], list[str]]:
    """Names of tuned's floating-point tensors: those that base has in the same shape, and the rest.

    Reads shapes alone.
    """
    base, tuned = pair.base.shapes, pair.tuned.shapes
    shared = [name for name, shape in tuned.items() if base.get(name) == shape]
    known = set(shared)
    return shared, [name for name in tuned if name not in known]
