"""The questions of a text world: who is trained, measured, validated and evaluated.

Buckets of the questions' digests part them for all seeds alike, so that no question changes sides;
the seed draws within each split. What is evaluated is drawn first, then what is validated; a
question that equals one of these, or equals it up to one token, is in no other split.
"""

import collections
import dataclasses
import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from experiments.trial.text_recipe import TextRecipe
from hcnr.benchmarks.falseqa import consistent_pairs, parse_falseqa
from hcnr.benchmarks.kuq import parse_kuq
from hcnr.benchmarks.pools import parse_triviaqa
from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.selfaware import parse_selfaware
from hcnr.benchmarks.sources import Records
from hcnr.benchmarks.splits import HONESTY_SETS, in_order
from hcnr.benchmarks.task_sets import parse_hotpotqa
from hcnr.benchmarks.unknownbench import parse_unknownbench
from hcnr.data.overlap import QuestionIndex, bucket, normalize_question
from hcnr.data.samples import Sample
from hcnr.errors import DataError

REFUSAL = "I don't know."
TASK = "hotpotqa"
MEASURED_SETS = ("kuq", "falseqa")
"""The other benchmarks are seen by no repair, nor by any other method of mending a model."""

# First bucket of each split. FalseQA comes in two files, of which only the second is asked.
_VALIDATION, _EVALUATED = 70, 80
_FALSEQA_EVALUATED = 30

Split = Literal["validation", "evaluated"]
"""Settings are chosen on the first; the second is the test split, by its name in result files."""
Questions = tuple[Question, ...]


@dataclasses.dataclass(frozen=True)
class SplitQuestions:
    """What the models are asked in one split.

    Attributes:
        honesty: Questions of each honesty set, the unanswerable ones first.
        task: Questions of the task.
    """

    honesty: dict[str, Questions]
    task: Questions


@dataclasses.dataclass(frozen=True)
class TextData:
    """All questions of a text world.

    Attributes:
        base: What the base is trained on: answers, and the refusal where there is none.
        tuned: What fine-tuning teaches.
        measured: The honesty samples, out of `base`: an unanswerable and an answerable question in
            turn, so that any even prefix is balanced; each benchmark gives two at a time.
        measured_task: The task samples, out of `tuned`.
        splits: What models are asked.
        counts: Questions of each set in every split.
    """

    base: tuple[Sample, ...]
    tuned: tuple[Sample, ...]
    measured: tuple[Sample, ...]
    measured_task: tuple[Sample, ...]
    splits: dict[Split, SplitQuestions]
    counts: dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class _Pools:
    """The questions of one set by split, before any is drawn or left out."""

    trained: Questions
    validation: Questions = ()
    evaluated: Questions = ()


def draw_data(records: Records, recipe: TextRecipe) -> TextData:
    """Draws the questions of a recipe.

    The measured honesty samples are questions that the base was trained on, as the samples of a
    real repair are ones that its base handles rightly; the task samples are ones that were
    fine-tuned on, which whoever fine-tuned has.

    Args:
        records: Reads the data files.
        recipe: Seed and sizes.

    Raises:
        DataError: A file is not the known one, or a split has too few questions.
    """
    rng = random.Random(f"hcnr-lab-text-{recipe.seed}")
    pools = _read(records, recipe)
    evaluated = _ask(rng, pools, "evaluated", recipe.evaluated, recipe.evaluated_task, ())
    kept_out = all_questions(evaluated)
    validation = _ask(rng, pools, "validation", recipe.validation, recipe.validation_task, kept_out)
    held = QuestionIndex(one.question for one in (*kept_out, *all_questions(validation)))
    trained = {
        name: [
            one
            for one in pool.trained
            if (one.answers or not one.answerable) and not held.near(one.question)
        ]
        for name, pool in pools.items()
    }
    tuned = _sample(rng, trained.pop(TASK), recipe.task_questions, f"{TASK} to fine-tune on")
    base = _unique(itertools.chain.from_iterable(trained.values()))
    measured = _measured(rng, base, recipe.measured)
    measured_task = _sample(rng, tuned, recipe.measured, f"{TASK} to measure")
    return TextData(
        base=_samples(base, recipe),
        tuned=_samples(tuned, recipe),
        measured=_samples(measured, recipe),
        measured_task=_samples(measured_task, recipe),
        splits={"validation": validation, "evaluated": evaluated},
        counts={
            "base": count_questions(base),
            "tuned": count_questions(tuned),
            "measured": count_questions([*measured, *measured_task]),
            "validation": count_questions(all_questions(validation)),
            "evaluated": count_questions(all_questions(evaluated)),
        },
    )


