"""The models of a pair, ready to run: one checkpoint's at a time."""

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from torch import nn

from hcnr.config import RestoreConfig
from hcnr.models.experts import layer_of
from hcnr.models.source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Role = Literal["base", "tuned"]


class OpenModels:
    """Opens the model of a role when it is asked for, and keeps it until the other one is.

    A context; at its end no model is held. Callers keep none of them for longer than they use it,
    so that the model of one role is freed before the other's is loaded.
    """

    def __init__(
        self, sources: Mapping[Role, Source], matrices: list[str], config: RestoreConfig
    ) -> None:
        """Hold no model yet.

        Args:
            sources: of both models.
            matrices: names of the pair's target matrices.
            config: where the models run, and in which dtype.
        """
        self._sources, self._matrices, self._config = sources, matrices, config
        self._stack = contextlib.ExitStack()
        self._held: dict[Role, PreTrainedModel] = {}

    @property
    def role(self) -> Role | None:
        """Whose model is held, so that it costs nothing to use."""
        return next(iter(self._held), None)

    def at(
        self, role: Role, matrices: list[str] | None = None
    ) -> "tuple[PreTrainedModel, dict[str, nn.Linear]]":
        """The model of a role, and its target layers by name.

        Args:
            role: base or tuned.
            matrices: names of the layers; all of the pair's when None.

        Raises:
            ModelError: it cannot be loaded.
        """
        if role not in self._held:
            self.close()
            opened = self._sources[role].opened(self._config, computing=True)
            self._held[role] = self._stack.enter_context(opened)
        model = self._held[role]
        chosen = self._matrices if matrices is None else matrices
        return model, {name: layer_of(model, name) for name in chosen}

    def model(self, role: Role) -> "PreTrainedModel":
        """The model of a role alone."""
        return self.at(role, [])[0]

    def close(self) -> None:
        """Let the model go that is held, if any."""
        self._held.clear()
        self._stack.close()

    def __enter__(self) -> "OpenModels":
        return self

    def __exit__(self, *error: object) -> None:
        self._held.clear()
        self._stack.__exit__(*error)  # pyright: ignore[reportArgumentType]
