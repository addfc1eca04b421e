"""The lab's sweep: which settings suit its pair, judged by questions that the table never asks."""

from rich.table import Table

from hcnr.choosing.decision import Word
from hcnr.config import RestoreConfig
from hcnr.demo.evaluation import Examiner
from hcnr.demo.laboratory import Laboratory
from hcnr.demo.table import terminal
from hcnr.progress import Watcher
from hcnr.search.grid import Grid
from hcnr.search.result import Candidate, SweepResult
from hcnr.search.sweep import sweep
from hcnr.search.table import advice

# Holds the settings of every repair of the table but the random one.
GRID = Grid(in_weight=(0.3, 0.5, 0.7), cross_weight=(0.4, 1.0), task_weight=(3.0, 10.0, 30.0))
# Points that the report lets the sweep's choice lose: about the trial's 95 %. The tool's default of
# 2 is less than one of the task's 32 to 42 validation questions.
MAX_ACCURACY_DROP = 5.0
# Points that the sweep lets its candidates lose. The best of many on so few questions will lose
# more on others, so half of what may be lost is left to that.
CHOICE_ACCURACY_DROP = MAX_ACCURACY_DROP / 2
# Percent of the likelihood gain that the verdict by losses lets the sweep's choice lose.
MAX_TASK_DROP_PERCENT = 5.0


def sweep_lab(lab: Laboratory, watcher: Watcher) -> SweepResult:
    """Try the grid as a user would, one measuring pass included.

    Args:
        lab: the pair, and its world with the validation questions.
        watcher: told about the progress.
    """
    examiner = Examiner(lab.tokenizer, lab.world, "validation")
    result = sweep(
        lab.base,
        lab.tuned,
        lab.honesty,
        lab.task,
        grid=GRID,
        evaluate=examiner,
        max_accuracy_drop=CHOICE_ACCURACY_DROP,
        config=RestoreConfig(device="cpu"),
        watcher=watcher,
    )
    result.validation = {
        benchmark.name: {
            "detector": benchmark.detector,
            "n": len(benchmark.questions),
            "sha256": benchmark.sha256,
        }
        for benchmark in examiner.benchmarks
    }
    return result


def front_table(result: SweepResult, reported: Word) -> Table:
    """The sweep's Pareto front for a terminal, from most of the task to most honesty.

    Args:
        result: the sweep.
        reported: what the report says to do with its choice, by the same rule on other questions.
    """
    best = result.recommendation.index
    front = [
        (one, index == best)
        for index, (one, on_front) in enumerate(zip(result.candidates, result.pareto, strict=True))
        if on_front
    ]
    front.sort(key=lambda entry: -entry[0].scores.task_accuracy)
    lines = [(_cells(result, one), chosen) for one, chosen in front]
    asked = ", ".join(f"{facts['n']} of {name}" for name, facts in result.validation.items())
    notes = [
        f"The {len(front)} of {len(result.candidates)} settings that no other one beats in both "
        f"delta and task, on validation questions ({asked}) that the table above never asks: its "
        "figures are other ones. +: tried near the best of the grid.",
        f"The sweep's {'; '.join(advice(result))}.",
        f"The sweep lets half of the {MAX_ACCURACY_DROP:g} points be lost that the report does, "
        "for its questions are few.",
    ]
    if reported != result.recommendation.word:
        notes.append(
            f"The report says {reported}, not {result.recommendation.word}: by the same rule on "
            "the questions of the table above, which are more and chose nothing. Its word counts."
        )
    if result.refuse_all is not None:
        notes.append(
            f"Always refusing would score F1 {result.refuse_all.honesty_f1:.1f} here, and delta 0."
        )
    columns = ("kind", "mu", "in", "cross", "delta", "refuse known", "F1", "task right",
               "rival delta")  # fmt: skip
    return terminal("Pareto front of the sweep", columns, lines, notes)


def _cells(result: SweepResult, candidate: Candidate) -> list[str]:
    settings, scores, rival = candidate.settings, candidate.scores, result.rival(candidate.scores)
    return [
        settings["compensation"] + ("+" if candidate.refined else ""),
        f"{settings['task_weight']:g}" if "task_weight" in settings else "",
        f"{settings['in_weight_ratio']:g}" if "in_weight_ratio" in settings else "",
        f"{settings['cross_weight_ratio']:g}",
        f"{scores.refusal_delta:+.1f}",
        "" if scores.refusal_rate_answerable is None else f"{scores.refusal_rate_answerable:.1f}",
        f"{scores.honesty_f1:.1f}",
        f"{scores.task_accuracy:.1f}",
        "" if rival is None else f"{rival.refusal_delta:+.1f}",
    ]
