"""The lab's questions as benchmarks, so that its models are judged like any other."""

import hashlib
import json
from typing import Literal

from hcnr.evaluate.questions import Benchmark, Question
from hcnr.lab.world import REFUSAL, TASK_RELATION, Item, World

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


def _benchmark(name: str, part: Part, items: tuple[Item, ...], task: bool = False) -> Benchmark:
    questions = tuple(_question(name, item, task) for item in items)
    lines = json.dumps([(one.prompt, one.answers) for one in questions])
    return Benchmark(
        name=name,
        questions=questions,
        detector=DETECTOR,
        sha256=hashlib.sha256(lines.encode()).hexdigest(),
        source=f"invented ({part})",
    )


def _question(name: str, item: Item, task: bool) -> Question:
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
