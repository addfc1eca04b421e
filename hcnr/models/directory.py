"""A model that lies in a checkpoint directory, as a `hcnr.models.source.Source`."""

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from hcnr.checkpoint import Checkpoint, Spliced, check_finite, check_unquantised
from hcnr.config import RestoreConfig
from hcnr.errors import CheckpointError
from hcnr.models.experts import layer_of
from hcnr.models.limits import Limits
from hcnr.models.linear import (
    as_matrix,
    as_stored,
    is_transposed,
    matrix_parameters,
    slice_of,
)
from hcnr.models.model import open_hollow, open_model, open_skeleton, open_tokenizer, resolve_device
from hcnr.models.placed import PlacedCheckpoint
from hcnr.models.resolving import ResolvedModel
from hcnr.models.targets import Reach, out_of_reach, target_matrices

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Made = Callable[[str], Tensor]
Splicing = Callable[[str], Spliced | None]


class DirectorySource:
    """A checkpoint directory; weights are read when asked for."""

    def __init__(self, path: str | Path | ResolvedModel) -> None:
        """Open and check the directory, or the one that stands for a model; reads headers only."""
        self.resolved = path if isinstance(path, ResolvedModel) else None
        self.checkpoint = Checkpoint.open(
            path.directory if isinstance(path, ResolvedModel) else path
        )
        check_unquantised(self.checkpoint)
        self.path = self.checkpoint.path

    def __str__(self) -> str:
        return str(self.path) if self.resolved is None else self.resolved.name

    @cached_property
    def structure(self) -> "PreTrainedModel":
        """The model on the meta device, without weights."""
        return open_skeleton(self.path, self.checkpoint.tensors)

    def share_structure(self, other: "DirectorySource") -> None:
        """Take the `structure` of a checkpoint that differs in values alone, which takes time."""
        ours, theirs = (
            {name: (info.dtype, info.shape) for name, info in one.checkpoint.tensors.items()}
            for one in (self, other)
        )
        if ours == theirs and self.settings == other.settings:
            vars(self)["structure"] = other.structure

    @property
    def settings(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return self.checkpoint.config

    @property
    def read_paths(self) -> list[Path]:
        """The directory itself, and what it was made from."""
        return [self.path] if self.resolved is None else list(self.resolved.read_paths)

    @property
    def facts(self) -> dict[str, Any]:
        """How the directory was found; empty where it was named itself."""
        return {} if self.resolved is None else dict(self.resolved.facts)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done on the way to the directory."""
        return () if self.resolved is None else self.resolved.notes

    def matrices(self, targets: Sequence[str], ignore: Sequence[str]) -> dict[str, nn.Linear]:
        """Target layers of the model's structure, on the meta device."""
        return target_matrices(self.structure, targets, ignore)

    @property
    def limits(self) -> Limits:
        """What the model can read, by its structure."""
        return Limits.of(self.structure)

    @property
    def reach(self) -> Reach | None:
        """Weights of the blocks that no repair reaches, by the model's structure."""
        return out_of_reach(self.structure)

    @cached_property
    def placed(self) -> PlacedCheckpoint:
        """The stored tensors by the names of the model."""
        return PlacedCheckpoint(self.checkpoint, self.structure)

    def weight(self, matrix: str) -> Tensor:
        """Read one weight from disk."""
        return self._weight(matrix, self.placed.parameter)

    def view(self, matrix: str) -> Tensor:
        """The same without a copy, mapped from its file."""
        return self._weight(matrix, self.placed.view)

    def _weight(self, matrix: str, get: Callable[[str, int | None], Tensor | None]) -> Tensor:
        layer = layer_of(self.structure, matrix)
        name, index = slice_of(layer, matrix)
        stored = get(name, index)
        if stored is None:
            raise CheckpointError(f"'{self.path}' has no tensor {name!r}; save it again")
        return as_matrix(layer, stored)

    @overload
    def replacing(
        self, weight: Made, matrices: Iterable[str]
    ) -> Callable[[str], Tensor | None]: ...

    @overload
    def replacing(
        self, weight: Made, matrices: Iterable[str], spliced: Splicing
    ) -> Callable[[str], Tensor | Spliced | None]: ...

    def replacing(
        self, weight: Made, matrices: Iterable[str], spliced: Splicing = lambda _: None
    ) -> Callable[[str], Any]:
        """What `write_weights` asks for, where some matrices have new weights `[out, in]`.

        Args:
            weight: matrix -> its new weight, asked for once each.
            matrices: their names.
            spliced: the same for what consists of rows that lie elsewhere, asked for first where
                rows of a matrix are rows of the file; None where it does not.

        Returns:
            Stored name -> new tensor in the layout of the files, None for what stays as it is.
        """
        held: dict[str, list[tuple[str, int | None]]] = {}
        for matrix in matrices:
            name, index = slice_of(layer_of(self.structure, matrix), matrix)
            held.setdefault(name, []).append((matrix, index))

        def value(name: str) -> Tensor | Spliced:
            whole: Tensor | None = None
            for matrix, index in held[name]:
                layer = layer_of(self.structure, matrix)
                rows = self._stored_alone(matrix) is not None and not is_transposed(layer)
                if rows and (pieces := spliced(matrix)) is not None:
                    return pieces
                new = as_stored(layer, weight(matrix))
                if index is None:
                    return new
                whole = self.parameter(name) if whole is None else whole
                assert whole is not None
                whole[index] = new
            assert whole is not None
            return whole

        return self.placed.replacing(value, held)

    @property
    def parameters(self) -> list[str]:
        """Names of the stored tensors in the model; what has no place there keeps its own."""
        return list(self.placed.infos)

    def parameter(self, name: str) -> Tensor | None:
        """Read one parameter from disk, out of all tensors that it is made of."""
        return self.placed.parameter(name)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the floating-point tensors, by the model's names."""
        infos = self.placed.infos.items()
        return {name: info.shape for name, info in infos if info.dtype.is_floating_point}

    def check_finite(self, but: Iterable[str] = ()) -> None:
        """Look at every weight once; at those of `but` when `check_matrix` is asked."""
        left = {key for key in map(self._stored_alone, but) if key is not None}
        check_finite(
            self.checkpoint, [name for name in self.checkpoint.tensors if name not in left]
        )

    def check_matrix(self, matrix: str) -> None:
        """Look at a weight that was left out; what is part of a stored tensor never is."""
        if (key := self._stored_alone(matrix)) is not None:
            check_finite(self.checkpoint, [key])

    def files_of(self, matrix: str) -> frozenset[str]:
        """Names of the weight files that a matrix is written to."""
        name, _ = slice_of(layer_of(self.structure, matrix), matrix)
        placement = self.placed.placement
        conversion = placement.conversions.get(name)
        keys = [placement.stored.get(name, name)] if conversion is None else conversion.stored
        return frozenset(self.checkpoint.info(key).file.name for key in keys)

    def _stored_alone(self, matrix: str) -> str | None:
        """The stored tensor that is this matrix and nothing else; None where it is part of one."""
        name, index = slice_of(layer_of(self.structure, matrix), matrix)
        if index is not None or name in self.placed.placement.conversions:
            return None
        key = self.placed.placement.stored.get(name, name)
        return key if key in self.checkpoint.tensors else None

    def check_savable(self) -> None:
        """Nothing to check: the files are copied."""

    @cached_property
    def _fingerprint(self) -> str:
        return self.placed.fingerprint(
            _names(self.structure, [name for name, _ in self.structure.named_parameters()])
        )

    def fingerprint(self) -> str:
        """Fingerprint from a few rows of each weight; see `hcnr.checkpoint.fingerprint`.

        What files hold in another form than the model (experts one by one) is read whole, once.
        """
        return self._fingerprint

    def has_fingerprint(self, known: object) -> bool:
        """Whether `known` is the fingerprint, by this version or by earlier ones."""
        if known == self.fingerprint():
            return True
        matrices = matrix_parameters(self.structure)
        return known == self.placed.fingerprint(_names(self.structure, matrices))

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load the tokenizer from the directory."""
        return open_tokenizer(self.path)

    @contextlib.contextmanager
    def opened(
        self, config: RestoreConfig, *, computing: bool = False
    ) -> "Iterator[PreTrainedModel]":
        """Load the model, or what of it stays in memory; it is freed at the end of the context."""
        model = self._open(config, computing)
        try:
            yield model
        finally:
            del model
            if config.streams:
                # Hooks and the model that they are on hold each other.
                gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _open(self, config: RestoreConfig, computing: bool) -> "PreTrainedModel":
        if not config.streams:
            return open_model(
                self.path,
                device=config.device,
                dtype=config.dtype,
                attention=config.attention,
                computing=computing,
            )
        from hcnr.models.streamed.opening import attached
        from hcnr.models.streamed.units import residence

        kept = residence(self.structure, config)
        everything = dict(self.structure.named_parameters(remove_duplicate=False))
        names = _names(self.structure, everything)
        # What transformers would put together counts as it is afterwards: that takes memory.
        placement = self.placed.placement
        stored = {
            key: info
            for key, info in self.checkpoint.tensors.items()
            if key not in placement.converted
        }
        stored |= {name: self.placed.infos[name] for name in placement.conversions}
        model = open_hollow(
            self.path,
            stored,
            device=config.device,
            dtype=config.dtype,
            attention=config.attention,
        )
        return attached(model, self.placed, names, kept, resolve_device(config.device))


def _names(model: nn.Module, parameters: Iterable[str]) -> dict[str, list[str]]:
    """Some parameters, each with all names that it has in the model."""
    by_parameter: dict[int, list[str]] = {}
    places = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in places.items():
        by_parameter.setdefault(id(parameter), []).append(name)
    return {name: by_parameter[id(places[name])] for name in parameters}
