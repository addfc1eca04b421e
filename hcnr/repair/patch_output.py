"""A repair as a patch: what it changed of tuned's files, and the way back to a whole checkpoint."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hcnr.checkpoint import Patch, PatchedCheckpoint, write_patch
from hcnr.config import RestoreConfig
from hcnr.errors import ConfigError
from hcnr.models.device_memory import STREAMED
from hcnr.models.directory import DirectorySource
from hcnr.models.overlay import Overlay
from hcnr.models.pair import Pair
from hcnr.models.placed import PlacedCheckpoint
from hcnr.record.files.restoration import PatchRecord, PatchTensor
from hcnr.record.names import stem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["PatchOutput"]


@dataclass(frozen=True)
class PatchOutput:
    """How a run's result is written as a patch.

    Attributes:
        tuned: what it is put on.
    """

    tuned: DirectorySource

    @classmethod
    def of(cls, pair: Pair, out: Any) -> "PatchOutput":
        """Refuse what cannot be written so.

        Raises:
            ConfigError: there is no output directory, or tuned is a model in memory.
        """
        if out is None:
            raise ConfigError(
                "out_format is 'patch', and out is None; name a directory for the patch"
            )
        if not isinstance(pair.tuned, DirectorySource):
            raise ConfigError(
                f"out_format is 'patch', and tuned ({pair.tuned}) is a model in memory, so there "
                "are no files that the patch could be put on; name tuned's directory"
            )
        return cls(pair.tuned)

    def write(
        self,
        directory: Path,
        replacement: Callable[[str], Tensor | None],
        progress: Callable[[int], None] | None = None,
    ) -> PatchRecord:
        """Write the patch alone.

        Args:
            directory: an existing directory.
            replacement: stored name -> new tensor, None for what stays, see `write_weights`.
            progress: called with the bytes of tuned that were just gone through.

        Returns:
            What the report says of it.
        """
        checkpoint = self.tuned.checkpoint
        name = stem(str(self.tuned))
        patch = write_patch(checkpoint, directory, replacement, name=name, progress=progress)
        return PatchRecord(
            tuned=str(self.tuned),
            fingerprint=patch.facts["tuned_fingerprint"],
            sha256=patch.facts["tuned_sha256"],
            nbytes=patch.nbytes,
            checkpoint_nbytes=checkpoint.nbytes,
            stored=len(checkpoint.tensors),
            tensors={
                name: PatchTensor(form=one.form, count=(*one.values.shape, 1)[0], nbytes=one.nbytes)
                for name, one in patch.tensors.items()
            },
        )

    @contextlib.contextmanager
    def opened(self, directory: Path, config: RestoreConfig) -> "Iterator[PreTrainedModel]":
        """Open tuned with the patch that was written on it, to take its losses."""
        patch, tuned = Patch.open(directory), self.tuned
        placed = PlacedCheckpoint(PatchedCheckpoint.of(tuned.checkpoint, patch), tuned.structure)
        places = placed.placement
        changed: dict[str, None] = {}
        for key in patch.tensors:
            conversion = places.converted.get(key)
            own = [places.names.get(key, key)] if conversion is None else conversion.infos
            changed.update(dict.fromkeys(own))
        with (
            tuned.opened(config, computing=True) as model,
            Overlay(model) as overlay,
            torch.no_grad(),
        ):
            # What is in memory for this alone needs no original to put back.
            streamed = vars(model).get(STREAMED) is not None
            parameters = dict(model.named_parameters(remove_duplicate=False))
            tensors = parameters | dict(model.named_buffers(remove_duplicate=False))
            for name in changed:
                if name not in tensors:
                    continue
                value = placed.parameter(name)
                assert value is not None
                if streamed and name in parameters:
                    overlay.put(name, value)
                else:
                    tensors[name].copy_(value)
            yield model
