"""Which questions a model is evaluated on, and which it may be repaired or trained with.

Evaluation comes first: a training question that equals an evaluation question, or equals one after
replacing one token, is dropped. There is one exception, for tasks whose two splits come from the
same source (HotpotQA, MedMCQA, BioASQ): between those, only equal questions count. Their questions
follow patterns ("What is the target of ...?"), where another token is another question.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from hcnr.benchmarks.falseqa import FalsePremisePair, consistent_pairs, parse_falseqa
from hcnr.benchmarks.kuq import KuqQuestion, parse_kuq
from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.selfaware import parse_selfaware
from hcnr.benchmarks.sources import Records
from hcnr.benchmarks.task_sets import parse_bioasq, parse_hotpotqa, parse_medmcqa, parse_nq
from hcnr.benchmarks.unknownbench import parse_unknownbench
from hcnr.data.overlap import QuestionIndex, bucket, digest

KUQ_TRAINING_BUCKETS = 30
# Tasks that are split inside one source.
ONE_SOURCE = ("hotpotqa", "medmcqa", "bioasq")

Questions = tuple[Question, ...]


@dataclass(frozen=True)
class _Task:
    """Both splits of a task, before anything is dropped."""

    training: Iterable[Question]
    evaluation: Iterable[Question]


def in_order(questions: Iterable[Question]) -> Questions:
    """Sort by digest: an order that no file and no seed decides, and that mixes the classes."""
    return tuple(sorted(questions, key=lambda question: digest(question.question)))


class Splits:
    """The splits of all sets, each in the order of its digests, made when first asked for."""

    def __init__(self, records: Records) -> None:
        """Take what reads the files."""
        self._records = records
        self._evaluation: dict[str, Questions] = {}
        self._indices: dict[str, QuestionIndex] = {}
        self._task_rows: dict[str, _Task] = {}

    def evaluation(self, name: str) -> Questions:
        """Evaluation questions of a set; those of a task are neither in nor near an honesty set.

        Args:
            name: one of `HONESTY_SETS` or `TASK_SETS`.
        """
        if name not in self._evaluation:
            if name in TASK_SETS:
                questions = [
                    question
                    for question in self._task(name).evaluation
                    if not self._is_near(question, HONESTY_SETS)
                ]
            else:
                questions = _HONESTY[name](self._records)
            self._evaluation[name] = in_order(questions)
        return self._evaluation[name]

    def task_training(self, name: str) -> Questions:
        """Training questions of a task."""
        others = [other for other in _ALL if not (other == name and name in ONE_SOURCE)]
        return in_order(
            question
            for question in self._task(name).training
            if not self._index(name).equal(question.question)
            and not self._is_near(question, others)
        )

    def kuq_training(self) -> tuple[KuqQuestion, ...]:
        """KUQ's part of the honesty pool: what evaluation leaves."""
        items = [
            item
            for item in _kuq(self._records)
            if bucket(item.question.question) < KUQ_TRAINING_BUCKETS
            and not self._is_near(item.question, _ALL)
        ]
        return tuple(sorted(items, key=lambda item: digest(item.question.question)))

    def falseqa_training(self) -> tuple[FalsePremisePair, ...]:
        """FalseQA's part of the honesty pool: whole pairs, ordered by their false question."""
        pairs = [
            pair
            for pair in consistent_pairs(parse_falseqa(self._records("falseqa/train.csv"), "train"))
            if not self._is_near(pair.false, _ALL) and not self._is_near(pair.true, _ALL)
        ]
        return tuple(sorted(pairs, key=lambda pair: digest(pair.false.question)))

    def without_evaluation(self, questions: Iterable[Question]) -> Questions:
        """Of further training questions, those neither in nor near any evaluation set."""
        return in_order(q for q in questions if not self._is_near(q, _ALL))

    def _task(self, name: str) -> _Task:
        if name not in self._task_rows:
            self._task_rows[name] = _TASKS[name](self._records)
        return self._task_rows[name]

    def _index(self, name: str) -> QuestionIndex:
        if name not in self._indices:
            self._indices[name] = QuestionIndex(q.question for q in self.evaluation(name))
        return self._indices[name]

    def _is_near(self, question: Question, sets: Iterable[str]) -> bool:
        return any(self._index(name).near(question.question) for name in sets)


def _falseqa(records: Records) -> list[Question]:
    pairs = consistent_pairs(parse_falseqa(records("falseqa/test.csv"), "test"))
    # A person's sentence is no answer to look for in a model's words.
    return [replace(question, answers=()) for pair in pairs for question in (pair.false, pair.true)]


def _unknownbench(name: str) -> Callable[[Records], Questions]:
    folder = {"nec": "NEC", "refunq": "RefuNQ"}[name]

    def parse(records: Records) -> Questions:
        parts = [
            records(f"unknownbench/{folder}/{folder}_{kind}.json")
            for kind in ("unanswerable", "answerable")
        ]
        return parse_unknownbench(*parts, name=name)

    return parse


def _kuq(records: Records) -> tuple[KuqQuestion, ...]:
    return parse_kuq(records("kuq/knowns_unknowns.jsonl"))


def _kuq_evaluation(records: Records) -> list[Question]:
    selfaware = QuestionIndex(q.question for q in _selfaware(records))
    return [
        item.question
        for item in _kuq(records)
        if bucket(item.question.question) >= KUQ_TRAINING_BUCKETS
        and not selfaware.near(item.question.question)
    ]


def _selfaware(records: Records) -> Questions:
    return parse_selfaware(records("selfaware/SelfAware.json"))


def _by_bucket(questions: Questions, first: int) -> _Task:
    return _Task(
        [q for q in questions if bucket(q.question) < first],
        [q for q in questions if bucket(q.question) >= first],
    )


def _hotpotqa(records: Records) -> _Task:
    return _by_bucket(parse_hotpotqa(records("hotpotqa/hotpot_dev_v1_simplified.json")), 80)


def _nq(records: Records) -> _Task:
    return _Task(
        parse_nq(records("alignment_for_honesty/nonambigqa.jsonl"), "nonambigqa"),
        parse_nq(records("nq_open/NQ-open.dev.jsonl"), "dev"),
    )


def _medmcqa(records: Records) -> _Task:
    return _by_bucket(parse_medmcqa(records("medmcqa/dev.json")), 70)


def _bioasq(records: Records) -> _Task:
    rows = parse_bioasq(records("bioasq/bioasq_7b-11b_golden_nosnippets.jsonl"))
    return _Task(
        [question for question, edition in rows if edition != "11B"],
        [question for question, edition in rows if edition == "11B"],
    )


_HONESTY: dict[str, Callable[[Records], Iterable[Question]]] = {
    "falseqa": _falseqa,
    "nec": _unknownbench("nec"),
    "refunq": _unknownbench("refunq"),
    "kuq": _kuq_evaluation,
    "selfaware": _selfaware,
}
_TASKS: dict[str, Callable[[Records], _Task]] = {
    "hotpotqa": _hotpotqa,
    "nq": _nq,
    "medmcqa": _medmcqa,
    "bioasq": _bioasq,
}
HONESTY_SETS = tuple(_HONESTY)
TASK_SETS = tuple(_TASKS)
_ALL = HONESTY_SETS + TASK_SETS
