"""Directories that a user names: refused in one sentence before anything heavy is imported."""

from pathlib import Path

from hcnr.errors import CheckpointError

ADAPTER = "adapter_config.json"
"""What makes a directory that of a PEFT adapter."""


def check_directory(directory: Path) -> None:
    """Raise CheckpointError unless a checkpoint's directory exists."""
    if not directory.exists():
        raise CheckpointError(
            f"The checkpoint '{directory}' does not exist: name a local directory, or a model of "
            "the Hugging Face hub as OWNER/NAME."
        )
    if not directory.is_dir():
        raise CheckpointError(
            f"The checkpoint '{directory}' is a file: name the directory that holds it and its "
            "config.json."
        )
