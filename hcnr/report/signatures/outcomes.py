"""What a check of a run's numbers found."""

from dataclasses import dataclass

Outcome = tuple[str, str] | str | bool | None
"""What was found and what to do; False where all is well, True, or the reason as a sentence, where
nothing can be said; None where the check is not about this run."""
UNKNOWN = True
FINE = False

HIGHEST_CONDITION = 1e6
"""Condition at which a factorisation in float32 (7 digits) keeps about one digit."""


@dataclass(frozen=True)
class Signature:
    """One check and its outcome.

    Attributes:
        key: short name.
        title: what goes wrong where it fires.
        state: `fired`, `fine`, or `unknown` where the numbers are missing.
        finding: what was found, a sentence, or why nothing can be said; otherwise empty.
        advice: what to do, a sentence or two; empty unless it fired.
    """

    key: str
    title: str
    state: str
    finding: str = ""
    advice: str = ""
