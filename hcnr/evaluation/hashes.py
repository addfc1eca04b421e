"""SHA-256 of all weights of a model: two models have the same only where every element is equal."""

import functools
import hashlib
import json
from pathlib import Path

from torch import nn

from hcnr.checkpoint.fingerprints import byte_view, file_digest
from hcnr.errors import CheckpointError
from hcnr.models.directory import DirectorySource
from hcnr.models.source import ModelSource, Source


def weights_sha256(source: Source) -> str:
    """SHA-256 of a source's weights: a directory's files, or a model's values.

    A file is read once per process unless it changes. The two kinds never give the same.

    Raises:
        CheckpointError: a file can no longer be read.
    """
    if isinstance(source, DirectorySource):
        digest = hashlib.sha256()
        for path in sorted(shard.file for shard in source.checkpoint.shards):
            try:
                about = path.stat()
                file_digest = _file_sha256(path.resolve(), about.st_size, about.st_mtime_ns)
            except OSError as error:
                raise CheckpointError(
                    f"{path} can no longer be read ({error.strerror}); check the checkpoint"
                ) from None
            digest.update(file_digest)
        return digest.hexdigest()
    assert isinstance(source, ModelSource)
    return model_sha256(source.model)


def model_sha256(model: nn.Module) -> str:
    """SHA-256 of the name, dtype, shape and bytes of every parameter and buffer."""
    digest = hashlib.sha256()
    weights = dict([*model.named_parameters(), *model.named_buffers()])
    for name, tensor in sorted(weights.items(), key=lambda item: item[0]):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(byte_view(tensor))
    return digest.hexdigest()


@functools.cache
def _file_sha256(path: Path, size: int, changed: int) -> bytes:
    """Digest of a file; `size` and `changed` are there so that another content is read again."""
    return file_digest(path)
