"""The small files beside the weights that make a directory loadable."""

import shutil
from collections.abc import Collection
from pathlib import Path

from hcnr.cache import fsync
from hcnr.checkpoint.reader import Checkpoint
from hcnr.checkpoint.writer import Progress, Replacement, begins, write_weights
from hcnr.directories import ADAPTER
from hcnr.errors import CheckpointError, OutputError

# What is copied is listed, not what is not: weights come in ever more formats.
SUFFIXES = {".json", ".jinja", ".model", ".txt", ".py", ".tiktoken", ".vocab", ".bpe", ".spm"}
PREFIXES = ("tokenizer.model", "LICENSE", "NOTICE", "USE_POLICY")
TEMPLATES = "additional_chat_templates"

# State of a training run, lists of files we do not copy, and what describes another directory:
# measurements of the tuned model are not those of the restored one.
LEFT_OUT = {
    ADAPTER,
    "trainer_state.json",
    "training_args.json",
    "optimizer.json",
    "scheduler.json",
    "trainer_log.json",
    "metrics.json",
    "probe.json",
    "report.html",
    "sweep.json",
}
LEFT_OUT_ENDINGS = (".index.json", "_results.json")
MAX_BYTES = 256 << 20


def write_copy(
    tuned: Checkpoint,
    directory: Path,
    replacement: Replacement,
    progress: Progress | None = None,
    files: Collection[str] | None = None,
) -> None:
    """Write a copy of a checkpoint with some tensors replaced, and what makes it loadable.

    Args:
        tuned: the checkpoint to copy.
        directory: an existing directory.
        replacement: see `write_weights`.
        progress: see `write_weights`.
        files: names of the weight files to write, where others write the rest; all by default. The
            companions go with the first of them.

    Raises:
        CheckpointError: see `write_weights` and `copy_companions`.
        OutputError: a file cannot be written.
    """
    write_weights(tuned, directory, replacement, progress, files)
    if begins(tuned, files):
        copy_companions(tuned, directory)


def copy_companions(tuned: Checkpoint, directory: Path) -> list[str]:
    """Copy config, generation config, tokenizer, chat templates, processors, code and licence.

    Never copied: weights of any format, state of the optimizer or the trainer, adapters,
    `README.md`, hidden files, `hcnr_*`, anything above 256 MiB, and any subdirectory except
    `additional_chat_templates`. Symbolic links are followed.

    Args:
        tuned: the checkpoint to copy from.
        directory: an existing directory to copy into; equal names are replaced.

    Returns:
        The names of the copied files, relative to the directory, sorted.

    Raises:
        CheckpointError: a companion cannot be read, such as a link whose target is missing.
        OutputError: a copy cannot be written.
    """
    copied = []
    for source in companion_files(tuned):
        name = source.relative_to(tuned.path)
        _copy(source, directory / name)
        copied.append(name.as_posix())
    return copied


def files_of(checkpoint: Checkpoint) -> list[Path]:
    """All files that a converted checkpoint is made of: weights, their index, companions.

    Raises:
        CheckpointError: a companion is a link whose target is missing.
    """
    index = sorted(checkpoint.path.glob("*.safetensors.index.json"))
    return [*(shard.file for shard in checkpoint.shards), *index, *companion_files(checkpoint)]


def companion_files(checkpoint: Checkpoint) -> list[Path]:
    """The files that `copy_companions` copies, sorted.

    Raises:
        CheckpointError: one is a link whose target is missing.
    """
    sources = list(checkpoint.path.iterdir())
    templates = checkpoint.path / TEMPLATES
    if templates.is_dir():
        sources += templates.iterdir()
    return [source for source in sorted(sources) if _is_companion(source)]


def _is_companion(source: Path) -> bool:
    name = source.name
    if name.startswith((".", "hcnr_")) or name in LEFT_OUT or name.endswith(LEFT_OUT_ENDINGS):
        return False
    if source.suffix not in SUFFIXES and not name.startswith(PREFIXES):
        return False
    if source.is_symlink() and not source.exists():
        raise CheckpointError(
            f"'{source}' is a link to a missing file; complete the download or remove the link"
        )
    return source.is_file() and source.stat().st_size <= MAX_BYTES


def _copy(source: Path, target: Path) -> None:
    try:
        handle = source.open("rb")
    except OSError as error:
        raise CheckpointError(
            f"cannot read '{source}' ({error.strerror or error}); fix its permissions"
        ) from error
    with handle:
        try:
            target.parent.mkdir(exist_ok=True)
            with target.open("wb") as out:
                shutil.copyfileobj(handle, out)
            fsync(target)
        except OSError as error:
            raise OutputError(
                f"cannot write '{target}' ({error.strerror or error}); free some space or choose "
                "another output directory"
            ) from error
