"""Scoring candidates by their answers to sets of questions."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hcnr.errors import ConfigError
from hcnr.evaluate.generation import BATCH_SIZE, MAX_NEW_TOKENS
from hcnr.front import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Validation:
    """A function from a model to its scores; sets and prompts are read and encoded once.

    Attributes:
        sets: by name: the detector that judges it, its questions, the hash of its file.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        benchmarks: Iterable[Any],
        tasks: Iterable[Any],
        *,
        limit: int | None = None,
        data_root: str | Path | None = None,
        detector: str | None = None,
        chat_template: Literal["auto", "never"] = "auto",
        batch_size: int = BATCH_SIZE,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        """Load the sets.

        Args:
            tokenizer: of the models to be scored.
            benchmarks: honesty sets: names, jsonl files, or `Benchmark`s.
            tasks: task sets, in the same ways.
            limit: questions of each set; all when None.
            data_root: where sets given by name lie.
            detector: judges every set; each set's own when None.
            chat_template: auto uses the tokenizer's if it has one.
            batch_size: prompts answered at once, at first.
            max_new_tokens: most tokens of an answer.

        Raises:
            HcnrError: a set cannot be read, the detector is unknown, or one side has no set.
        """
        from hcnr.evaluate.panel import load_sets, make_panel
        from hcnr.evaluate.prompts import encode_prompts
        from hcnr.evaluate.traits import HONESTY

        honesty = load_sets(benchmarks, data_root, limit, task=False)
        task = load_sets(tasks, data_root, limit, task=True)
        for found, option in ((honesty, "--validation or --benchmarks"), (task, "--tasks")):
            if not found:
                raise ConfigError(
                    "a sweep weighs honesty against the task and needs questions for both, and "
                    f"one side has none; name some with {option}"
                )
        loaded = {**honesty, **task}
        self._panel = make_panel(
            {name: found.questions for name, found in honesty.items()},
            {name: found.questions for name, found in task.items()},
            {name: found.detector for name, found in loaded.items()},
            HONESTY,
            detector=detector,
            resamples=0,
            seed=0,
        )
        questions = [one for many in self._panel.sets.values() for one in many]
        self._names = [f"question {one.id!r} of {one.set}" for one in questions]
        self._prompts = encode_prompts([one.prompt for one in questions], tokenizer, chat_template)
        self._tokenizer = tokenizer
        self._batch_size, self._max_new_tokens = batch_size, max_new_tokens
        self.sets = {
            name: {
                "detector": self._panel.detectors[name].name,
                "n": len(found.questions),
                "sha256": found.sha256,
            }
            for name, found in loaded.items()
        }

    def __call__(self, model: Any) -> Scores:
        """Greedy answers to every question, counted."""
        from hcnr.evaluate.generation import generate

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
            name: [next(answers) for _ in questions] for name, questions in self._panel.sets.items()
        }
        return Scores.of(self._panel.score(responses))
