"""Data sets through the `datasets` library: from the Hugging Face hub, or saved in a directory."""

import os
import re
from collections.abc import Iterable
from typing import Any

from hcnr.errors import DataError
from hcnr.records import HUB

FORM = f"{HUB}NAME[@REVISION][:[CONFIG/]SPLIT]"
_FORM = re.compile(
    r"(?P<name>[^@:]+)(@(?P<revision>[^:]+))?(:((?P<config>[^/\[]+)/)?(?P<split>.+))?"
)


def open_dataset(text: str) -> Iterable[Any]:
    """Open one split of a data set.

    Args:
        text: `hf:NAME[@REVISION][:[CONFIG/]SPLIT]`, where NAME is one of the hub or a directory, or
            a directory alone. SPLIT may be a slice, such as `train[:1000]`; it can be left out
            where there is one split only.

    Raises:
        DataError: `datasets` is not installed, the name is not of that form, there are several
            splits and none is named, or `datasets` refuses it.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports] (optional)
    except ImportError:
        raise DataError(
            f"{text} is read by the package datasets, which is not installed; run pip install "
            "'hcnr[datasets]' or pass a .jsonl, .json, .csv or .parquet file"
        ) from None
    form = _FORM.fullmatch(text.removeprefix(HUB)) if text.startswith(HUB) else None
    if text.startswith(HUB) and form is None:
        raise DataError(f"the data set {text!r} is not of the form {FORM}")
    parts = form.groupdict() if form else {"name": text}
    name, split = parts["name"] or text, parts.get("split")
    try:
        found: Any
        if os.path.isfile(os.path.join(name, "dataset_dict.json")):
            found = datasets.load_from_disk(name)
            found = found if split is None else found[split]
        elif os.path.isfile(os.path.join(name, "state.json")) and split is None:
            found = datasets.load_from_disk(name)
        else:
            options = {"split": split, "revision": parts.get("revision")}
            found = datasets.load_dataset(name, parts.get("config"), **options)
    # The library, the hub and the network each have their own kinds of errors.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(f"the data set {text} cannot be opened ({reason})") from None
    if isinstance(found, dict):
        if len(found) != 1:
            raise DataError(
                f"the data set {text} has the splits {', '.join(map(str, found))}; name one of "
                f"them, as in {HUB}{name}:{next(iter(found), 'train')}"
            )
        (found,) = found.values()
    return found
