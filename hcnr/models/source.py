"""Where weights come from: a checkpoint directory or a model in memory, behind one face."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from hcnr.checkpoint import (
    Checkpoint,
    check_finite,
    check_unquantised,
    fingerprint_tensors,
)
from hcnr.config import RestoreConfig
from hcnr.errors import CheckpointError, ModelError
from hcnr.models.experts import layer_of
from hcnr.models.given import Given, resolve
from hcnr.models.limits import Limits
from hcnr.models.linear import as_matrix, as_stored, place_of
from hcnr.models.loading import explained
from hcnr.models.model import open_model, open_skeleton, open_tokenizer, target_matrices
from hcnr.models.placed import PlacedCheckpoint
from hcnr.models.reach import Reach, out_of_reach

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


MERGED = "PEFT's model was merged in a copy, and is itself unchanged"


class Source(Protocol):
    """One model of the pair."""

    @property
    def settings(self) -> dict[str, Any]:
        """The model's configuration, as in `config.json`."""
        ...

    @property
    def places(self) -> list[Path]:
        """Directories that the model comes from, which no output may replace."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """Where the model comes from beside that, plain values for the report."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how it was found, one sentence each."""
        ...

    def matrices(self, targets: Sequence[str], ignore: Sequence[str]) -> dict[str, nn.Linear]:
        """Target layers by name; their weights may be on the meta device."""
        ...

    @property
    def limits(self) -> Limits:
        """What the model can read."""
        ...

    @property
    def reach(self) -> Reach | None:
        """Weights of the blocks that no repair reaches; None where there are none."""
        ...

    def weight(self, matrix: str) -> Tensor:
        """Weight `[out, in]` of a matrix in its stored dtype, on the CPU."""
        ...

    @property
    def parameters(self) -> list[str]:
        """Names in the model of everything that is stored, in order."""
        ...

    def parameter(self, name: str) -> Tensor | None:
        """A stored value by name, on the CPU; None where there is none."""
        ...

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the floating-point numbers among `parameters`, by name."""
        ...

    def check_finite(self) -> None:
        """Raise CheckpointError that names a weight with NaN or infinity."""
        ...

    def check_savable(self) -> None:
        """Raise ModelError where the model's settings cannot be written, before any work."""
        ...

    def fingerprint(self) -> str:
        """Fingerprint of every parameter of the model, embeddings and head included."""
        ...

    def has_fingerprint(self, known: object) -> bool:
        """Whether `known` is the model's fingerprint, or the one that earlier versions took.

        Those covered parameters of two dimensions only: neither norms, nor biases, nor experts.
        """
        ...

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer that belongs to the model."""
        ...

    def opened(
        self, config: RestoreConfig, *, computing: bool = False
    ) -> "contextlib.AbstractContextManager[PreTrainedModel]":
        """The model ready to run; a directory's is dropped when the context ends.

        With `computing` its weights are never written, so its dtype may be a faster one, see
        `hcnr.models.model.open_model`.
        """
        ...


class DirectorySource:
    """A checkpoint directory; weights are read when asked for."""

    def __init__(self, path: str | Path | Given) -> None:
        """Open and check the directory, or the one that stands for a model; reads headers only."""
        self.given = path if isinstance(path, Given) else None
        self.checkpoint = Checkpoint.open(path.directory if isinstance(path, Given) else path)
        check_unquantised(self.checkpoint)
        self.path = self.checkpoint.path

    def __str__(self) -> str:
        return str(self.path) if self.given is None else self.given.name

    @cached_property
    def _skeleton(self) -> "PreTrainedModel":
        return open_skeleton(self.path, self.checkpoint.tensors)

    @property
    def settings(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return self.checkpoint.config

    @property
    def places(self) -> list[Path]:
        """The directory itself, and what it was made from."""
        return [self.path] if self.given is None else list(self.given.places)

    @property
    def facts(self) -> dict[str, Any]:
        """How the directory was found; empty where it was named itself."""
        return {} if self.given is None else dict(self.given.facts)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done on the way to the directory."""
        return () if self.given is None else self.given.notes

    def matrices(self, targets: Sequence[str], ignore: Sequence[str]) -> dict[str, nn.Linear]:
        """Target layers of the model's structure, on the meta device."""
        return target_matrices(self._skeleton, targets, ignore)

    @property
    def limits(self) -> Limits:
        """What the model can read, by its structure."""
        return Limits.of(self._skeleton)

    @property
    def reach(self) -> Reach | None:
        """Weights of the blocks that no repair reaches, by the model's structure."""
        return out_of_reach(self._skeleton)

    @cached_property
    def placed(self) -> PlacedCheckpoint:
        """The stored tensors by the names of the model."""
        return PlacedCheckpoint(self.checkpoint, self._skeleton)

    def weight(self, matrix: str) -> Tensor:
        """Read one weight from disk."""
        layer = layer_of(self._skeleton, matrix)
        name, index = place_of(layer, matrix)
        stored = self.placed.parameter(name, index)
        if stored is None:
            raise CheckpointError(f"'{self.path}' has no tensor {name!r}; save it again")
        return as_matrix(layer, stored)

    def replacing(
        self, weight: Callable[[str], Tensor], matrices: Iterable[str]
    ) -> Callable[[str], Tensor | None]:
        """What `write_weights` asks for, where some matrices have new weights `[out, in]`.

        Args:
            weight: matrix -> its new weight, asked for once each.
            matrices: their names.

        Returns:
            Stored name -> new tensor in the layout of the files, None for what stays as it is.
        """
        held: dict[str, list[tuple[str, int | None]]] = {}
        for matrix in matrices:
            name, index = place_of(layer_of(self._skeleton, matrix), matrix)
            held.setdefault(name, []).append((matrix, index))

        def value(name: str) -> Tensor:
            whole: Tensor | None = None
            for matrix, index in held[name]:
                new = as_stored(layer_of(self._skeleton, matrix), weight(matrix))
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
        found = self.placed.infos.items()
        return {name: info.shape for name, info in found if info.dtype.is_floating_point}

    def check_finite(self) -> None:
        """Read every weight once."""
        check_finite(self.checkpoint)

    def check_savable(self) -> None:
        """Nothing to check: the files are copied."""

    @cached_property
    def _fingerprint(self) -> str:
        return self.placed.fingerprint(_names(self._skeleton, _parameters(self._skeleton)))

    def fingerprint(self) -> str:
        """Fingerprint from a few rows of each weight; see `hcnr.checkpoint.fingerprint`.

        What files hold in another form than the model (experts one by one) is read whole, once.
        """
        return self._fingerprint

    def has_fingerprint(self, known: object) -> bool:
        """Whether `known` is the fingerprint, by this version or by earlier ones."""
        if known == self.fingerprint():
            return True
        matrices = _matrix_parameters(self._skeleton)
        return known == self.placed.fingerprint(_names(self._skeleton, matrices))

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load the tokenizer from the directory."""
        return open_tokenizer(self.path)

    @contextlib.contextmanager
    def opened(
        self, config: RestoreConfig, *, computing: bool = False
    ) -> "Iterator[PreTrainedModel]":
        """Load the model; it is freed at the end of the context."""
        model = open_model(
            self.path,
            device=config.device,
            dtype=config.dtype,
            attention=config.attention,
            computing=computing,
        )
        try:
            yield model
        finally:
            del model
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class ModelSource:
    """A model in memory; whoever puts other weights into it puts its own back."""

    def __init__(self, model: "PreTrainedModel", notes: tuple[str, ...] = ()) -> None:
        """Wrap `model`; `notes` say how it was made.

        Raises:
            ModelError: it has no output head, so it predicts no tokens.
        """
        self.model = model
        self.notes = notes
        if model.get_output_embeddings() is None:
            raise ModelError(
                f"{self} has no output head; pass the causal language model "
                "(AutoModelForCausalLM), not its body"
            )

    def __str__(self) -> str:
        name = self.model.name_or_path
        return f"{type(self.model).__name__}{f' of {name}' if name else ''}"

    @property
    def settings(self) -> dict[str, Any]:
        """The model's configuration."""
        return self.model.config.to_dict()

    @property
    def places(self) -> list[Path]:
        """The directory that the model was loaded from, if it was."""
        path = Path(self.model.name_or_path or "")
        return [path.resolve()] if self.model.name_or_path and path.is_dir() else []

    @property
    def facts(self) -> dict[str, Any]:
        """Nothing is known of a model in memory but its name."""
        return {}

    def matrices(self, targets: Sequence[str], ignore: Sequence[str]) -> dict[str, nn.Linear]:
        """Target layers of the model itself."""
        return target_matrices(self.model, targets, ignore)

    @property
    def limits(self) -> Limits:
        """What the model can read."""
        return Limits.of(self.model)

    @property
    def reach(self) -> Reach | None:
        """Weights of the blocks that no repair reaches."""
        return out_of_reach(self.model)

    def weight(self, matrix: str) -> Tensor:
        """The weight itself where it is on the CPU already."""
        layer = layer_of(self.model, matrix)
        return as_matrix(layer, layer.get_parameter("weight").detach().cpu())

    @cached_property
    def _parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters, a tied one once."""
        return list(self._parameters)

    def parameter(self, name: str) -> Tensor | None:
        """The parameter itself where it is on the CPU already."""
        found = self._parameters.get(name)
        return None if found is None else found.detach().cpu()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the floating-point parameters, a tied one once."""
        found = self._parameters.items()
        return {name: tuple(p.shape) for name, p in found if p.is_floating_point()}

    def check_finite(self) -> None:
        """Look at every parameter once."""
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                raise CheckpointError(
                    f"{name} of {self} holds NaN or infinity; restore from a healthy checkpoint"
                )

    def check_savable(self) -> None:
        """Write the settings to a place of no consequence, as `save_pretrained` will."""
        with (
            tempfile.TemporaryDirectory(prefix="hcnr-") as scratch,
            explained(f"{self} cannot be saved", cure="; correct its configuration in memory"),
        ):
            self.model.config.save_pretrained(scratch)
            if (generation := getattr(self.model, "generation_config", None)) is not None:
                generation.save_pretrained(scratch)

    def fingerprint(self) -> str:
        """Fingerprint from a few rows of each weight; see `hcnr.checkpoint.fingerprint`."""
        return fingerprint_tensors(_parameters(self.model))

    def has_fingerprint(self, known: object) -> bool:
        """Whether `known` is the fingerprint, by this version or by earlier ones."""
        if known == self.fingerprint():
            return True
        return known == fingerprint_tensors(_matrix_parameters(self.model))

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load the tokenizer from where the model came from."""
        if not self.places:
            raise ModelError(
                f"{self} does not say where its tokenizer is; pass tokenizer= (a tokenizer or "
                "its directory)"
            )
        return open_tokenizer(self.places[0])

    @contextlib.contextmanager
    def opened(
        self, config: RestoreConfig, *, computing: bool = False
    ) -> "Iterator[PreTrainedModel]":
        """The model as it is, on its own device and in its own dtype.

        Raises:
            ModelError: the configuration asks for another dtype or attention.
        """
        for key in ("dtype", "attention"):
            if getattr(config, key) != "auto":
                raise ModelError(
                    f"{key} is {getattr(config, key)!r} but {self} is in memory already; load it "
                    f"that way yourself and leave {key} at auto"
                )
        yield self.model


def open_source(source: "str | Path | PreTrainedModel | Source") -> Source:
    """Put a directory, an adapter's directory or a model behind the `Source` face.

    An adapter is merged into the base that it names, PEFT's model into a copy of its own.

    Raises:
        CheckpointError: the directory is not a usable checkpoint.
        ModelError: `source` is neither a path nor a causal language model.
    """
    if isinstance(source, DirectorySource | ModelSource):
        return source
    if isinstance(source, str | Path):
        return DirectorySource(resolve(source))
    from transformers import PreTrainedModel

    from hcnr.models.adapters import is_peft_model, merge_model

    if isinstance(source, PreTrainedModel):
        return ModelSource(source)
    if is_peft_model(source):
        return ModelSource(merge_model(source), (MERGED,))
    raise ModelError(
        f"a {type(source).__name__} is neither a checkpoint directory nor a transformers "
        "PreTrainedModel; pass one of those"
    )


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter, a tied one once."""
    return dict(model.named_parameters())


def _names(model: nn.Module, parameters: Iterable[str]) -> dict[str, list[str]]:
    """Some parameters, each with all names that it has in the model."""
    found: dict[int, list[str]] = {}
    places = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in places.items():
        found.setdefault(id(parameter), []).append(name)
    return {name: found[id(places[name])] for name in parameters}


def _matrix_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter with two dimensions, a tied one once: what fingerprints once covered."""
    return {name: p for name, p in model.named_parameters() if p.dim() == 2}
