"""Which of the models of an evaluation is the run's tuned one, which its base."""

import re

from hcnr.record.files.evaluation import EvaluationRecord
from hcnr.record.files.restoration import PairRecord
from hcnr.record.names import stem

ROLES = ("tuned", "base")


def role_of(name: str, data: EvaluationRecord, pair: PairRecord, own: str | None) -> str | None:
    """Whether a model that the restored one was evaluated against is the run's tuned or base one.

    Fingerprints decide where the evaluation has them and they differ from the restored model's,
    names otherwise.
    """
    print_ = data.fingerprints.get(name)
    if not print_ or print_ in (own, data.fingerprints.get(data.model)):
        return named_role(name, pair)
    return next((role for role in ROLES if pair.fingerprints.get(role) == print_), None)


def named_role(name: str, pair: PairRecord) -> str | None:
    """Whether a name is that of the run's tuned or base model."""
    for role in ROLES:
        known = pair.fingerprints.get(role, "")
        label = label_of(stem(getattr(pair, role)))
        if name in (role, label, f"{label}-{known[:8]}"):
            return role
    return None


def label_of(name: str) -> str:
    """As an evaluation names a model that it is given by path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
