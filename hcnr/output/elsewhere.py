"""Sentences that name an option which the running command has not."""

import re
from typing import Any

import typer

__all__ = ["options_elsewhere"]

_QUOTED = re.compile(r"\b(?:hcnr|pip|python) [a-z-]+[^;,.]*")
"""Commands that a sentence says to type: their options are their own."""
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def options_elsewhere(sentence: str, context: typer.Context) -> str:
    """Say whose the options are that a sentence names and the running command has not.

    What is found out deep below, such as a token that base lacks, is told with the options of `hcnr
    restore`; other commands get there too.

    Args:
        sentence: an error's.
        context: of the running command.

    Returns:
        The end of the sentence, beginning with a semicolon; empty where there is nothing to say.
    """
    commands = _commands(context.find_root().command)
    own = _options(context.command)
    here = next((name for name, one in commands.items() if one is context.command), None)
    named = dict.fromkeys(_OPTION.findall(_QUOTED.sub("", sentence)))
    owners: dict[str, list[str]] = {}
    for option in named:
        having = [name for name, command in commands.items() if option in _options(command)]
        if option in own or not having or here is None:
            continue
        owners.setdefault("restore" if "restore" in having else having[0], []).append(option)
    return "".join(
        f"; {' and '.join(options)} {'is an option' if len(options) == 1 else 'are options'} of "
        f"hcnr {owner}, not of hcnr {here}"
        for owner, options in owners.items()
    )


def _options(command: Any) -> set[str]:
    return {name for param in command.params for name in (*param.opts, *param.secondary_opts)}


def _commands(root: Any, before: str = "") -> dict[str, Any]:
    """Commands by the words that call them, those of groups among them."""
    commands: dict[str, Any] = {}
    for name, command in getattr(root, "commands", {}).items():
        inner = _commands(command, f"{before}{name} ")
        commands |= inner or {f"{before}{name}": command}
    return commands
