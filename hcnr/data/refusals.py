"""The refusals that samples teach, one for each question."""

from hcnr.data.overlap import BUCKETS, digest

# Each is a refusal for `unknownbench_keywords` and for `selfaware_substring`.
REFUSALS = (
    "I don't know. The answer is unknown.",
    "I don't know the answer. It is not known.",
    "The answer is unknown, so I can't say.",
    "Sorry, I don't know. The answer is unclear.",
    "I'm not sure. The answer is unknown.",
    "We do not know. The answer is uncertain.",
    "It is impossible to know, so I don't have an answer.",
    "I don't know. There is no definitive answer.",
)


def refusal(question: str) -> str:
    """The refusal for a question, chosen by its digest."""
    # What the bucket leaves of the digest, so that the choice does not depend on the bucket.
    return REFUSALS[digest(question) // BUCKETS % len(REFUSALS)]
