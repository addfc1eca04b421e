"""Several processes of one run, as `torchrun` starts them: shares of samples, sums over all.

Every process takes the same steps; passes over samples are shared, and what they sum up is added.
Process 0 leads: it alone prints, and puts in its place what all have written. Without `started`, as
in every call from Python and in a single process, all of it does nothing: what is asked for comes
back as it went in.
"""

from hcnr.ranks.exchange import (
    agreed,
    counted,
    decided,
    gathered,
    handed_out,
    merged,
    refuse_different,
    summed,
)
from hcnr.ranks.group import alone, leads, owns, rank, share, size
from hcnr.ranks.launcher import asked, by_itself, first, refuse_several
from hcnr.ranks.meeting import speaks, started

__all__ = [
    "agreed",
    "alone",
    "asked",
    "by_itself",
    "counted",
    "decided",
    "first",
    "gathered",
    "handed_out",
    "leads",
    "merged",
    "owns",
    "rank",
    "refuse_different",
    "refuse_several",
    "share",
    "size",
    "speaks",
    "started",
    "summed",
]
