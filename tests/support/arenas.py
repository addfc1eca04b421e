"""Arenas of tiny random pairs, whose judges look at weights instead of asking questions."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from experiments.trial.arena import Arena, Marks, Part
from experiments.trial.fair_trial import Course
from pairs import tokenizer, write_jsonl, write_pair

REFUSAL = "w60 w61"


@dataclasses.dataclass(frozen=True)
class WeighedArena(Arena):
    """An arena whose figures follow from how far a model has gone from tuned towards base.

    Attributes:
        asked: The part of every model that was judged, in order.
        before: Called before each of them.
    """

    asked: list[str] = dataclasses.field(default_factory=list)
    before: Callable[[], None] = lambda: None

    def judge(self, part: Part) -> Any:
        return _Scales(self, part)


class _Scales:
    def __init__(self, arena: WeighedArena, part: Part) -> None:
        self._arena, self._part = arena, part
        self._base, self._tuned = (
            dict(arena.load(path).named_parameters()) for path in (arena.base, arena.tuned)
        )

    @torch.no_grad()
    def __call__(self, model: Any, instruction: str = "", *, least: float = -math.inf) -> Marks:
        self._arena.before()
        self._arena.asked.append(self._part)
        share = self._share(model)
        if 100.0 * (1.0 - share) < least:
            return Marks.unasked(100.0 * (1.0 - share))
        # The evaluated part ranks models the other way round: who looks at it chooses otherwise.
        gain = 50.0 * (share if self._part == "validation" else 1.0 - share)
        return Marks(
            f1=40.0 + gain,
            refusal_delta=20.0 + gain,
            refusal_answerable=5.0,
            accuracy=90.0 * (1.0 - share),
            retention=100.0 * (1.0 - share),
            sets={"names": {"f1": 40.0 + gain}},
        )

    @torch.no_grad()
    def retention(self, model: Any) -> float:
        return 100.0 * (1.0 - self._share(model))

    def _share(self, model: Any) -> float:
        """How far a model has gone from tuned towards base."""
        gone = whole = 0.0
        for name, value in model.named_parameters():
            change = self._base[name] - self._tuned[name]
            gone += float(((value - self._tuned[name]) * change).sum())
            whole += float(change.square().sum())
        return gone / whole

    def refuse_all(self) -> Marks:
        return Marks(66.7, 0.0, 100.0, 0.0, float("nan"), {"names": {"f1": 66.7}})


def write_arena(root: Path, seed: int = 0, samples: int = 12) -> WeighedArena:
    """Write a tiny pair with honesty samples that refuse in turn, and judge it by its weights."""
    root.mkdir(parents=True, exist_ok=True)
    found = write_pair(root)
    honesty = [
        {
            "prompt": f"w{i} w{i + 7} w{i + 1}",
            "response": f"w{i % 5} w{i % 3}" if i % 2 else REFUSAL,
        }
        for i in range(samples)
    ]
    return WeighedArena(
        world="tiny",
        seed=seed,
        directory=root,
        base=found["base"],
        tuned=found["tuned"],
        honesty=write_jsonl(found["honesty"], honesty),
        task=found["task"],
        refusal=REFUSAL,
        tokenizer=tokenizer(),
        facts={"parameters": 12_345, "counts": {"names": 4}, "recipe": {}},
        panels={},
        answer=cast(Any, None),
    )


def course_of(root: Path, seeds: int = 2) -> tuple[Course, dict[int, WeighedArena]]:
    """A course over a few such arenas, and the arenas."""
    arenas = {seed: write_arena(root / f"world-{seed}", seed) for seed in range(seeds)}
    return Course("tiny", lambda seed, stage: arenas[seed]), arenas
