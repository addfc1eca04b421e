"""Scoring candidates by their answers to sets of questions."""

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from hcnr.choosing.front import Scores
from hcnr.config import EvaluateConfig, SweepConfig
from hcnr.data.starter import STARTER, VALIDATION
from hcnr.errors import ConfigError, DataError
from hcnr.models.limits import Limits, check_room

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    from hcnr.benchmarks.questions import Benchmark


class Validation:
    """A function from a model to its scores; sets and prompts are read and encoded once.

    Attributes:
        sets: by name: the detector that judges it, its questions, the hash of its file.
        settings: what else the answers depend on.
        notes: what a reader of the scores should know.
        sha256: of the questions as they are asked, and all else that the answers depend on.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        benchmarks: Iterable[Any],
        tasks: Iterable[Any],
        settings: SweepConfig,
        *,
        chat_template: Literal["auto", "never"] = "auto",
        limits: Limits = Limits(None, None),  # noqa: B008 (a frozen value)
    ) -> None:
        """Load the sets.

        Args:
            tokenizer: of the models to be scored.
            benchmarks: honesty sets: names, jsonl files, or `Benchmark`s.
            tasks: task sets, in the same ways.
            settings: how the questions are put and the answers judged.
            chat_template: auto uses the tokenizer's if it has one.
            limits: what the models can read.

        Raises:
            HcnrError: a set cannot be read or is named on both sides, the detector is unknown, one
                side has no set, no honesty set has both answerable and unanswerable questions, or
                a prompt leaves no room for an answer or has a token that the models do not.
        """
        from hcnr.benchmarks.loading import LoadedSets
        from hcnr.detectors.traits import HONESTY
        from hcnr.evaluation.prompts import encode_prompts
        from hcnr.evaluation.question_sets import question_sets_of

        sets = LoadedSets.load(benchmarks, tasks, settings.data_root, settings.limit)
        for loaded_set, option in (
            (sets.honesty, "--validation or --benchmarks"),
            (sets.tasks, "--tasks"),
        ):
            if not loaded_set:
                raise ConfigError(
                    "a sweep weighs honesty against the task and needs questions for both, and "
                    f"one side has none; name some with {option}"
                )
        check_classes(sets.honesty)
        loaded = sets.all
        self._question_sets = question_sets_of(
            sets, HONESTY, EvaluateConfig(detector=settings.detector)
        )
        questions = [one for many in self._question_sets.sets.values() for one in many]
        self._names = [f"question {question.id!r} of {question.set}" for question in questions]
        self._prompts = encode_prompts(
            [question.asked for question in questions], tokenizer, chat_template
        )
        check_room(
            dict(zip(self._names, self._prompts, strict=True)), settings.max_new_tokens, limits
        )
        self._tokenizer = tokenizer
        self._batch_size, self._max_new_tokens = settings.batch_size, settings.max_new_tokens
        self.sets = {
            name: {
                "detector": self._question_sets.detectors[name].name,
                "n": len(loaded_set.questions),
                "sha256": loaded_set.sha256,
            }
            for name, loaded_set in loaded.items()
        }
        self.settings = {
            "limit": settings.limit,
            "detector": settings.detector,
            "max_new_tokens": settings.max_new_tokens,
            "chat_template": chat_template,
        }
        asked = [self.sets, self.settings, self._batch_size, self._names, self._prompts]
        self.sha256 = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        self._silent = self._question_sets.score(
            {n: [""] * len(q) for n, q in self._question_sets.sets.items()}
        )
        notes = sets.notes
        if STARTER in loaded:
            notes.append(
                f"{STARTER} are the questions to judge by: choose the setting by {VALIDATION}, and "
                "keep them for hcnr evaluate."
            )
        self.notes = [*notes, *self._question_sets.notes, *self._silent.notes()]

    def refuse_all(self) -> Scores:
        """What refusing every question would score."""
        return Scores.of(self._silent.refuse_all())

    def repeated(self, prompts: Iterable[str]) -> int:
        """How many questions are among `prompts`, apart from case and punctuation."""
        from hcnr.data.overlap import normalize_question

        known = {normalize_question(prompt) for prompt in prompts}
        return sum(
            not known.isdisjoint(map(normalize_question, (one.question, one.prompt)))
            for many in self._question_sets.sets.values()
            for one in many
        )

    def __call__(self, model: Any) -> Scores:
        """Greedy answers to every question, counted, and counted again over their resamples."""
        from hcnr.evaluation.generation import generate

        answers = iter(
            generate(
                model,
                self._tokenizer,
                self._prompts,
                batch_size=self._batch_size,
                max_new_tokens=self._max_new_tokens,
                names=self._names,
            )
        )
        responses = {
            name: [next(answers) for _ in questions]
            for name, questions in self._question_sets.sets.items()
        }
        return Scores.of(self._question_sets.score(responses))


def check_classes(honesty: "Mapping[str, Benchmark]", what: str = "a sweep") -> None:
    """Refuse questions of one kind: no refusal delta is defined on them.

    Args:
        honesty: sets by name.
        what: asks them, for the message.

    Raises:
        DataError: no set has both kinds.
    """
    kinds = [
        [question.answerable for question in benchmark.questions] for benchmark in honesty.values()
    ]
    if not any(len(set(kind)) == 2 for kind in kinds):
        counts = ", ".join(
            f"{name} has {sum(kind)} answerable and {len(kind) - sum(kind)} unanswerable"
            for name, kind in zip(honesty, kinds, strict=True)
        )
        raise DataError(
            f"{what} weighs refusals of unanswerable questions against those of answerable ones, "
            f"expected a set with both, but {counts}; add the missing kind or raise --limit"
        )
