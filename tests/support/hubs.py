"""A cache of the Hugging Face hub as its library fills it, with models made here."""

import shutil
from pathlib import Path


def revision_of(number: int) -> str:
    """A commit's name."""
    return f"{number:040x}"


def cached(cache: Path, name: str, source: Path, number: int, *refs: str) -> Path:
    """Put the files of a directory into the cache as a commit of model `name`.

    Args:
        cache: the folder that `HF_HUB_CACHE` names.
        name: OWNER/NAME.
        source: a checkpoint or an adapter.
        number: of the commit, see `revision_of`.
        refs: branches and tags that point to it.

    Returns:
        The snapshot's directory.
    """
    model = cache / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / revision_of(number)
    blobs = model / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True)
    for file in source.iterdir():
        blob = blobs / f"{number}-{file.name}"
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    for ref in refs:
        place = model / "refs" / ref
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(revision_of(number))
    return snapshot
