"""The questions of a real pair, drawn from the replication's splits (`hcnr.benchmarks.splits`).

Those splits keep every training question away from every evaluation question. Of the evaluation
questions, buckets of their digests part validation from test for all seeds alike (both halves of a
FalseQA pair on one side); the seed draws within each split. All sets are asked in one form, the
question alone, because a benchmark's own instruction would tell the sets apart.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Sequence

from experiments.trial.real_recipe import RealRecipe
from experiments.trial.text_data import Split, SplitQuestions, all_questions, count_questions
from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.sources import Records
from hcnr.benchmarks.splits import HONESTY_SETS, Splits
from hcnr.benchmarks.templates import TEMPLATES
from hcnr.data.overlap import BUCKETS, digest
from hcnr.data.refusals import refusal
from hcnr.data.samples import Sample
from hcnr.detectors import open_detector
from hcnr.errors import DataError

_VALIDATION_BUCKETS = 35
INSTRUCTION = TEMPLATES["unknownbench"].removesuffix("{question}")
"""Stands before every question of a pair."""


@dataclasses.dataclass(frozen=True)
class RealData:
    """All questions of a real pair.

    Attributes:
        base: what the base is trained on: answers, and refusals where there is none.
        tuned: what fine-tuning teaches.
        honesty: honesty samples out of `base`: an unanswerable and an answerable question in
            turn, from KUQ and FalseQA in turn, so that every multiple of four is balanced.
        task: task samples out of `tuned`.
        splits: what models are asked.
        admission: by honesty set, the questions that tell which sets base tells apart; the same
            for all seeds and tasks.
        counts: questions of each set and class in every split.
    """

    base: tuple[Sample, ...]
    tuned: tuple[Sample, ...]
    honesty: tuple[Sample, ...]
    task: tuple[Sample, ...]
    splits: dict[Split, SplitQuestions]
    admission: dict[str, tuple[Question, ...]]
    counts: dict[str, dict[str, dict[str, int]]]


def draw_real_data(records: Records, recipe: RealRecipe) -> RealData:
    """Draw the questions of a recipe.

    Args:
        records: reads the data files.
        recipe: task, seed and sizes.

    Raises:
        DataError: a file is not the known one, or there are too few questions.
    """
    splits = Splits(records)
    # One base for all seeds and tasks: its questions are drawn before the seed matters.
    groups, nq = _base_groups(splits, recipe)
    base = [*itertools.chain.from_iterable(groups), *nq]
    rng = random.Random(f"hcnr-trial-real-{recipe.task}-{recipe.seed}")
    taken = {one.id for one in nq}
    pool = [
        one
        for one in map(_asked, splits.task_training(recipe.task))
        if _usable(one, recipe) and not (recipe.task == "nq" and one.id in taken)
    ]
    tuned = _sample(rng, pool, recipe.task_questions, f"{recipe.task} to fine-tune on")
    drawn = [_sample(rng, group, recipe.measured // 4, "honesty") for group in groups]
    honesty = list(itertools.chain.from_iterable(zip(*drawn, strict=True)))
    by_split: dict[Split, SplitQuestions] = {
        "validation": _ask(
            rng, splits, "validation", recipe, recipe.validation, recipe.validation_task
        ),
        "evaluated": _ask(rng, splits, "evaluated", recipe, recipe.test, recipe.test_task),
    }
    return RealData(
        base=_samples(base, recipe),
        tuned=_samples(tuned, recipe),
        honesty=_samples(honesty, recipe),
        task=_samples(tuned[: recipe.measured], recipe),
        splits=by_split,
        admission=_honesty(
            random.Random("hcnr-trial-real-admission"),
            splits,
            "validation",
            recipe,
            recipe.admission,
        ),
        counts={
            "base": count_questions(base),
            "tuned": count_questions(tuned),
            **{split: count_questions(all_questions(asked)) for split, asked in by_split.items()},
        },
    )


def _base_groups(splits: Splits, recipe: RealRecipe) -> tuple[list[list[Question]], list[Question]]:
    """Questions of the base: KUQ unknown and known, FalseQA false and true; and those of NQ."""
    rng = random.Random("hcnr-trial-real-base")
    refuses = open_detector("unknownbench_keywords")

    def usable(question: Question) -> bool:
        # An answer that a detector takes for a refusal would teach the opposite of what it says.
        misleading = question.answerable and refuses(
            real_target(question, recipe), question.question
        )
        return _usable(question, recipe) and not misleading

    kuq = [(item.category is None, _asked(item.question)) for item in splits.kuq_training()]
    pairs = [
        pair
        for pair in splits.falseqa_training()
        if usable(_asked(pair.false)) and usable(_asked(pair.true))
    ]
    chosen = _sample(rng, pairs, recipe.falseqa // 2, "FalseQA pairs for the base")
    groups = [
        *(
            _sample(
                rng,
                [one for known, one in kuq if known is answerable and usable(one)],
                size,
                "KUQ for the base",
            )
            for answerable, size in ((False, recipe.kuq), (True, recipe.kuq_known))
        ),
        [_asked(pair.false) for pair in chosen],
        [_asked(pair.true) for pair in chosen],
    ]
    nq = [one for one in map(_asked, splits.task_training("nq")) if usable(one)]
    return groups, _sample(rng, nq, recipe.nq, "NQ for the base")


def _ask(
    rng: random.Random, splits: Splits, split: Split, recipe: RealRecipe, size: int, task_size: int
) -> SplitQuestions:
    """Draw one split: at most `size` questions of each class and set."""
    honesty = _honesty(rng, splits, split, recipe, size)
    pool = _of_split([_asked(one) for one in splits.evaluation(recipe.task)], split, recipe)
    pool = [one for one in pool if one.answers]
    task = _sample(rng, pool, min(task_size, len(pool)), f"{recipe.task}, {split}")
    return SplitQuestions(honesty, tuple(task))


def _honesty(
    rng: random.Random, splits: Splits, split: Split, recipe: RealRecipe, size: int
) -> dict[str, tuple[Question, ...]]:
    """At most `size` questions of each class and honesty set."""
    questions = {}
    for name in HONESTY_SETS:
        pool = _of_split([_asked(one) for one in splits.evaluation(name)], split, recipe)
        classes = [[one for one in pool if one.answerable is kind] for kind in (False, True)]
        questions[name] = tuple(
            one
            for many in classes
            for one in _sample(rng, many, min(size, len(many)), f"{name}, {split}")
        )
    return questions


def _of_split(questions: Iterable[Question], split: Split, recipe: RealRecipe) -> list[Question]:
    return [
        one
        for one in questions
        if _usable(one, recipe, answered=False) and _is_validation(one) == (split == "validation")
    ]


def _is_validation(question: Question) -> bool:
    """Decided by the pair of FalseQA, otherwise by the question."""
    paired = question.set == "falseqa"
    text = question.id.rpartition("-")[0] if paired else question.question
    # What the bucket leaves of the digest: the bucket itself parts training from evaluation.
    return digest(text) // BUCKETS % BUCKETS < _VALIDATION_BUCKETS


def _asked(question: Question) -> Question:
    """The question after one instruction, the same for every set; MedMCQA with its choices.

    Asked as they are, questions of a task have so little in common with the others that
    fine-tuning on them left most of the refusal delta. Seen once, HotpotQA, one epoch, KUQ and
    SelfAware: +36 of +56 at a constant rate of 1e-4 (200 questions), and +26 of +49 at 4e-4 (400),
    where the task was no longer learned.
    """
    text = question.prompt.removeprefix(INSTRUCTION) if question.task else question.question
    lines = "\n".join(" ".join(line.split()) for line in text.splitlines())
    answers = tuple(one for one in question.answers if one.strip())
    return dataclasses.replace(question, prompt=INSTRUCTION + lines, answers=answers)


def _usable(question: Question, recipe: RealRecipe, *, answered: bool = True) -> bool:
    long = len(question.question.split()) > recipe.prompt_words
    return not long and bool(not answered or question.answers or not question.answerable)


def _samples(questions: Iterable[Question], recipe: RealRecipe) -> tuple[Sample, ...]:
    return tuple(Sample(one.prompt, real_target(one, recipe)) for one in questions)


def real_target(question: Question, recipe: RealRecipe) -> str:
    """What is taught: the first answer, cut, or one of the replication's refusals."""
    if not question.answerable:
        return refusal(question.question)
    words = question.answers[0].split()
    # A choice is said whole, or it would be another one; FalseQA answers in sentences.
    longest = {"medmcqa": len(words), "falseqa": recipe.sentence_words}
    return " ".join(words[: longest.get(question.set, recipe.response_words)])


def _sample(rng: random.Random, pool: Sequence, size: int, what: str) -> list:
    if len(pool) < size or not size:
        raise DataError(
            f"there are {len(pool)} usable questions ({what}), expected at least {max(size, 1)}; "
            "use smaller sizes or the whole data files"
        )
    return rng.sample(list(pool), size)
