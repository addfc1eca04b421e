"""The Hugging Face hub: data sets by the `datasets` library, models by `huggingface_hub`."""

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hcnr.errors import CheckpointError, DataError
from hcnr.output import current

__all__ = [
    "FORM",
    "HUB",
    "LOCAL",
    "Snapshot",
    "is_model_name",
    "model_name",
    "model_snapshot",
    "open_dataset",
]

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""How transformers opens what is here already: nothing is downloaded, no code of a model runs."""

HUB = "hf:"
"""What the name of a data set of the Hugging Face hub begins with."""

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
        raise DataError(f"the data set is {text!r}, expected the form {FORM}; correct its name")
    parts = form.groupdict() if form else {"name": text}
    name, split = parts["name"] or text, parts.get("split")
    try:
        dataset: Any
        if os.path.isfile(os.path.join(name, "dataset_dict.json")):
            dataset = datasets.load_from_disk(name)
            dataset = dataset if split is None else dataset[split]
        elif os.path.isfile(os.path.join(name, "state.json")) and split is None:
            dataset = datasets.load_from_disk(name)
        else:
            revision = parts.get("revision")
            dataset = datasets.load_dataset(
                name, parts.get("config"), split=split, revision=revision
            )
    # The library, the hub and the network each have their own kinds of errors.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(
            f"the data set {text} cannot be opened ({reason}); check its name and the network"
        ) from None
    if isinstance(dataset, dict):
        if len(dataset) != 1:
            raise DataError(
                f"the data set {text} has the splits {', '.join(map(str, dataset))}; name one of "
                f"them, as in {HUB}{name}:{next(iter(dataset), 'train')}"
            )
        (dataset,) = dataset.values()
    return dataset


_MODEL = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[A-Za-z0-9][\w./-]*))?"
)
# Weights, configuration, tokenizer, licence and card; neither pickles nor other tools' formats.
_WANTED = (
    "model*.safetensors", "adapter_model.safetensors", "*.json", "*.jinja", "*.model", "*.txt",
    "*.tiktoken", "*.vocab", "*.bpe", "*.spm", "tokenizer*", "README.md", "LICENSE*", "NOTICE*",
    "USE_POLICY*",
)  # fmt: skip
_UNWANTED = ("original/*", "onnx/*", "openvino/*", "gguf/*", "checkpoint-*/*", "runs/*")


class Snapshot(NamedTuple):
    """A model of the hub on this machine.

    Attributes:
        directory: in the hub's cache.
        name: as the hub calls it, OWNER/NAME.
        revision: the commit.
    """

    directory: Path
    name: str
    revision: str


def is_model_name(source: Any) -> bool:
    """Whether a text or path is OWNER/NAME or OWNER/NAME@REVISION, and nothing on this machine."""
    if not isinstance(source, str | os.PathLike):
        return False
    return _MODEL.fullmatch(os.fspath(source)) is not None and not os.path.exists(source)


def model_name(source: Any) -> str | None:
    """The OWNER/NAME of what `is_model_name` knows, without its revision; None of anything else."""
    return os.fspath(source).partition("@")[0] if is_model_name(source) else None


def model_snapshot(source: str | os.PathLike[str]) -> Snapshot:
    """Find a model of the hub in its cache, or download it there.

    What is cached is taken without asking the hub, whatever it has by now. Only safetensors,
    configuration, tokenizer, licence and card are downloaded.

    Args:
        source: OWNER/NAME, of the branch main, or OWNER/NAME@REVISION: a branch, tag or commit.

    Raises:
        CheckpointError: it is neither cached nor can it be downloaded; the sentence says why.
    """
    return _snapshot(os.fspath(source))


@functools.cache
def _snapshot(source: str) -> Snapshot:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    form = _MODEL.fullmatch(source)
    assert form is not None
    wanted = {
        "repo_id": form["name"],
        "revision": form["revision"],
        "allow_patterns": list(_WANTED),
        "ignore_patterns": list(_UNWANTED),
    }
    directory = None
    # It raises kinds of its own for what is cached in part.
    with contextlib.suppress(LocalEntryNotFoundError, OSError, ValueError):
        directory = Path(snapshot_download(**wanted, local_files_only=True))
    if directory is None or not _is_whole(directory):
        try:
            with _bars():
                directory = Path(snapshot_download(**wanted))
        # The hub, the network and the cache each have their own kinds of errors.
        except Exception as error:
            raise CheckpointError(_refusal(source, error)) from error
        if not _is_whole(directory):
            raise CheckpointError(_refusal(source, None))
    return Snapshot(directory, form["name"], directory.name)


def _is_whole(directory: Path) -> bool:
    """Whether a snapshot holds a model's or an adapter's weights with its configuration."""
    if (directory / "adapter_config.json").is_file():
        return (directory / "adapter_model.safetensors").is_file()
    if not (directory / "config.json").is_file():
        return False
    if (directory / "model.safetensors").is_file():
        return True
    try:
        index = json.loads((directory / "model.safetensors.index.json").read_text("utf-8"))
        return all((directory / name).is_file() for name in set(index["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _refusal(source: str, error: Exception | None) -> str:
    """Why a model of the hub cannot be had, and what to do, in one sentence."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, _, revision = source.partition("@")
    cure = f"download it where there is a network (hf download {name})"
    if constants.HF_HUB_OFFLINE or isinstance(error, OfflineModeIsEnabled):
        reason = (
            f"it is not in the cache '{constants.HF_HUB_CACHE}', or not whole, and HF_HUB_OFFLINE "
            "forbids downloading"
        )
    elif error is None:
        reason = "it has no safetensors weights with a config.json, as hcnr reads them"
        cure = "name a model that has them"
    # The first is a kind of the second.
    elif isinstance(error, GatedRepoError):
        reason, cure = "access to it is granted on request", "ask for it there, then hf auth login"
    elif isinstance(error, RevisionNotFoundError):
        reason, cure = f"it has no revision {revision!r}", "name a branch, tag or commit of it"
    elif isinstance(error, RepositoryNotFoundError):
        reason, cure = "the hub shows no such model", "check the name, or hf auth login"
    else:
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0][:200]}".rstrip(" .:")
    return (
        f"'{source}' is no directory here, and of the Hugging Face hub it cannot be had: {reason}; "
        f"{cure}, or name a local directory"
    )


@contextlib.contextmanager
def _bars() -> Iterator[None]:
    """The hub's own bars, except where nothing but errors is wanted."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if not current().quiet or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
