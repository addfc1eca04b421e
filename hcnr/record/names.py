"""Names in place of paths: what is published tells nothing of the machine that made it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_FIELDS = frozenset({"base", "tuned", "source", "merged_into", "base_model_name_or_path"})
"""Fields of hcnr's files that hold a path as a whole, spaces included."""
_ROOTED = re.compile(r"(?:~|[A-Za-z]:)?[/\\]")
_PART = r"""[^\s/\\"'`<>|,;:()]+"""
_PATH = re.compile(
    rf"(?<![\w.:/\\<~-])(?:(?:file://|~|[A-Za-z]:)[/\\]|/(?={_PART}[/\\]{_PART}))"
    rf"(?:{_PART}[/\\])*({_PART})[/\\]?"
)


def stem(name: str) -> str:
    """Last part of a path or of a hub name, which a published page may carry."""
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def names_only(value: Any) -> Any:
    """The same value with the last part of every absolute path in place of it.

    Args:
        value: a text, or what JSON holds. Paths that stand in the fields of hcnr's files are found
            in sentences too, spaces and all; others by how they look. Relative paths and names of
            the hub stay.
    """
    known = sorted(set(_known(value)), key=lambda text: (-len(text), text))
    return _named(value, [(path, stem(path)) for path in known if stem(path)])


def _known(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _known(inner, str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _known(inner, key)
    elif isinstance(value, str) and key in _FIELDS and _ROOTED.match(value):
        yield value


def _named(value: Any, known: Iterable[tuple[str, str]]) -> Any:
    if isinstance(value, Mapping):
        return {key: _named(inner, known) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_named(inner, known) for inner in value]
    if not isinstance(value, str):
        return value
    for path, name in known:
        value = value.replace(path, name)
    # A sentence may end behind a path: its full stop is none of the name's.
    return _PATH.sub(lambda match: match[1], value)
