"""The pair of models that a run works on: checked together, opened one at a time."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from hcnr.config import RestoreConfig
from hcnr.errors import CheckpointError, ModelError
from hcnr.model import open_model, open_tokenizer, resolve_device
from hcnr.selection import is_untouched
from hcnr.source import DirectorySource, ModelSource, Source, check_match, open_source
from hcnr.stages import Stages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Role = Literal["base", "tuned"]


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
        with stages.stage("check the checkpoints"):
            resolve_device(config.device)
            pair = open_source(base), open_source(tuned)
            checked = check_match(*pair, config)
            found = cls(*pair, *checked, {"base": "", "tuned": ""})
            found.refuse_equal(everything=config.interpolates)
            found.fingerprints.update(base=pair[0].fingerprint(), tuned=pair[1].fingerprint())
            return found

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

        if any(differs(f"{matrix}.weight") for matrix in self.matrices):
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

    def tokenizer(self, given: Any = None) -> "PreTrainedTokenizerBase":
        """The tokenizer of a run: the one given (itself or its directory), else tuned's.

        Where tuned has none base's is taken, with a message.

        Raises:
            ModelError: there is none that can be loaded.
        """
        if given is not None:
            return open_tokenizer(given)
        try:
            return self.tuned.tokenizer()
        except ModelError as error:
            try:
                found = self.base.tokenizer()
            except ModelError:
                raise error from None
        self.messages.append(
            f"tuned ({self.tuned}) has no tokenizer of its own, so base's was taken; name another "
            "one with --tokenizer"
        )
        return found

    @property
    def context(self) -> int | None:
        """Tokens of the longest sample that both models can read; None where there is no limit."""
        return (self.base.limits & self.tuned.limits).context

    def check_finite(self, stages: Stages) -> None:
        """Read every weight once; last of the checks, because it is the one that takes time."""
        with stages.stage("check the weights"):
            self.base.check_finite()
            self.tuned.check_finite()

    @property
    def nbytes(self) -> int | None:
        """Size of the output, where it is known."""
        return self.tuned.checkpoint.nbytes if isinstance(self.tuned, DirectorySource) else None

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

    @contextlib.contextmanager
    def models(
        self, config: RestoreConfig
    ) -> Iterator[Callable[..., tuple["PreTrainedModel", dict[str, nn.Linear]]]]:
        """Yield a function role -> (model, its target layers); one directory's model at a time.

        Callers bind neither, so that the model of one role is freed before the other's is loaded.
        """
        with contextlib.ExitStack() as stack:
            held: dict[Role, Any] = {}

            def model_at(role: Role, matrices: list[str] | None = None) -> Any:
                if role not in held:
                    held.clear()
                    stack.close()
                    held[role] = stack.enter_context(self.at(role).opened(config, computing=True))
                chosen = self.matrices if matrices is None else matrices
                return held[role], {name: held[role].get_submodule(name) for name in chosen}

            yield model_at
            held.clear()
