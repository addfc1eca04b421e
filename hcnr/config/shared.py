"""Settings that several configurations have: declared here, listed by each in its own order."""

from hcnr.detectors.built_in import spelled
from hcnr.settings import setting

LARGEST_SEED = 2**32 - 1
DEVICE = r"^[a-z]+(:[0-9]+)?$"
"""A torch device by name."""
DEVICE_WORDS = "auto or a torch device such as cpu, cuda or cuda:1"
BATCH_SIZE = 32
MAX_NEW_TOKENS = 64
RESAMPLES = 2000
"""Of the bootstrap."""
MAX_ACCURACY_DROP = 2.0
"""Points of task accuracy that a repair may lose: the limit of method.md, section 6, by default."""

QUESTIONS, JUDGING, WEIGHTS = "Questions", "Judging", "Weights"
"""Groups: how questions are put, how answers are judged, what only weights that are here can do."""

ACCURACY_DROP_WORDS = "points of task accuracy, at least 0"

LIMIT = setting(None, QUESTIONS, "Questions of each set at most; all by default.", ge=1)
DATA_ROOT = setting(
    None,
    QUESTIONS,
    "Directory of the published sets; else $HCNR_DATA_ROOT.",
    expected="a directory, or null",
)
DETECTOR = setting(
    None,
    JUDGING,
    f"Refusal detector for every set, in place of each set's own: {', '.join(spelled())}, or one "
    "that an installed package registers.",
    expected="the name of a refusal detector, or null",
)
BATCH = setting(
    BATCH_SIZE,
    QUESTIONS,
    "Questions at once; halved where memory runs out.",
    more="Of an endpoint: requests at once.",
    ge=1,
)
NEW_TOKENS = setting(MAX_NEW_TOKENS, QUESTIONS, "Most tokens of an answer.", ge=1)
