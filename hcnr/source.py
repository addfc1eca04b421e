"""Where weights come from: a checkpoint directory or a model in memory, behind one face."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from hcnr.checkpoint import Checkpoint, check_finite, check_pair, fingerprint_tensors
from hcnr.config import RestoreConfig
from hcnr.errors import CheckpointError, ModelError
from hcnr.model import open_model, open_skeleton, open_tokenizer, target_matrices

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Source(Protocol):
    """One model of the pair."""

    def matrices(self, targets: Sequence[str], ignore: Sequence[str]) -> dict[str, nn.Linear]:
        """Target layers by name; their weights may be on the meta device."""
        ...

    def weight(self, matrix: str) -> Tensor:
        """Weight `[out, in]` of a matrix in its stored dtype."""
        ...

    def fingerprint(self, matrices: Sequence[str]) -> str:
        """Fingerprint of the weights of some matrices."""
        ...

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer that belongs to the model."""
        ...

    def opened(self, config: RestoreConfig) -> "contextlib.AbstractContextManager[PreTrainedModel]":
        """The model ready to run; a directory's is dropped when the context ends."""
        ...


class DirectorySource:
    """A checkpoint directory; weights are read when asked for."""

    def __init__(self, path: str | Path) -> None:
        """Open and check the directory; reads headers only."""
        self.checkpoint = Checkpoint.open(path)
        self.path = self.checkpoint.path

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def _skeleton(self) -> "PreTrainedModel":
        return open_skeleton(self.path)

    def matrices(self, targets: Sequence[str], ignore: Sequence[str]) -> dict[str, nn.Linear]:
        """Target layers of the model's structure, on the meta device."""
        return target_matrices(self._skeleton, targets, ignore)

    def weight(self, matrix: str) -> Tensor:
        """Read one weight from disk, `[out, in]`, on the CPU."""
        return self.checkpoint.load(f"{matrix}.weight")

    def fingerprint(self, matrices: Sequence[str]) -> str:
        """Fingerprint of some weights; see `hcnr.checkpoint.fingerprint`."""
        return self.checkpoint.fingerprint(f"{name}.weight" for name in matrices)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load the tokenizer from the directory."""
        return open_tokenizer(self.path)

    @contextlib.contextmanager
    def opened(self, config: RestoreConfig) -> "Iterator[PreTrainedModel]":
        """Load the model; it is freed at the end of the context."""
        model = open_model(
            self.path, device=config.device, dtype=config.dtype, attention=config.attention
        )
        try:
            yield model
        finally:
            del model
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class ModelSource:
    """A model in memory; it is never changed."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Wrap `model`."""
        self.model = model

    def __str__(self) -> str:
        name = self.model.name_or_path
        return f"{type(self.model).__name__}{f' of {name}' if name else ''}"

    def matrices(self, targets: Sequence[str], ignore: Sequence[str]) -> dict[str, nn.Linear]:
        """Target layers of the model itself."""
        return target_matrices(self.model, targets, ignore)

    def weight(self, matrix: str) -> Tensor:
        """The weight `[out, in]` as a CPU tensor (a view where it is there already)."""
        layer = self.model.get_submodule(matrix)
        return layer.get_parameter("weight").detach().cpu()

    def fingerprint(self, matrices: Sequence[str]) -> str:
        """Fingerprint of some weights; see `hcnr.checkpoint.fingerprint`."""
        return fingerprint_tensors(
            {f"{n}.weight": self.model.get_submodule(n).get_parameter("weight") for n in matrices}
        )

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load the tokenizer from where the model came from."""
        name = self.model.name_or_path
        if not name or not Path(name).is_dir():
            raise ModelError(
                f"{self} does not say where its tokenizer is; pass tokenizer= (a tokenizer or "
                "its directory)"
            )
        return open_tokenizer(name)

    @contextlib.contextmanager
    def opened(self, config: RestoreConfig) -> "Iterator[PreTrainedModel]":
        """The model as it is, on its own device and in its own dtype."""
        yield self.model


def open_source(source: "str | Path | PreTrainedModel | Source") -> Source:
    """Put a directory or a model behind the `Source` face.

    Raises:
        CheckpointError: the directory is not a usable checkpoint.
        ModelError: `source` is neither a path nor a transformers model.
    """
    if isinstance(source, DirectorySource | ModelSource):
        return source
    if isinstance(source, str | Path):
        return DirectorySource(source)
    from transformers import PreTrainedModel

    if isinstance(source, PreTrainedModel):
        return ModelSource(source)
    raise ModelError(
        f"a {type(source).__name__} is neither a checkpoint directory nor a transformers "
        "PreTrainedModel; pass one of those"
    )


def check_sources(
    base: Source, tuned: Source, config: RestoreConfig
) -> tuple[list[str], list[str]]:
    """Check that the two belong together, before anything is computed.

    Returns:
        The target matrices in the model's order, and messages about harmless differences.

    Raises:
        CheckpointError: architectures, names, shapes or dtypes do not fit, or a weight has NaN or
            infinity; each is named.
        ModelError: no matrix matches the configuration's targets.
    """
    names = list(tuned.matrices(config.targets, config.ignore))
    weights = [f"{name}.weight" for name in names]
    if isinstance(base, DirectorySource) and isinstance(tuned, DirectorySource):
        messages = check_pair(base.checkpoint, tuned.checkpoint, weights)
        for source in (base, tuned):
            check_finite(source.checkpoint)
        return names, messages
    others = base.matrices(config.targets, config.ignore)
    for name in names:
        if name not in others:
            raise CheckpointError(f"{name} is a matrix of tuned ({tuned}) but not of base ({base})")
        pair = base.weight(name), tuned.weight(name)
        if pair[0].shape != pair[1].shape:
            raise CheckpointError(
                f"{name} is {list(pair[0].shape)} in base ({base}) and {list(pair[1].shape)} in "
                f"tuned ({tuned}); the two must be of one architecture"
            )
        for source, weight in zip((base, tuned), pair, strict=True):
            if not weight.isfinite().all():
                raise CheckpointError(
                    f"{name} of {source} holds NaN or infinity; restore from a healthy checkpoint"
                )
    return names, []
