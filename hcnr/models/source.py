"""Where weights come from: a checkpoint directory or a model in memory, behind one face."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from hcnr.checkpoint import all_finite, fingerprint_tensors
from hcnr.config import RestoreConfig
from hcnr.errors import CheckpointError, ModelError, OutputError
from hcnr.models.directory import DirectorySource
from hcnr.models.experts import layer_of
from hcnr.models.limits import Limits
from hcnr.models.linear import as_matrix, matrix_parameters
from hcnr.models.loading import explained
from hcnr.models.model import open_tokenizer
from hcnr.models.resolving import resolve
from hcnr.models.targets import Reach, out_of_reach, target_matrices
from hcnr.scratch import scratch_directory

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
    def read_paths(self) -> list[Path]:
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

    def view(self, matrix: str) -> Tensor:
        """The same for what looks at each element by itself: it may lie at any address.

        Products of it may round otherwise than those of `weight`; nobody writes to it.
        """
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

    def check_finite(self, but: Iterable[str] = ()) -> None:
        """Raise CheckpointError that names a weight with NaN or infinity.

        Args:
            but: matrices that may be left to `check_matrix`, where their weights are read anyway.
        """
        ...

    def check_matrix(self, matrix: str) -> None:
        """Raise as `check_finite`, of one matrix that it was to leave out."""
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
    def read_paths(self) -> list[Path]:
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

    def view(self, matrix: str) -> Tensor:
        """The weight itself too."""
        return self.weight(matrix)

    @cached_property
    def _parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters, a tied one once."""
        return list(self._parameters)

    def parameter(self, name: str) -> Tensor | None:
        """The parameter itself where it is on the CPU already."""
        parameter = self._parameters.get(name)
        return None if parameter is None else parameter.detach().cpu()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the floating-point parameters, a tied one once."""
        parameters = self._parameters.items()
        return {name: tuple(p.shape) for name, p in parameters if p.is_floating_point()}

    def check_matrix(self, matrix: str) -> None:
        """Nothing is left to be looked at: `check_finite` leaves nothing out."""

    def check_finite(self, but: Iterable[str] = ()) -> None:
        """Look at every parameter once."""
        for name, parameter in self.model.named_parameters():
            if not all_finite(parameter):
                raise CheckpointError(
                    f"{name} of {self} holds NaN or infinity; restore from a healthy checkpoint"
                )

    def check_savable(self) -> None:
        """Write the settings to a place of no consequence, as `save_pretrained` will."""
        cure = "; correct its configuration in memory"
        try:
            with scratch_directory() as scratch, explained(f"{self} cannot be saved", cure=cure):
                for key in ("config", "generation_config"):
                    if (part := getattr(self.model, key, None)) is not None:
                        part.save_pretrained(scratch)
        except OSError as error:
            reason = f"{tempfile.gettempdir()} cannot be written to ({error.strerror})"
            raise OutputError(f"{reason}; free space there, or set TMPDIR") from error

    def fingerprint(self) -> str:
        """Fingerprint from a few rows of each weight; see `hcnr.checkpoint.fingerprint`."""
        return fingerprint_tensors(dict(self.model.named_parameters()))

    def has_fingerprint(self, known: object) -> bool:
        """Whether `known` is the fingerprint, by this version or by earlier ones."""
        if known == self.fingerprint():
            return True
        return known == fingerprint_tensors(matrix_parameters(self.model))

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load the tokenizer from where the model came from."""
        if not self.read_paths:
            raise ModelError(
                f"{self} does not say where its tokenizer is; pass tokenizer= (a tokenizer or "
                "its directory)"
            )
        return open_tokenizer(self.read_paths[0])

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
