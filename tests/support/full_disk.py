"""A limit on the size of files, which is what a full disk looks like to whoever writes."""

import contextlib
import resource
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def limited(nbytes: int) -> Iterator[None]:
    """No file may grow beyond some bytes, as on a disk that has no more.

    Python keeps nothing that it compiles meanwhile: it would keep the beginning of a file.
    """
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    compiles, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        sys.dont_write_bytecode = compiles
