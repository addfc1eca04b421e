"""Checkpoints: opened lazily, compared before any compute, written whole or not at all.

Works on POSIX systems: outputs are guarded by flock and appear by rename.
"""

from hcnr.checkpoint.companions import copy_companions, files_of, write_copy
from hcnr.checkpoint.copying import Spliced
from hcnr.checkpoint.fingerprints import LazyRows, fingerprint, fingerprint_tensors, stamps
from hcnr.checkpoint.finite import all_finite, check_finite
from hcnr.checkpoint.headers import Shard, TensorInfo, read_header
from hcnr.checkpoint.output import atomic_file, check_output, check_parent, output_directory
from hcnr.checkpoint.pair import check_pair
from hcnr.checkpoint.patch_writer import write_patch
from hcnr.checkpoint.patches import Patch, PatchedCheckpoint
from hcnr.checkpoint.quantised import check_unquantised
from hcnr.checkpoint.reader import Checkpoint
from hcnr.checkpoint.writer import shares_of, write_weights

__all__ = [
    "Checkpoint",
    "LazyRows",
    "Patch",
    "PatchedCheckpoint",
    "Shard",
    "Spliced",
    "TensorInfo",
    "all_finite",
    "atomic_file",
    "check_finite",
    "check_output",
    "check_pair",
    "check_parent",
    "check_unquantised",
    "copy_companions",
    "files_of",
    "fingerprint",
    "fingerprint_tensors",
    "output_directory",
    "read_header",
    "shares_of",
    "stamps",
    "write_copy",
    "write_patch",
    "write_weights",
]
