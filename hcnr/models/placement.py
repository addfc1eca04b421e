"""Where transformers puts what a checkpoint stores: names of files and names of the model.

Files of many families bear other names than the model's parameters (multimodal wrappers, GPT-2
without its prefix), and some tensors are merged or split on the way (experts). Both follow
transformers' own conversion mapping, the one that `from_pretrained` goes by.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hcnr.checkpoint import TensorInfo
from hcnr.errors import CheckpointError, ModelError
from hcnr.models.loading import explained

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Conversion:
    """Stored tensors that become parameters together, and back, by one of transformers' converters.

    Attributes:
        stored: names in the files, in transformers' order, each with the pattern that it matched
            and its name before the converter.
        infos: parameter -> what it is after converting; dtype and shape alone count.
    """

    model: "PreTrainedModel"
    converter: Any
    target: str
    stored: Mapping[str, tuple[str, str]]
    infos: Mapping[str, TensorInfo]

    def forward(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters by name, of the stored tensors by name.

        Raises:
            ModelError: transformers cannot convert them.
        """
        return _forward(self.model, self.converter, self.target, self.stored, tensors)

    def backward(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `forward`.

        Raises:
            ModelError: transformers cannot convert them back into the tensors that are stored.
        """
        # What a transform was made from changes when it is reversed.
        reverse = copy.deepcopy(self.converter).reverse_transform()
        failure = f"{self.target} cannot be written in the form that it is stored in"
        with explained(failure):
            keys = []
            for name in self.infos:
                key, pattern = reverse.rename_source_key(name)
                reverse.add_tensor(key, name, pattern, parameters[name])
                keys.append(key)
            pieces = reverse.convert(keys[0], model=self.model, config=self.model.config)
        by_key: dict[str, Tensor] = {}
        for name, (_, middle) in self.stored.items():
            piece = next(
                (pieces[key] for key in _prefixed(middle, self.model) if key in pieces), None
            )
            if piece is None:
                raise ModelError(
                    f"{failure}: transformers gives {', '.join(list(pieces)[:3])}, and {name} was "
                    f"expected; leave it out of the targets"
                )
            by_key[name] = piece[0] if isinstance(piece, list) else piece
        return by_key


@dataclass(frozen=True, eq=False)
class Placement:
    """Names of stored tensors and of the parameters that they become.

    Attributes:
        names: stored name -> parameter, of tensors that are taken as they are.
        stored: the same the other way round.
        conversions: parameter -> the conversion that makes it.
        converted: stored name -> the conversion that it goes into.
    """

    names: Mapping[str, str]
    conversions: Mapping[str, Conversion]
    stored: Mapping[str, str] = field(init=False)
    converted: Mapping[str, Conversion] = field(init=False)

    def __post_init__(self) -> None:
        """Turn both around."""
        object.__setattr__(self, "stored", {name: key for key, name in self.names.items()})
        converted = {key: one for one in self.conversions.values() for key in one.stored}
        object.__setattr__(self, "converted", converted)

    @classmethod
    def of(
        cls, model: "PreTrainedModel", stored: Mapping[str, TensorInfo], source: Any
    ) -> "Placement":
        """Find the place of every stored tensor.

        Args:
            model: of the checkpoint's class, loaded; may be on the meta device.
            stored: what the files hold, by name.
            source: the checkpoint, for messages.

        Raises:
            CheckpointError: two stored tensors have one place.
            ModelError: transformers loads the model otherwise than by its mapping.
        """
        names, collected = _renamed(model, stored)
        taken: dict[str, str] = {}
        for key, name in names.items():
            if taken.setdefault(name, key) != key:
                raise CheckpointError(
                    f"'{source}' holds {taken[name]!r} and {key!r}, which are both {name} of "
                    f"{type(model).__name__}: save the checkpoint again"
                )
        conversions: dict[str, Conversion] = {}
        for target, (converter, pieces) in collected.items():
            infos = _converted(model, converter, target, pieces, stored)
            conversion = Conversion(model, converter, target, pieces, infos)
            conversions.update(dict.fromkeys(infos, conversion))
        placement = cls(names, conversions)
        placement._check(model)
        return placement

    def _check(self, model: "PreTrainedModel") -> None:
        """Every parameter must have come from a file, or be one that did under another name."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        placed = {id(p) for n, p in parameters.items() if n in self.stored or n in self.conversions}
        missing = [name for name, p in parameters.items() if id(p) not in placed]
        if missing:
            raise ModelError(
                f"transformers' conversion mapping does not say what becomes {missing[0]} of "
                f"{type(model).__name__}, so its weights cannot be matched with the files; save "
                "the checkpoint again with this version of transformers"
            )

    def infos(self, stored: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
        """What is stored by the model's names, in file order; what has no place keeps its own."""
        by_name: dict[str, TensorInfo] = {}
        for key, info in stored.items():
            conversion = self.converted.get(key)
            if conversion is not None:
                by_name.update(conversion.infos)
            else:
                name = self.names.get(key, key)
                by_name[name] = info if name == key else replace(info, name=name)
        return by_name


def _renamed(
    model: "PreTrainedModel", stored: Iterable[str]
) -> tuple[dict[str, str], dict[str, tuple[Any, dict[str, tuple[str, str]]]]]:
    """What transformers renames, and what it collects for its converters by their first target.

    The loop is that of `convert_and_load_state_dict_in_model`, whose functions it calls.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    state, prefix = model.state_dict(), model.base_model_prefix
    mapping = get_model_conversion_mapping(model)
    renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
    converters = [one for one in mapping if isinstance(one, WeightConverter)]
    owners = {pattern: one for one in converters for pattern in one.source_patterns}
    names: dict[str, str] = {}
    collected: dict[str, tuple[Any, dict[str, tuple[str, str]]]] = {}
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = rename_source_key(key, [], [], prefix, state)
        if name not in state:
            continue
        if pattern is None:
            names[key] = name
        else:
            _, pieces = collected.setdefault(name, (owners[pattern], {}))
            renamed, _ = rename_source_key(key, renamings, [])
            pieces[key] = pattern, renamed
    return names, collected


def _converted(
    model: "PreTrainedModel",
    converter: Any,
    target: str,
    pieces: Mapping[str, tuple[str, str]],
    stored: Mapping[str, TensorInfo],
) -> dict[str, TensorInfo]:
    """What a conversion gives, found out on tensors without values."""
    empty = {
        key: torch.empty(stored[key].shape, dtype=stored[key].dtype, device="meta")
        for key in pieces
    }
    first = stored[next(iter(pieces))]
    return {
        name: replace(first, name=name, dtype=tensor.dtype, shape=tuple(tensor.shape))
        for name, tensor in _forward(model, converter, target, pieces, empty).items()
    }


def _forward(
    model: "PreTrainedModel",
    converter: Any,
    target: str,
    pieces: Mapping[str, tuple[str, str]],
    tensors: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    with explained(f"{target} cannot be made from what is stored of it"):
        own = copy.deepcopy(converter)
        for key, (pattern, _) in pieces.items():
            own.add_tensor(target, key, pattern, tensors[key])
        converted = own.convert(target, model=model, config=model.config)
    return {name: one[0] if isinstance(one, list) else one for name, one in converted.items()}


def _prefixed(name: str, model: "PreTrainedModel") -> tuple[str, str, str]:
    """A name as it is, with the prefix of the model's body, and without."""
    prefix = f"{model.base_model_prefix}."
    return name, f"{prefix}{name}", name.removeprefix(prefix)
