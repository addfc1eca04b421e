"""When two questions count as the same: normal form, digest, and equality up to one token."""

import hashlib
import re
from collections.abc import Iterable, Iterator

SALT = "hcnr-mini-v1:"
BUCKETS = 100
# In a shorter question one token is most of its meaning.
MIN_TOKENS = 6


def normalize_question(question: str) -> str:
    """Lower-case, with all but `a-z0-9` turned to spaces, and spaces collapsed and stripped."""
    return " ".join(re.sub("[^a-z0-9 ]", " ", question.lower()).split())


def digest(question: str) -> int:
    """SHA-256 of the salted normal form, an integer of 256 bits: decides splits and order."""
    return int(hashlib.sha256((SALT + normalize_question(question)).encode()).hexdigest(), 16)


def question_print(question: str) -> str:
    """First 16 hexadecimal digits of `digest`: tells equal questions without their text."""
    return f"{digest(question):064x}"[:16]


def bucket(question: str) -> int:
    """Bucket of a question, 0 to 99."""
    return digest(question) % BUCKETS


class QuestionIndex:
    """Questions that can be asked whether they hold a given one, or one that is nearly it."""

    def __init__(self, questions: Iterable[str]) -> None:
        """Index `questions`; memory grows with their number of tokens."""
        self._equal = {normalize_question(question) for question in questions}
        self._near = {pattern for question in self._equal for pattern in _patterns(question)}

    def __len__(self) -> int:
        return len(self._equal)

    def equal(self, question: str) -> bool:
        """Whether a question with the same normal form is here."""
        return normalize_question(question) in self._equal

    def near(self, question: str) -> bool:
        """Whether an equal one is here, or one that is equal after replacing one token.

        The latter counts for questions of at least 6 tokens.
        """
        normal = normalize_question(question)
        return normal in self._equal or not self._near.isdisjoint(_patterns(normal))


def _patterns(normal: str) -> Iterator[str]:
    """Yield a normal form with each token in turn replaced by `*`.

    Two questions of equal length share a pattern exactly if they differ in at most one token: no
    pair of questions needs to be compared.
    """
    tokens = normal.split()
    if len(tokens) >= MIN_TOKENS:
        for i in range(len(tokens)):
            yield " ".join((*tokens[:i], "*", *tokens[i + 1 :]))
