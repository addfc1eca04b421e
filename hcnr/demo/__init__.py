"""The lab: an invented world in which a tiny model learns honesty, loses it, and gets it back.

Everything is made on the spot from a seed: names, facts, a tokenizer, a base model that says
"I don't know" about names it has never met, and the same model fine-tuned until it no longer does.
Nothing is downloaded. Names load on first use, so importing the package is free.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hcnr.demo.demo import run_demo, run_seeds
    from hcnr.demo.evaluation import Evaluation, Examiner
    from hcnr.demo.laboratory import Laboratory, open_lab
    from hcnr.demo.real.demo import run_real_demo
    from hcnr.demo.recipe import Recipe
    from hcnr.demo.world import World, build_world

__all__ = [
    "Evaluation",
    "Examiner",
    "Laboratory",
    "Recipe",
    "World",
    "build_world",
    "open_lab",
    "run_demo",
    "run_real_demo",
    "run_seeds",
]

_HOMES = {
    "Evaluation": "evaluation",
    "Examiner": "evaluation",
    "Laboratory": "laboratory",
    "Recipe": "recipe",
    "World": "world",
    "build_world": "world",
    "open_lab": "laboratory",
    "run_demo": "demo",
    "run_real_demo": "real.demo",
    "run_seeds": "demo",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hcnr.demo' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hcnr.demo.{_HOMES[name]}"), name)
