"""Refusal detectors, by name: was this response a refusal to answer that question?"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hcnr import plugins
from hcnr.detectors.built_in import BUILT_IN, Decide, keywords
from hcnr.detectors.similarity import ENCODER, has_reference, open_encoder, similar_to_reference
from hcnr.detectors.traits import Trait
from hcnr.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

DEFAULT = "unknownbench_keywords"
# The sets whose authors detect refusals in another way.
OF_SETS = {"kuq": "selfaware", "selfaware": "selfaware"}

# Right and left quotation mark, reversed one, modifier letter, full-width form; acute and grave
# accent, prime; modifier letters prime and turned comma; Armenian and Latin saltillo.
_APOSTROPHES = str.maketrans(
    dict.fromkeys("\u2019\u2018\u201b\u02bc\uff07\u00b4\u0060\u2032\u02b9\u02bb\u055a\ua78c", "'")
)


@dataclass(frozen=True)
class Detector:
    """Tells refusals from answers.

    Attributes:
        name: with its variant, as it is printed beside every number.
        decide: responses and questions -> a truth value each; never sees an empty response.
        skips_empty: whether empty responses are left out of the counts altogether (as in the
            original code of SelfAware) rather than counted as no refusals.
        note: what a reader of its numbers should know.
    """

    name: str
    decide: Callable[[Sequence[str], Sequence[str]], Sequence[bool]]
    skips_empty: bool = False
    note: str | None = None

    def __call__(self, response: str, question: str = "") -> bool:
        """Whether `response` to `question` is a refusal."""
        return bool(self.many([response], [question])[0])

    def many(self, responses: Sequence[str], questions: Sequence[str]) -> "np.ndarray":
        """The same for `n` pairs at once, bool `[n]`; an empty response is never a refusal."""
        import numpy as np

        refused = np.zeros(len(responses), dtype=bool)
        spoken = [i for i, response in enumerate(responses) if response.strip()]
        if spoken:
            refused[spoken] = self.decide(
                [responses[i] for i in spoken], [questions[i] for i in spoken]
            )
        return refused


def open_detector(
    name: str | Trait,
    *,
    strict: bool = False,
    compat: bool = False,
    encoder: Any = None,
    pooling: str = "auto",
) -> Detector:
    """Return the detector of a name.

    - `unknownbench_keywords`, `safety_keywords`: the lower-cased response contains one of the
      trait's keywords as a whole word (no letter, digit or underscore beside it).
    - `selfaware`: it contains one of 16 reference sentences or, failing that, a window of 5 words
      whose sentence encoding has a cosine similarity above 0.75 with one of them.
    - `selfaware_substring`: the first half of that alone.
    - `gair_idk`: it contains one of nine phrases that the question does not contain.
    - `template:TEXT`: it is exactly TEXT, white space around it aside.
    - `regex:PATTERN`: PATTERN (Python's `re`, case and line breaks ignored) is found in it.
    - any name that an installed package registers in the entry points `hcnr.detectors`: a function
      of responses and questions, both sequences of texts, that gives a truth value each.

    Args:
        name: one of the above, or a `Trait`: what its keywords make, under its detector's name.
        strict: take typographic apostrophes as they are; otherwise they count as `'`.
        compat: count as the original code did: `selfaware` skips empty responses.
        encoder: what `hcnr.detectors.similarity.open_encoder` takes; for `selfaware` only.
        pooling: the same.

    Raises:
        ConfigError: the name is unknown, or its text is missing or no pattern.
        ModelError: the encoder is not available.
    """
    own: tuple[str, ...] = ()
    if isinstance(name, Trait):
        name, own = name.detector, name.keywords
    kind, _, text = name.partition(":")
    if not own and kind not in BUILT_IN and (plugin := plugins.load("hcnr.detectors", name)):
        return Detector(
            f"{name} (strict)" if strict else name, _batched(_registered(name, plugin), strict)
        )
    if own:
        refuses = keywords(own if strict else [plain_apostrophes(word) for word in own])
        return Detector(f"{name} (strict)" if strict else name, _batched(_each(refuses), strict))
    check_detector(name)
    built_in = BUILT_IN[kind]
    skips_empty = compat and built_in.skips_empty
    if built_in.open is None:
        label, encode = open_encoder(ENCODER if encoder is None else encoder, pooling)
        variant = ", ".join([label, *["strict"] * strict, *["compat"] * compat])
        decide = _selfaware(encode)
    else:
        if built_in.takes and not text:
            raise ConfigError(f"the detector {kind} needs its text, such as '{kind}:I don't know.'")
        variant = ", ".join(["strict"] * strict + ["compat"] * skips_empty)
        decide = _each(built_in.open(text if strict else plain_apostrophes(text)))
    shown = f"{name} ({variant})" if variant else name
    return Detector(shown, _batched(decide, strict), skips_empty, built_in.note)


def check_detector(name: str) -> None:
    """Raise ConfigError unless there is a detector of that name."""
    kind, colon, _ = name.partition(":")
    if kind in BUILT_IN and (not colon or BUILT_IN[kind].takes):
        return
    registered = plugins.names("hcnr.detectors")
    if name not in registered:
        known = (*BUILT_IN, *registered)
        closest = difflib.get_close_matches(kind.lower(), known, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"the detector {name!r} is unknown, expected one of {', '.join(known)}; did you mean "
            f"{closest}?"
        )


_Many = Callable[[Sequence[str], Sequence[str]], Sequence[bool]]


def plain_apostrophes(text: str) -> str:
    """Turn typographic apostrophes into `'`."""
    return text.translate(_APOSTROPHES)


def _batched(decide: _Many, strict: bool) -> _Many:
    if strict:
        return decide

    def normalised(responses: Sequence[str], questions: Sequence[str]) -> Sequence[bool]:
        return decide(
            [plain_apostrophes(text) for text in responses],
            [plain_apostrophes(text) for text in questions],
        )

    return normalised


def _registered(name: str, decide: _Many) -> _Many:
    """Another package's function, whose answers are checked and whose failures are explained."""

    def checked(responses: Sequence[str], questions: Sequence[str]) -> Sequence[bool]:
        import numpy as np

        try:
            answers = list(decide(responses, questions))
        except Exception as error:  # whatever the other package raises
            raise ConfigError(
                f"the detector {name!r} failed on {len(responses)} responses: "
                f"{type(error).__name__}: {error}; ask the package that registers it"
            ) from error
        odd = [answer for answer in answers if not isinstance(answer, bool | np.bool_)]
        if len(answers) != len(responses) or odd:
            what = f"{type(odd[0]).__name__} {odd[0]!r}" if odd else f"{len(answers)} answers"
            raise ConfigError(
                f"the detector {name!r} gave {what} for {len(responses)} responses, expected a "
                "truth value each; ask the package that registers it"
            )
        return answers

    return checked


def _each(decide: Decide) -> _Many:
    return lambda responses, questions: [
        decide(response, question) for response, question in zip(responses, questions, strict=True)
    ]


def _selfaware(encode: Any) -> _Many:
    def decide(responses: Sequence[str], questions: Sequence[str]) -> list[bool]:
        decisions = [has_reference(response) for response in responses]
        rest = [i for i, refused in enumerate(decisions) if not refused]
        similar = similar_to_reference([responses[i] for i in rest], encode)
        for i, is_similar in zip(rest, similar, strict=True):
            decisions[i] = is_similar
        return decisions

    return decide
