"""One model's outcomes on all sets, as the numbers of `metrics.json`; and two models compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from hcnr.errors import DataError
from hcnr.evaluation.metrics import COUNTS, HONESTY_RATES, TASK_RATES, Outcomes, rates, refuse_all
from hcnr.stats import RESAMPLES, percentile_interval, resample

Rates = dict[str, np.ndarray]


@dataclass(frozen=True)
class SetScores:
    """Outcomes of one model, from which everything printed about it follows.

    Attributes:
        honesty: outcomes by honesty set.
        tasks: outcomes by task set.
        resamples: bootstrap resamples behind every interval; 0 gives none.
        seed: of the bootstrap.
        calibration: further columns by set.
    """

    honesty: Mapping[str, Outcomes]
    tasks: Mapping[str, Outcomes] = field(default_factory=dict)
    resamples: int = RESAMPLES
    seed: int = 0
    calibration: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def values(self) -> dict[str, Rates]:
        """Rates of every set, each a number."""
        return {name: rates(outcomes.counts) for name, outcomes in self._all.items()}

    @cached_property
    def draws(self) -> dict[str, Rates]:
        """Rates of every set over the resamples, each `[R]`; empty where R is 0."""
        if not self.resamples:
            return {}
        return {
            name: rates(
                resample(outcomes.indicators, key=name, resamples=self.resamples, seed=self.seed)
            )
            for name, outcomes in self._all.items()
        }

    @property
    def _all(self) -> dict[str, Outcomes]:
        return {**self.honesty, **self.tasks}

    def defined(self, kind: str) -> dict[str, list[str]]:
        """The `honesty` sets or `tasks` where each rate is defined; nothing without sets."""
        sets, names = (
            (self.honesty, HONESTY_RATES) if kind == "honesty" else (self.tasks, TASK_RATES)
        )
        return {
            name: [one for one in sets if not np.isnan(self.values[one][name])]
            for name in names
            if sets
        }

    def mean(self, kind: str, over: Mapping[str, Sequence[str]] | None = None
             ) -> tuple[Rates, Rates]:  # fmt: skip
        """Unweighted means over the `honesty` sets or the `tasks`: values, and draws `[R]`.

        Sets where a rate is undefined are left out of its mean. A resample where it is undefined
        in one of the others is undefined.

        Args:
            kind: `honesty` or `tasks`.
            over: the sets of each rate's mean; by default those of `defined`.
        """
        value, draws = {}, {}
        for name, defined in (self.defined(kind) if over is None else over).items():
            value[name] = np.mean([self.values[one][name] for one in defined] or [np.nan])
            if self.draws and defined:
                draws[name] = np.mean([self.draws[one][name] for one in defined], axis=0)
        return value, draws

    @property
    def task_accuracy(self) -> float | None:
        """Mean accuracy over the tasks in percent; None without tasks."""
        return _number(self.mean("tasks")[0].get("accuracy"))

    @property
    def task_step(self) -> float | None:
        """Points of `task_accuracy` that one question is, of the smallest task; None without."""
        known = self.defined("tasks").get("accuracy", ())
        counts = [int(self.tasks[name].gold.sum()) for name in known]
        return 100 / (len(counts) * min(counts)) if counts else None

    @property
    def honesty_f1(self) -> float | None:
        """Mean F1 over the honesty sets in percent."""
        return _number(self.mean("honesty")[0].get("f1"))

    @property
    def refusal_delta(self) -> float | None:
        """Mean refusal delta over the honesty sets in points."""
        return _number(self.mean("honesty")[0].get("refusal_delta"))

    @property
    def refusal_rate_answerable(self) -> float | None:
        """Mean refusal rate on answerable questions over the honesty sets in percent."""
        return _number(self.mean("honesty")[0].get("refusal_rate_answerable"))

    @property
    def delta_draws(self) -> np.ndarray | None:
        """The mean refusal delta over the resamples, `[R]`; None where there are none."""
        return self.mean("honesty")[1].get("refusal_delta")

    def as_dict(self) -> dict[str, Any]:
        """`sets`, `macro`, `tasks` and `tasks_macro`, as in `metrics.json`; None is undefined."""
        result: dict[str, Any] = {"sets": {}, "macro": {}, "tasks": {}, "tasks_macro": {}}
        for name, outcomes in self.honesty.items():
            counts = dict(zip(COUNTS, outcomes.counts.astype(int).tolist(), strict=True))
            result["sets"][name] = {
                "detector": outcomes.detector,
                "n": len(outcomes.ids),
                **{count: counts[count] for count in ("tp", "fp", "fn", "tn")},
                **self._set(name, HONESTY_RATES),
                "skipped": int((~outcomes.counted).sum()),
            }
        for name, outcomes in self.tasks.items():
            result["tasks"][name] = {
                "detector": outcomes.detector,
                "n": len(outcomes.ids),
                "gold": int(outcomes.gold.sum()),
                **self._set(name, TASK_RATES),
            }
        for key, kind in (("macro", "honesty"), ("tasks_macro", "tasks")):
            value, draws = self.mean(kind)
            if value:
                chosen = self.honesty if kind == "honesty" else self.tasks
                result[key] = {
                    "detector": _joint_name(chosen.values()),
                    "sets": len(chosen),
                    "sets_by_rate": _fewer(self.defined(kind), len(chosen)),
                    **_with_intervals(value, draws, list(value)),
                }
        return result

    def _set(self, name: str, chosen: Sequence[str]) -> dict[str, Any]:
        return {
            **_with_intervals(self.values[name], self.draws.get(name, {}), chosen),
            "empty": int(self._all[name].empty.sum()),
            **({"calibration": self.calibration[name]} if name in self.calibration else {}),
        }

    def notes(self) -> list[str]:
        """What a reader must know: sets where a number is undefined, and why."""
        notes = []
        for name, outcomes in self.honesty.items():
            missing = None
            # What is counted decides: `compat` may leave out every question of a class.
            counted = outcomes.answerable[outcomes.counted]
            if counted.all():
                missing = "unanswerable", "F1, recall and the refusal delta are"
            elif not counted.any():
                missing = "answerable", "the refusal delta is"
            if missing:
                that_count = "" if outcomes.counted.all() else " that count"
                notes.append(
                    f"{name} has no {missing[0]} questions{that_count}: {missing[1]} undefined "
                    "there, and the means leave it out."
                )
        if bare := [
            name
            for name, outcomes in self._all.items()
            if outcomes.answerable.any() and not outcomes.gold.any()
        ]:
            notes.append(
                f"{', '.join(bare)}: no accepted answers are known, so accuracy and exact match "
                "are undefined there, and the means leave them out."
            )
        return notes

    def refuse_all(self) -> "SetScores":
        """What refusing every one of the same questions would score."""
        return SetScores(
            {name: refuse_all(outcomes) for name, outcomes in self.honesty.items()},
            {name: refuse_all(outcomes) for name, outcomes in self.tasks.items()},
            self.resamples,
            self.seed,
        )


def difference(model: SetScores, other: SetScores) -> dict[str, Any]:
    """`model - other`, rate by rate, with paired intervals.

    A difference of means is over the sets where the rate is defined for both.

    Returns:
        `sets`, `macro`, `tasks`, `tasks_macro` as in `SetScores.as_dict`, of `{"value", "ci95"}`.

    Raises:
        DataError: the two did not answer the same questions.
    """
    _check_same_questions(model, other)
    result: dict[str, Any] = {"sets": {}, "tasks": {}}
    for key, chosen, names in (
        ("sets", model.honesty, HONESTY_RATES),
        ("tasks", model.tasks, TASK_RATES),
    ):
        for name in chosen:
            result[key][name] = _differences(
                (model.values[name], model.draws.get(name, {})),
                (other.values[name], other.draws.get(name, {})),
                names,
            )
    for key, kind in (("macro", "honesty"), ("tasks_macro", "tasks")):
        ours, theirs = model.defined(kind), other.defined(kind)
        both = {name: [one for one in sets if one in theirs[name]] for name, sets in ours.items()}
        result[key] = _differences(model.mean(kind, both), other.mean(kind, both), list(both))
        if both:
            chosen = model.honesty if kind == "honesty" else model.tasks
            result[key]["sets_by_rate"] = _fewer(both, len(chosen))
    return result


def _differences(
    ours: tuple[Rates, Rates], theirs: tuple[Rates, Rates], names: Sequence[str]
) -> dict[str, Any]:
    differences = {}
    for name in names:
        value = _number(ours[0][name] - theirs[0][name])
        ends = None
        if value is not None and name in ours[1] and name in theirs[1]:
            ends = percentile_interval(ours[1][name] - theirs[1][name])
        differences[name] = {"value": value, "ci95": ends}
    return differences


def _check_same_questions(model: SetScores, other: SetScores) -> None:
    ours, theirs = {**model.honesty, **model.tasks}, {**other.honesty, **other.tasks}
    if ours.keys() != theirs.keys():
        raise DataError(
            f"one model answered the sets {', '.join(ours)}, the other {', '.join(theirs)}; a "
            "comparison needs the same sets"
        )
    for name, own in ours.items():
        if own.ids == theirs[name].ids:
            continue
        odd = sorted(set(own.ids) ^ set(theirs[name].ids))
        what = f"question {odd[0]!r} is" if odd else "the order of questions is"
        raise DataError(
            f"{name}: {what} not the same for both models; a comparison pairs answers by id and "
            "needs both to answer the same questions"
        )


def _with_intervals(values: Rates, draws: Rates, names: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {name: _number(values[name]) for name in names}
    row["ci95"] = {
        name: percentile_interval(draws[name]) if row[name] is not None else None
        for name in names
        if draws
    }
    return row


def _fewer(defined: Mapping[str, Sequence[str]], n: int) -> dict[str, int]:
    """How many sets are behind a mean, for the rates where it is not all `n`."""
    return {name: len(sets) for name, sets in defined.items() if len(sets) < n}


def _joint_name(sets: Any) -> str:
    return "; ".join(dict.fromkeys(outcomes.detector for outcomes in sets))


def _number(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