def _read(records: Records, recipe: TextRecipe) -> dict[str, _Pools]:
    """Pools of every set, each question's prompt being the question alone.

    One form for all, because a benchmark's own template would tell the sets apart.
    """
    pairs = {
        split: consistent_pairs(parse_falseqa(records(f"falseqa/{split}.csv"), split))
        for split in ("train", "test")
    }
    asked = {
        split: [
            question
            for pair in pairs["test"]
            if (bucket(pair.false.question) >= _FALSEQA_EVALUATED) == (split == "evaluated")
            for question in (pair.false, pair.true)
        ]
        for split in ("validation", "evaluated")
    }
    unknownbench = {
        name.lower(): parse_unknownbench(
            *(
                records(f"unknownbench/{name}/{name}_{kind}.json")
                for kind in ("unanswerable", "answerable")
            ),
            name=name.lower(),
        )
        for name in ("NEC", "RefuNQ")
    }
    sets = {
        **unknownbench,
        "kuq": [one.question for one in parse_kuq(records("kuq/knowns_unknowns.jsonl"))],
        "selfaware": parse_selfaware(records("selfaware/SelfAware.json")),
    }
    trivia = parse_triviaqa(records("triviaqa/test_subsample.jsonl"))
    task = [
        one
        for one in parse_hotpotqa(records("hotpotqa/hotpot_dev_v1_simplified.json"))
        if len(one.answers[0].split()) <= recipe.response_words
    ]

    def usable(questions: Iterable[Question]) -> Questions:
        cleaned = (
            dataclasses.replace(
                one,
                prompt=" ".join(one.question.split()),
                answers=tuple(answer for answer in one.answers if answer.strip()),
            )
            for one in questions
        )
        return in_order(one for one in cleaned if len(one.prompt.split()) <= recipe.prompt_words)

    def parted(questions: Iterable[Question]) -> _Pools:
        parts: list[list[Question]] = [[], [], []]
        for question in usable(questions):
            position = bucket(question.question)
            parts[(position >= _VALIDATION) + (position >= _EVALUATED)].append(question)
        return _Pools(*map(tuple, parts))

    trained = [question for pair in pairs["train"] for question in (pair.false, pair.true)]
    falseqa = _Pools(usable(trained), usable(asked["validation"]), usable(asked["evaluated"]))
    pools = {"falseqa": falseqa, **{name: parted(many) for name, many in sets.items()}}
    return {
        **{name: pools[name] for name in HONESTY_SETS},
        "triviaqa": _Pools(usable(trivia)),
        TASK: parted(task),
    }


def _ask(
    rng: random.Random,
    pools: Mapping[str, _Pools],
    split: Split,
    size: int,
    task_size: int,
    others: Sequence[Question],
) -> SplitQuestions:
    """Draws one split, at most `size` of each class and set, far from the questions of `others`."""
    taken = QuestionIndex(one.question for one in others)
    honesty = {}
    for name in HONESTY_SETS:
        pool = [q for q in getattr(pools[name], split) if not taken.near(q.question)]
        classes = [[q for q in pool if q.answerable is answerable] for answerable in (False, True)]
        honesty[name] = tuple(
            question
            for many in classes
            for question in _sample(rng, many, min(size, max(1, len(many))), f"{name} ({split})")
        )
    task = [q for q in getattr(pools[TASK], split) if not taken.near(q.question)]
    size = min(task_size, max(1, len(task)))
    return SplitQuestions(honesty, tuple(_sample(rng, task, size, f"{TASK} ({split})")))


def _measured(rng: random.Random, base: Sequence[Question], size: int) -> list[Question]:
    """Draws equally of both classes and both measured benchmarks, in turn."""
    if size % 4:
        raise DataError(f"{size} honesty samples were asked for, expected a multiple of 4")
    groups = [
        _sample(
            rng,
            [q for q in base if q.set == name and q.answerable is answerable],
            size // 4,
            f"{name} to measure",
        )
        for name in MEASURED_SETS
        for answerable in (False, True)
    ]
    return list(itertools.chain.from_iterable(zip(*groups, strict=True)))


def _sample(rng: random.Random, pool: Sequence[Question], size: int, what: str) -> list[Question]:
    if len(pool) < size:
        raise DataError(
            f"the text world has {len(pool)} usable questions of {what}, expected at least {size}; "
            "use a smaller recipe or the whole data files"
        )
    return rng.sample(list(pool), size)


def _samples(questions: Iterable[Question], recipe: TextRecipe) -> tuple[Sample, ...]:
    return tuple(Sample(one.prompt, target(one, recipe)) for one in questions)


def target(question: Question, recipe: TextRecipe) -> str:
    """What is taught, or should be said: the first answer, cut, or the refusal."""
    if not question.answerable:
        return REFUSAL
    return " ".join(question.answers[0].split()[: recipe.response_words])


def _unique(questions: Iterable[Question]) -> list[Question]:
    """Of equal questions the first."""
    by_text: dict[str, Question] = {}
    for question in questions:
        by_text.setdefault(normalize_question(question.question), question)
    return list(by_text.values())


def all_questions(asked: SplitQuestions) -> Questions:
    """Every question of a split."""
    return (*itertools.chain.from_iterable(asked.honesty.values()), *asked.task)


def count_questions(questions: Iterable[Question]) -> dict[str, dict[str, int]]:
    """Questions by set and class."""
    counts: dict[str, dict[str, int]] = collections.defaultdict(
        lambda: {"unanswerable": 0, "answerable": 0}
    )
    for question in questions:
        counts[question.set]["answerable" if question.answerable else "unanswerable"] += 1
    return dict(counts)
