"""The sets of an evaluation, each with the detector that judges it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hcnr.benchmarks.loading import LoadedSets
from hcnr.benchmarks.questions import Question
from hcnr.config import EvaluateConfig
from hcnr.detectors import Detector, open_detector
from hcnr.detectors.traits import Trait
from hcnr.errors import ConfigError, DataError
from hcnr.evaluation.metrics import outcomes
from hcnr.evaluation.scoring import SetScores

SHARE = 12
"""Every point of the search is asked one question in so many: eleven points, one evaluation."""
FEWEST = 8
"""Questions of each set and class that a point is asked at least, where there are as many."""
# Its own code compares without lower-casing.
CASE_SENSITIVE = ("refunq",)


@dataclass(frozen=True)
class QuestionSets:
    """Sets, detectors and how to count.

    Attributes:
        honesty: questions by honesty set.
        tasks: questions by task set.
        detectors: detector by set.
        common: the trait's own detector where some set is judged by another; else None.
        compat: count as the benchmarks' own code does.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        notes: what a reader of the numbers should know.
    """

    honesty: dict[str, tuple[Question, ...]]
    tasks: dict[str, tuple[Question, ...]]
    detectors: dict[str, Detector]
    common: Detector | None
    compat: bool
    resamples: int
    seed: int
    notes: list[str] = field(default_factory=list)

    @property
    def sets(self) -> dict[str, tuple[Question, ...]]:
        """All sets, the honesty sets first."""
        return {**self.honesty, **self.tasks}

    def score(
        self,
        responses: Mapping[str, Sequence[str]],
        calibration: Mapping[str, dict[str, Any]] | None = None,
    ) -> SetScores:
        """Score responses `[n]` by set, each set by its own detector."""
        return self._score(responses, self.detectors.__getitem__, calibration or {})

    def score_common(self, responses: Mapping[str, Sequence[str]]) -> SetScores | None:
        """The same by one detector for all sets; None where that is what `score` does."""
        common = self.common
        return None if common is None else self._score(responses, lambda _: common, {})

    def _score(
        self,
        responses: Mapping[str, Sequence[str]],
        detector: Callable[[str], Detector],
        calibration: Mapping[str, dict[str, Any]],
    ) -> SetScores:
        by_set = {
            name: outcomes(
                questions,
                responses[name],
                detector(name),
                case_sensitive=self.compat and name in CASE_SENSITIVE,
                plain=not self.compat,
            )
            for name, questions in self.sets.items()
        }
        return SetScores(
            {name: by_set[name] for name in self.honesty},
            {name: by_set[name] for name in self.tasks},
            self.resamples,
            self.seed,
            calibration,
        )


def make_question_sets(
    honesty: Mapping[str, tuple[Question, ...]],
    tasks: Mapping[str, tuple[Question, ...]],
    wanted: Mapping[str, str],
    trait: Trait,
    settings: EvaluateConfig,
) -> QuestionSets:
    """Choose and open the detectors.

    A set is judged by the detector of `settings` where they have one; else, for honesty, by the one
    it names in `wanted`, where `selfaware` counts only if an encoder is given; else by the trait's.

    Raises:
        ConfigError: a detector is unknown, or no set uses the encoder.
        DataError: there are no sets, or one holds what it must not.
        ModelError: the encoder is not available.
    """
    detector, encoder = settings.detector, settings.encoder
    if not honesty and not tasks:
        raise DataError("there is nothing to evaluate; name benchmarks, tasks, or a jsonl file")
    for name, questions in {**honesty, **tasks}.items():
        if not questions:
            raise DataError(f"the set {name} has no questions, expected at least one")
    for name, questions in tasks.items():
        odd = next((question for question in questions if not question.answerable), None)
        if odd is not None:
            raise DataError(
                f"the task {name} holds the unanswerable question {odd.id!r}; a task has only "
                "answerable ones, so name this set under benchmarks"
            )
    options: dict[str, Any] = {"strict": settings.strict, "compat": settings.compat}
    opened: dict[str, Detector] = {}
    notes: list[str] = []
    chosen: dict[str, Detector] = {}
    fallen = []
    for name in (*honesty, *tasks):
        kind = detector or (
            wanted.get(name, trait.detector) if trait.name == "honesty" else trait.detector
        )
        if detector is None and kind == "selfaware" and encoder is None:
            kind = trait.detector
            fallen.append(name)
        if kind not in opened:
            which = trait if kind == trait.detector else kind
            opened[kind] = open_detector(
                which, encoder=encoder, pooling=settings.pooling, **options
            )
        chosen[name] = opened[kind]
    if encoder is not None and "selfaware" not in opened:
        raise ConfigError(
            "an encoder was given and no set is judged by the detector selfaware, the only one "
            "that uses it; leave the encoder out or choose the detector selfaware"
        )
    if fallen:
        notes.append(
            f"{', '.join(fallen)}: judged by {trait.detector}, the column common to all sets; pass "
            "a sentence encoder for the detector that the set came with."
        )
    notes.extend(judge.note for judge in opened.values() if judge.note)
    own = open_detector(trait, **options)
    common = own if any(judge.name != own.name for judge in chosen.values()) else None
    return QuestionSets(
        dict(honesty), dict(tasks), chosen, common, settings.compat, settings.resamples,
        settings.seed, notes,
    )  # fmt: skip


def question_sets_of(sets: LoadedSets, trait: Trait, settings: EvaluateConfig) -> QuestionSets:
    """The sets that were loaded, each with the detector it came with, see `make_question_sets`."""
    return make_question_sets(
        {name: one.questions for name, one in sets.honesty.items()},
        {name: one.questions for name, one in sets.tasks.items()},
        {name: one.detector for name, one in sets.all.items()},
        trait,
        settings,
    )


def few_questions(question_sets: QuestionSets) -> QuestionSets:
    """A twelfth of every set and class, always the same; all where that saves less than half."""

    def some(questions: Sequence[Any]) -> tuple[Any, ...]:
        kept: set[str] = set()
        for answerable in (False, True):
            alike = [question for question in questions if question.answerable is answerable]
            # Files may be sorted, and hashes are mixed.
            alike.sort(key=lambda one: hashlib.sha256(f"{one.id} {one.question}".encode()).digest())
            most = max(FEWEST, len(alike) // SHARE)
            kept.update(one.id for one in alike[:most])
        return tuple(question for question in questions if question.id in kept)

    few = replace(
        question_sets,
        honesty={name: some(questions) for name, questions in question_sets.honesty.items()},
        tasks={name: some(questions) for name, questions in question_sets.tasks.items()},
    )
    return few if 2 * count(few) < count(question_sets) else question_sets


def restricted(
    whole: QuestionSets, few: QuestionSets, responses: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """The responses to the few questions."""
    few_responses = {}
    for name, questions in few.sets.items():
        by_id = {one.id: said for one, said in zip(whole.sets[name], responses[name], strict=True)}
        few_responses[name] = [by_id[question.id] for question in questions]
    return few_responses


def count(question_sets: QuestionSets) -> int:
    """How many questions there are in all sets."""
    return sum(map(len, question_sets.sets.values()))
