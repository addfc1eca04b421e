"""Uploading a restored checkpoint to the Hugging Face hub, with a card that the hub takes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcnr.errors import CheckpointError, ConfigError, OutputError
from hcnr.record.front_matter import check_id, is_hub_id
from hcnr.record.names import names_only

LEFT_OUT = (
    "**/answers-*.jsonl", "answers-*.jsonl", "**/judged.jsonl", "judged.jsonl", "**/report.html",
    "report.html", ".*", "**/.*",
)  # fmt: skip
"""Patterns of what is not uploaded: the models' answers, the page, which quotes them, and hidden
files."""
WRITTEN = ("hcnr_report.json", "metrics.json", "sweep.json", "probe.json")
"""Files in which hcnr may have written where models and data lay."""
ADAPTER = "adapter_config.json"
NAMED = "base_model_name_or_path"


@dataclass(frozen=True)
class Pushed:
    """What was uploaded.

    Attributes:
        url: of the commit on the hub.
        base_model: what the card says.
    """

    url: str
    base_model: tuple[str, ...]


def push(
    directory: str | Path,
    repo: str,
    *,
    base_model: str | None = None,
    private: bool = False,
    message: str = "Upload a model repaired by hcnr",
    api: Any = None,
) -> Pushed:
    """Upload what `restore` wrote.

    The card is read and checked by `huggingface_hub`, here and by the hub, before anything is
    uploaded. A `base_model` that is given is written into the card of the directory first. Answers
    and the page stay here, and files that tell where something lay on this machine are uploaded
    with names in place of paths, see `without_paths`.

    Args:
        directory: what `restore` wrote.
        repo: its name to be on the hub, OWNER/NAME; it is created where there is none.
        base_model: the hub's name of tuned, where the card does not know it.
        private: whether a new repository is private.
        message: of the commit.
        api: a `huggingface_hub.HfApi`; one with the stored token when None.

    Raises:
        CheckpointError: the directory holds no card of a restored checkpoint.
        ConfigError: a name is none of the hub's, or the card names no base model.
        OutputError: the hub refuses the card, the repository or the upload.
    """
    from huggingface_hub import HfApi, ModelCard

    directory = Path(directory).expanduser()
    check_id("the repository", repo)
    check_id("--base-model", base_model)
    card = _read_card(directory, ModelCard)
    if base_model is not None:
        card.data.base_model = base_model
        # What the card said of the relation was about other models.
        card.data["base_model_relation"] = "finetune"
    named = card.data.base_model
    named = [named] if isinstance(named, str) else list(named or ())
    if not named or not all(map(is_hub_id, named)):
        listed = ", ".join(map(repr, named)) or "none"
        raise ConfigError(
            f"the card {directory / 'README.md'} has {listed} as base_model, expected the hub's "
            "name of the tuned model; pass --base-model OWNER/NAME"
        )
    api = HfApi() if api is None else api
    # The library, the hub and the network each have their own kinds of errors.
    try:
        card.validate(repo_type="model")
        if base_model is not None:
            _write_card(directory, str(card))
        api.create_repo(repo, private=private, exist_ok=True)
        named_files = without_paths(directory, tuple(named))
        for name, content in named_files.items():
            api.upload_file(
                repo_id=repo, path_in_repo=name, path_or_fileobj=content, commit_message=message
            )
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=str(directory),
            commit_message=message,
            ignore_patterns=[*LEFT_OUT, *named_files],
        )
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OutputError(
            f"{directory} was not uploaded to {repo} ({reason}); check the name, the network and "
            "`hf auth whoami`"
        ) from None
    url = getattr(commit, "commit_url", None) or f"https://huggingface.co/{repo}"
    return Pushed(str(url), tuple(named))


def without_paths(directory: Path, base_model: tuple[str, ...]) -> dict[str, bytes]:
    """Files of a directory that tell of paths of this machine, as they may be published.

    Args:
        directory: what is uploaded.
        base_model: what the card says; an adapter names the first one in place of a directory.

    Returns:
        Content by name; nothing where every file may be published as it is.
    """
    files = {}
    for path in sorted(directory.rglob("*.json")):
        if path.name not in (*WRITTEN, ADAPTER):
            continue
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        after = before
        if path.name != ADAPTER:
            after = names_only(before)
        elif not is_hub_id(before.get(NAMED)):
            after = before | {NAMED: base_model[0]}
        if after != before:
            text = json.dumps(after, indent=2, ensure_ascii=False) + "\n"
            files[path.relative_to(directory).as_posix()] = text.encode()
    return files


def _read_card(directory: Path, kind: Any) -> Any:
    """The card as `huggingface_hub` reads it."""
    import yaml

    for name in ("hcnr_report.json", "README.md"):
        if not (directory / name).is_file():
            raise CheckpointError(
                f"{directory} has no {name}, expected a directory that hcnr restore wrote"
            )
    try:
        return kind((directory / "README.md").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"the card {directory / 'README.md'} cannot be read ({reason}); correct its front "
            "matter"
        ) from None


def _write_card(directory: Path, text: str) -> None:
    from hcnr.checkpoint import atomic_file

    with atomic_file(directory / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
