"""The tensors of a checkpoint by the names of its model, read and replaced where they lie."""

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

from torch import Tensor

from hcnr.checkpoint import Checkpoint, Spliced, TensorInfo, fingerprint
from hcnr.checkpoint.fingerprints import LazyRows, TensorRows
from hcnr.models.placement import Conversion, Placement

if TYPE_CHECKING:
    from transformers import PreTrainedModel

New = TypeVar("New", Tensor, Tensor | Spliced)


class PlacedCheckpoint:
    """A checkpoint seen through transformers' conversion mapping.

    Attributes:
        checkpoint: the files.
        placement: which of their names are which of the model's.
    """

    def __init__(self, checkpoint: Checkpoint, model: "PreTrainedModel") -> None:
        """Match names; `model` is of the checkpoint's class, and may be on the meta device.

        Raises:
            CheckpointError: two stored tensors have one place.
            ModelError: transformers loads the model otherwise than by its mapping.
        """
        self.checkpoint = checkpoint
        self.placement = Placement.of(model, checkpoint.tensors, checkpoint.path)
        self._last: tuple[Conversion, dict[str, Tensor]] | None = None

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        """Dtype and shape of everything stored, by the model's names, in file order.

        What has no place in the model keeps its own name. Where several tensors become one, file
        and offsets are those of the first.
        """
        return self.placement.infos(self.checkpoint.tensors)

    def parameter(self, name: str, index: int | None = None) -> Tensor | None:
        """A fresh tensor on the CPU, of all that it is made of; None where there is none.

        Args:
            name: of the parameter.
            index: reads one slice along its first dimension; None reads all of it.
        """
        conversion = self.placement.conversions.get(name)
        if conversion is not None:
            whole = self._converted(conversion)[name]
            return (whole if index is None else whole[index]).clone()
        if name not in self.infos:
            return None
        key = self.placement.stored.get(name, name)
        if index is None:
            return self.checkpoint.load(key)
        return self.checkpoint.load_rows(key, [index])[0]

    def view(self, name: str, index: int | None = None) -> Tensor | None:
        """As `parameter`, where it lies: see `hcnr.checkpoint.Checkpoint.view`."""
        if name in self.placement.conversions or name not in self.infos:
            return self.parameter(name, index)
        whole = self.checkpoint.view(self.placement.stored.get(name, name))
        return whole if index is None else whole[index]

    def fingerprint(self, names: Mapping[str, Collection[str]]) -> str:
        """Fingerprint of some parameters; equals `fingerprint_tensors` of the same in memory.

        Args:
            names: of parameters, each with all names that it has: a tied one may be stored under
                another. Those that are not stored are left out.
        """
        stored = {
            name: next((own for own in all_of_it if own in self.infos), None)
            for name, all_of_it in names.items()
        }
        return fingerprint(
            (name, self._rows(own)) for name, own in stored.items() if own is not None
        )

    def replacing(
        self, value: Callable[[str], New], changed: Collection[str]
    ) -> Callable[[str], New | Tensor | None]:
        """What `write_weights` asks for, where some parameters have new values.

        Args:
            value: parameter -> its new value in the stored dtype, asked for once each; `Spliced`
                only where it is stored as it is.
            changed: the parameters, among `infos`.

        Returns:
            Stored name -> new tensor, or None for what stays as it is, byte for byte.
        """
        waiting: dict[str, Tensor] = {}

        def ask(key: str) -> New | Tensor | None:
            conversion = self.placement.converted.get(key)
            if conversion is None:
                name = self.placement.names.get(key, key)
                return value(name) if name in changed else None
            own = [name for name in conversion.infos if name in changed]
            if own and key not in waiting:
                new = {name: cast(Tensor, value(name)) for name in own}
                waiting.update(conversion.backward({**self._converted(conversion), **new}))
            return waiting.pop(key, None)

        return ask

    def _rows(self, name: str) -> LazyRows:
        if (conversion := self.placement.conversions.get(name)) is not None:
            return TensorRows(self._converted(conversion)[name])
        return self.checkpoint.lazy_rows(self.placement.stored.get(name, name))

    def _converted(self, conversion: Conversion) -> dict[str, Tensor]:
        """Parameters of a conversion; the last one is kept: what is asked for next is often too."""
        if self._last is None or self._last[0] is not conversion:
            self._last = None
            load = self.checkpoint.load
            self._last = conversion, conversion.forward({n: load(n) for n in conversion.stored})
        return self._last[1]
