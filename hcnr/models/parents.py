"""What the files of base say of where it comes from: it must not come from tuned."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["about_parents"]

_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
# Of the hub's cache: models--OWNER--NAME/snapshots/COMMIT.
_CACHED = re.compile(r"models--([^/\\]+?)--([^/\\]+)")


def about_parents(base: Path, tuned: Path) -> list[str]:
    """Compare what base's card and configuration name as its own base with tuned.

    Args:
        base: directory of the honest model.
        tuned: of the fine-tuned one.

    Returns:
        A sentence where base says that it was made from tuned, and tuned does not say the same.
    """
    if _comes_from(base, tuned) and not _comes_from(tuned, base):
        return [
            f"base and tuned seem to be exchanged: the files of BASE ({base.name}) name TUNED "
            f"({tuned.name}) as what it was made from; BASE is the model from before the "
            "fine-tuning"
        ]
    return []


def _comes_from(child: Path, parent: Path) -> bool:
    ids = {f"{m[1]}/{m[2]}" for part in parent.absolute().parts if (m := _CACHED.fullmatch(part))}
    for name in _named(child):
        if name in ids:
            return True
        # A folder is named from the working directory of whoever trained, or from beside it.
        places = (Path(name), child / name, child.parent / name)
        if any(_same(place, parent) for place in places):
            return not _same(parent, child)
    return False


def _same(path: Path, other: Path) -> bool:
    # A name may be no path at all here, or one of a machine where it could be read.
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False


def _named(directory: Path) -> Iterator[str]:
    """Everything that a directory names as its base model."""
    yield from _texts(_card(directory / "README.md").get("base_model"))
    try:
        settings = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    yield from _texts(settings.get("_name_or_path") if isinstance(settings, dict) else None)


def _card(file: Path) -> dict[str, Any]:
    import yaml

    try:
        match = _FRONT.match(file.read_text(encoding="utf-8"))
        values = yaml.safe_load(match[1]) if match else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str) and one]
