"""Directories that a user names: made or refused in one sentence, before anything heavy."""

from collections.abc import Iterable
from pathlib import Path

from hcnr.errors import CheckpointError, OutputError

ADAPTER = "adapter_config.json"
"""What makes a directory that of a PEFT adapter."""
PATCH = "hcnr_patch.safetensors"
"""What makes a directory that of a patch, see `hcnr.checkpoint.patch_form`."""
PATCHED_CARD = "hcnr_card.md"
"""In a patch's directory: the README.md of the checkpoint that it makes."""


def check_directory(directory: Path) -> None:
    """Raise CheckpointError unless a checkpoint's directory exists."""
    if not directory.exists():
        raise CheckpointError(
            f"the checkpoint '{directory}' does not exist; name a local directory, or a model of "
            "the Hugging Face hub as OWNER/NAME"
        )
    if not directory.is_dir():
        raise CheckpointError(
            f"the checkpoint '{directory}' is a file; name the directory that holds it and its "
            "config.json"
        )


def check_outside(out: Path, inputs: Iterable[Path], cure: str = "choose another --out") -> None:
    """Refuse to write over an input or into one.

    Args:
        out: what is to be written; `~` is the home directory.
        inputs: files and directories that are read.
        cure: what to do instead.

    Raises:
        OutputError: the output is one of them, or lies in one; links are followed.
    """
    target = out.expanduser().resolve()
    for source in inputs:
        directory = source.expanduser().resolve()
        if target.is_relative_to(directory):
            relation = "the input itself," if target == directory else "inside the input"
            raise OutputError(f"{out} is {relation} {source}; {cure}")


def make_directory(path: str | Path, cure: str = "choose another --out") -> Path:
    """Make a directory for results where it is missing, before anything is computed.

    Args:
        path: of it; `~` is the home directory.
        cure: what to do where it cannot be made.

    Raises:
        OutputError: it cannot be made, or is no directory.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made a directory ({error.strerror}); {cure}"
        ) from None
    return folder
