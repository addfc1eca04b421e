"""Python functions that take the settings of a configuration as keyword arguments."""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

from hcnr.config.configuration import Configuration
from hcnr.settings import declared

Function = TypeVar("Function", bound=Callable[..., Any])


def takes(kind: type[Configuration]) -> Callable[[Function], Function]:
    """Show the settings of a configuration in the signature and the documentation of a function.

    The function takes them as `**overrides` and puts them together by `Configuration.of`, which
    checks them. Type checkers see the `TypedDict` that `overrides` is annotated with.
    """

    def show(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        settings = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=field.default,
                annotation=field.annotation,
            )
            for name, field in kind.model_fields.items()
        ]  # fmt: skip
        shown: Any = function
        shown.__signature__ = signature.replace(parameters=[*own, *settings])
        about = [
            textwrap.fill(
                f"{name}: {field.description} {declared(field, 'more')}".rstrip(),
                96,
                initial_indent=" " * 4,
                subsequent_indent=" " * 8,
            )
            for name, field in kind.model_fields.items()
        ]
        shown.__doc__ = "\n".join((f"{inspect.getdoc(function)}\n\nSettings:", *about, ""))
        return function

    return show
