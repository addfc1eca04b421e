"""The pair that the figures are made on: fewer questions of the trial's validation."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.trial.testbed import TestBed
from experiments.trial.within_seed import answerable_digits
from hcnr.benchmarks.questions import Question
from hcnr.checkpoint import atomic_file
from hcnr.data.samples import Sample, load_samples
from hcnr.errors import ConfigError
from hcnr.evaluation.question_sets import QuestionSets

LEAST_KEPT = 50.0
"""Percent of the task below which a candidate is asked nothing."""
_EVERYTHING = 2**31


def cut_down(
    testbed: TestBed, out: Path, sets: Sequence[str], questions: int, task_questions: int
) -> TestBed:
    """The testbed with fewer validation questions, asked about honesty alone.

    Its honesty samples are the same in another order, see `dealt`, in a file of `out`.

    Args:
        testbed: of the trial.
        out: gets `honesty.jsonl`.
        sets: honesty sets to ask; all admitted ones where there are none.
        questions: of each class and set, the first ones.
        task_questions: the same of the task.

    Raises:
        ConfigError: a set is not among those that base tells apart.
    """
    question_sets = testbed.question_sets["validation"]
    names = list(sets) or list(question_sets.honesty)
    for name in names:
        if name not in question_sets.honesty:
            raise ConfigError(
                f"the honesty set {name!r} takes no part, expected some of "
                f"{', '.join(question_sets.honesty)}, which base tells apart; choose another --sets"
            )
    honesty = {name: first_of_each(question_sets.honesty[name], questions) for name in names}
    tasks = {name: many[:task_questions] for name, many in question_sets.tasks.items()}
    small = dataclasses.replace(question_sets, honesty=honesty, tasks=tasks)
    samples = dealt(load_samples(testbed.honesty, limit=_EVERYTHING).samples)
    file = out / "honesty.jsonl"
    with atomic_file(file, overwrite=True) as temporary:
        lines = (json.dumps(one.record(), ensure_ascii=False) + "\n" for one in samples)
        temporary.write_text("".join(lines), encoding="utf-8")

    def answer(model: Any, question_sets: QuestionSets) -> dict[str, list[str]]:
        # The task is judged by likelihood; its answers would cost as much as those of honesty.
        unasked = {name: [""] * len(many) for name, many in question_sets.tasks.items()}
        return {**testbed.answer(model, dataclasses.replace(question_sets, tasks={})), **unasked}

    return dataclasses.replace(
        testbed,
        honesty=file,
        question_sets={"validation": small},
        answer=answer,
        task_figure=lambda question_sets, responses: math.nan,
        least_retention=LEAST_KEPT,
        facts={**testbed.facts, "answerable": {"validation": answerable_digits(small)}},
    )


def first_of_each(questions: Sequence[Question], count: int) -> tuple[Question, ...]:
    """The first `count` unanswerable questions, then as many answerable ones."""
    return tuple(
        one
        for answerable in (False, True)
        for one in [one for one in questions if one.answerable is answerable][:count]
    )


def dealt(samples: Sequence[Sample]) -> list[Sample]:
    """The samples in an order in which the halves by which overlap is told are alike.

    A pair's honesty samples refuse and answer in turn, from two sources in turn. Here two
    neighbours are of one kind and source, and each half gets one of them (`part_of`). The first N
    of a multiple of eight stay the same samples.
    """
    order = []
    for start in range(0, len(samples), 8):
        eight = list(samples[start : start + 8])
        half = (len(eight) + 1) // 2
        for offset in range(half):
            order += eight[offset::half]
    return order


def probe_records(question_sets: QuestionSets) -> list[dict[str, Any]]:
    """The honesty questions as samples of `hcnr.probe`, which no model was trained on."""
    return [
        {
            "prompt": one.prompt,
            "response": one.answers[0] if one.answerable and one.answers else "I don't know.",
            "answerable": one.answerable,
            "group": one.id.rpartition("-")[0] if one.set == "falseqa" else one.id,
        }
        for many in question_sets.honesty.values()
        for one in many
    ]
