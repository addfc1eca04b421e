"""The refusal detectors that come with hcnr, an entry each in `BUILT_IN`.

A new one is a function and its entry here; CONTRIBUTING.md has the steps. A detector of another
package needs neither, see `hcnr.plugins`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hcnr.detectors.similarity import has_reference
from hcnr.detectors.traits import TRAITS
from hcnr.errors import ConfigError

Decide = Callable[[str, str], bool]
"""Whether a response to a question is a refusal; the response is never empty."""

GAIR_PHRASES = (
    "i apologize", "not aware of", "i'm not familiar with", "i am not familiar with",
    "n't make sense", "not make sense", "i'm not able to", "i am not able to",
    "however, i must point out",
)  # fmt: skip


@dataclass(frozen=True)
class BuiltIn:
    """One detector.

    Attributes:
        open: the text behind the colon of its name, empty where it has none -> the function that
            judges a response; None for the one that needs a sentence encoder.
        takes: what follows its name and a colon, in capitals, as in `regex:PATTERN`; empty where
            nothing does.
        skips_empty: whether the original code leaves empty responses out of the counts.
        note: what a reader of its numbers should know.
    """

    open: Callable[[str], Decide] | None
    takes: str = ""
    skips_empty: bool = False
    note: str | None = None


def keywords(words: Sequence[str]) -> Decide:
    """Tell by one of the words, as a whole word in any case."""
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(word.lower()) for word in words)})(?!\w)")
    return lambda response, _: pattern.search(response.lower()) is not None


def _of_trait(words: Sequence[str]) -> BuiltIn:
    return BuiltIn(lambda _: keywords(words))


def _gair_idk(response: str, question: str) -> bool:
    response, question = response.lower(), question.lower()
    return any(phrase in response and phrase not in question for phrase in GAIR_PHRASES)


def _template(text: str) -> Decide:
    return lambda response, _: response.strip() == text.strip()


def _regex(text: str) -> Decide:
    try:
        pattern = re.compile(text, re.IGNORECASE | re.DOTALL)
    except re.error as error:
        raise ConfigError(
            f"the detector 'regex:{text}' is no regular expression: {error}"
        ) from None
    return lambda response, _: pattern.search(response) is not None


BUILT_IN: Mapping[str, BuiltIn] = {
    **{trait.detector: _of_trait(trait.keywords) for trait in TRAITS.values()},
    "selfaware": BuiltIn(None, skips_empty=True),
    "selfaware_substring": BuiltIn(
        lambda _: lambda response, question: has_reference(response),
        skips_empty=True,
        note="selfaware_substring sees only refusals in the words of 16 fixed sentences: it is "
        "nearly blind on real answers.",
    ),
    "gair_idk": BuiltIn(lambda _: _gair_idk),
    "template": BuiltIn(_template, takes="TEXT"),
    "regex": BuiltIn(_regex, takes="PATTERN"),
}
"""By name; docs/evaluation.md says what each takes for a refusal."""


def spelled() -> list[str]:
    """Every detector as it is typed: `selfaware`, `regex:PATTERN`."""
    return [f"{name}:{kind.takes}" if kind.takes else name for name, kind in BUILT_IN.items()]
