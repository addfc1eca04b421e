"""A patch is put on the checkpoint that it was made for: `hcnr apply`."""

from pathlib import Path

from hcnr.checkpoint import (
    Checkpoint,
    Patch,
    check_output,
    output_directory,
    write_copy,
)
from hcnr.errors import ConfigError
from hcnr.models.adapter_files import is_adapter
from hcnr.models.resolving import resolve
from hcnr.output.bars import shows_progress
from hcnr.progress import APPLY, CHECK_PATCH, CHECKPOINTS, WEIGHTS, Adding, Stages, Watcher
from hcnr.record.writing import copy_patched

__all__ = ["apply_patch"]


@shows_progress
def apply_patch(
    tuned: str | Path,
    patch: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    progress: bool = True,
) -> Path:
    """Put a patch on the checkpoint that it was made for.

    What is written is what `restore` would have written with `out_format="full"`: the same bytes
    of weights in tuned's shards, the same small files, report and card. Before anything is written
    every byte of the patch and of tuned's tensors is compared with the SHA-256 of each.

    Args:
        tuned: the fine-tuned model that was restored, named as then: a directory, an adapter, a
            quantised model, or a name of the hub.
        patch: the directory that `restore` wrote with `out_format="patch"`.
        out: directory to write.
        base: what an adapter is merged into; None takes what it names itself.
        overwrite: replace an existing `out`.
        watcher: told about stages and progress.
        progress: bars in a notebook or at a terminal, where no watcher is given.

    Returns:
        The path of the finished directory.

    Raises:
        CheckpointError: the patch is damaged, was made for another tuned, or one of both changes
            meanwhile.
        OutputError: `out` cannot be written.
        ConfigError: `base` is given, and tuned is no adapter.
        HcnrError: tuned cannot be opened.
    """
    stages, directory = Stages(watcher), Path(patch).expanduser().absolute()
    opened = Patch.open(directory)
    check_output(out, inputs=[directory], overwrite=overwrite)
    with stages.stage(CHECKPOINTS):
        if base is not None and not is_adapter(tuned):
            raise ConfigError(
                f"'{tuned}' is no adapter, so base ('{base}') has nothing to do; leave --base out"
            )
        model = resolve(tuned, None if base is None else resolve(base))
        checkpoint = Checkpoint.open(model.directory)
        opened.check_for(checkpoint)
    with output_directory(
        out, inputs=[*model.read_paths, directory], overwrite=overwrite, nbytes=checkpoint.nbytes
    ) as work:
        copy_patched(directory, work)
        with stages.stage(CHECK_PATCH) as stage_watcher:
            opened.check_whole(Adding(stage_watcher, opened.nbytes))
        with stages.stage(WEIGHTS) as stage_watcher:
            opened.check_bits(checkpoint, Adding(stage_watcher, checkpoint.nbytes))
        with stages.stage(APPLY) as stage_watcher:
            copied = Adding(stage_watcher, checkpoint.nbytes)
            write_copy(checkpoint, work, opened.replacing(checkpoint), copied)
        opened.shard.check_unchanged()
    return Path(out).expanduser()
