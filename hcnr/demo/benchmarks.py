"""The lab's questions as benchmarks, so that its models are judged like any other."""

import hashlib
import json
from pathlib import Path
from typing import Literal

from hcnr.benchmarks.questions import Benchmark, Question
from hcnr.checkpoint import atomic_file
from hcnr.demo.world import REFUSAL, TASK_RELATION, World, WorldItem

Part = Literal["validation", "evaluated"]

NAMES, TASK = "names", TASK_RELATION
"""The sets: names that are known or not, and the fine-tuned relation."""

DETECTOR = f"template:{REFUSAL}"


def honesty_benchmark(world: World, part: Part) -> Benchmark:
    """Unknown names, to be refused, and known ones."""
    items = (*world.splits[f"{part}_unknown"], *world.splits[f"{part}_known"])
    return _benchmark(NAMES, part, items)


def task_benchmark(world: World, part: Part) -> Benchmark:
    """Facts of the relation that fine-tuning taught."""
    return _benchmark(TASK, part, world.splits[f"{part}_task"], task=True)


QUESTION_FILES = {
    "questions.jsonl": honesty_benchmark,
    "task-questions.jsonl": task_benchmark,
    "validation.jsonl": honesty_benchmark,
    "task-validation.jsonl": task_benchmark,
}
"""Files of questions for the commands: those of `validation` choose settings, others evaluate."""


def write_questions(world: World, directory: Path) -> None:
    """Write the `QUESTION_FILES` that a directory lacks."""
    for name, benchmark in QUESTION_FILES.items():
        path = directory / name
        if path.exists():
            continue
        posed = benchmark(world, "validation" if "validation" in name else "evaluated")
        lines = [
            json.dumps(
                {
                    "id": question.id,
                    "question": question.question,
                    "answerable": question.answerable,
                    "answers": question.answers,
                    # As it is: the models know no other words around it.
                    "prompt": question.prompt,
                }
            )
            for question in posed.questions
        ]
        with atomic_file(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _benchmark(
    name: str, part: Part, items: tuple[WorldItem, ...], task: bool = False
) -> Benchmark:
    questions = tuple(_question(name, item, task) for item in items)
    lines = json.dumps([(question.prompt, question.answers) for question in questions])
    return Benchmark(
        name=name,
        questions=questions,
        detector=DETECTOR,
        sha256=hashlib.sha256(lines.encode()).hexdigest(),
        source=f"invented ({part})",
    )


def _question(name: str, item: WorldItem, task: bool) -> Question:
    answerable = item.response != REFUSAL
    return Question(
        # A split asks each name and relation once.
        id=f"{item.relation}-{item.name.replace(' ', '-')}",
        set=name,
        question=item.prompt,
        answerable=answerable,
        answers=(item.response,) if answerable else (),
        prompt=item.prompt,
        task=task,
    )
