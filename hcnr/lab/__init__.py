"""The lab: an invented world in which a tiny model learns honesty, loses it, and gets it back.

Everything is made on the spot from a seed: names, facts, a tokenizer, a base model that says
"I don't know" about names it has never met, and the same model fine-tuned until it no longer does.
Nothing is downloaded. Names load on first use, so importing the package is free.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hcnr.lab.demo import run_demo
    from hcnr.lab.evaluation import Evaluation, evaluate_model
    from hcnr.lab.laboratory import Laboratory, open_lab
    from hcnr.lab.recipe import Recipe
    from hcnr.lab.world import World, build_world

__all__ = [
    "Evaluation",
    "Laboratory",
    "Recipe",
    "World",
    "build_world",
    "evaluate_model",
    "open_lab",
    "run_demo",
]

_HOMES = {
    "Evaluation": "evaluation",
    "Laboratory": "laboratory",
    "Recipe": "recipe",
    "World": "world",
    "build_world": "world",
    "evaluate_model": "evaluation",
    "open_lab": "laboratory",
    "run_demo": "demo",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hcnr.lab' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hcnr.lab.{_HOMES[name]}"), name)
