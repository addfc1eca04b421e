import dataclasses
import math
from pathlib import Path
from typing import Any, cast

import pytest

from experiments.trial.candidate_specs import Interpolated, Prompted, Restored, Samples
from experiments.trial.methods import FINE_TUNING, INTERPOLATION, Method
from experiments.trial.metrics import Metrics
from experiments.trial.seed_result import MethodResult
from experiments.trial.seed_runner import SeedRunner
from experiments.trial.selection import Selected
from hcnr.progress import Stages
from testbeds import WeighedTestBed, write_testbed


def line(name: str, *shares: float, samples: int = 128) -> Method:
    """A method of candidates gone those shares of the way towards base, which keep the rest."""
    return Method(name, tuple(Interpolated(share) for share in shares), Samples(samples))


LEVELS = (94.0, 75.0)
BASELINES = (
    line(INTERPOLATION, 0.03, 0.08, 0.2, 0.9),
    line(FINE_TUNING[0], 0.01, 0.15),
    line(FINE_TUNING[1], 0.1),
)


class Memory:
    """A journal that is not kept."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], tuple[Metrics, float]] = {}

    def get(self, candidate: str, split: str) -> tuple[Metrics, float] | None:
        return self.found.get((candidate, split))

    def add(self, candidate: str, split: str, metrics: Metrics, seconds: float) -> None:
        self.found[candidate, split] = metrics, seconds


@pytest.fixture
def testbed(tmp_path: Path) -> WeighedTestBed:
    return write_testbed(tmp_path)


def hold(
    testbed: WeighedTestBed, *methods: Method, journal: Memory | None = None
) -> dict[str, MethodResult]:
    runner = SeedRunner(testbed, cast(Any, journal or Memory()), Stages().watcher)
    return runner.run(methods, LEVELS, runner.references()["tuned"]["validation"])


def selected(found: dict[str, MethodResult], name: str, level: float) -> Selected:
    one = found[name].selections[level]
    assert one is not None
    return one


def share(one: Selected) -> float | str:
    return one.candidate.settings.get("coefficient", one.candidate.settings["made"])


def against(one: Selected) -> dict[str, float | str]:
    return {name: share(baseline) for name, baseline in one.baselines.items()}


def test_baselines_keep_as_much_as_the_row_not_as_the_level(testbed: WeighedTestBed):
    found = hold(testbed, *BASELINES, line("sum", 0.05, 0.12, 0.3))
    assert share(selected(found, "sum", 94.0)) == 0.05
    assert against(selected(found, "sum", 94.0)) == {"interpolation": 0.03, "fine-tuning": 0.01}
    # Interpolation itself selects 0.2 at 75 %; what keeps the row's 88 % is 0.08.
    assert share(selected(found, INTERPOLATION, 75.0)) == 0.2
    assert share(selected(found, "sum", 75.0)) == 0.12
    assert against(selected(found, "sum", 75.0)) == {"interpolation": 0.08, "fine-tuning": 0.1}


def test_baselines_are_evaluated_on_the_evaluated_part(testbed: WeighedTestBed):
    """Which ranks models the other method round."""
    found = hold(testbed, *BASELINES, line("sum", 0.05, 0.12))
    own = selected(found, "sum", 75.0)
    for one in (own, *own.baselines.values()):
        gone = float(share(one))
        assert one.candidate.validation.f1 == pytest.approx(40.0 + 50.0 * gone)
        assert one.test.f1 == pytest.approx(90.0 - 50.0 * gone)
        assert one.baselines == {} or one is own


def test_the_tuned_model_is_the_baseline_where_none_keeps_as_much(testbed: WeighedTestBed):
    found = hold(testbed, *BASELINES, line("sum", 0.005))
    own = selected(found, "sum", 94.0)
    assert against(own) == {"interpolation": "tuned", "fine-tuning": "tuned"}
    tuned = own.baselines["interpolation"]
    assert tuned.candidate.validation.f1 == pytest.approx(40.0)
    assert tuned.test.f1 == pytest.approx(90.0)


def test_a_baseline_is_compared_with_the_other_one(testbed: WeighedTestBed):
    found = hold(testbed, *BASELINES)
    assert against(selected(found, INTERPOLATION, 75.0)) == {"fine-tuning": 0.15}
    assert against(selected(found, FINE_TUNING[0], 75.0)) == {"interpolation": 0.08}
    assert against(selected(found, FINE_TUNING[1], 75.0)) == {"interpolation": 0.08}


def test_only_baselines_that_take_part(testbed: WeighedTestBed):
    sum_ = line("sum", 0.12)
    assert against(selected(hold(testbed, sum_), "sum", 75.0)) == {}
    found = hold(testbed, BASELINES[1], sum_)
    assert against(selected(found, "sum", 75.0)) == {"fine-tuning": 0.01}


def test_methods_on_other_samples_are_compared_too(testbed: WeighedTestBed):
    few = Method("sum", (Restored("sum", in_weight_ratio=0.1, cross_weight_ratio=0.2),), Samples(4))
    found = hold(testbed, few, *BASELINES)
    assert list(found) == ["sum", *(method.name for method in BASELINES)]
    own = selected(found, "sum", 75.0)
    kept = own.candidate.validation.retention
    assert own.baselines.keys() == {"interpolation", "fine-tuning"}
    assert all(one.candidate.validation.retention >= kept for one in own.baselines.values())


def test_nobody_but_the_chosen_and_their_baselines_is_evaluated_twice(testbed: WeighedTestBed):
    """And no test question is asked before all choices are made."""
    journal = Memory()
    methods = (*BASELINES, line("sum", 0.05, 0.12, 0.3))
    found = hold(testbed, *methods, journal=journal)
    asked = testbed.asked[4:]  # Both parts of both ends come first.
    assert asked == ["validation"] * 10 + ["evaluated"] * (len(asked) - 10)
    selections = [
        one for method in found.values() for one in method.selections.values() if one is not None
    ]
    everyone = [baseline for one in selections for baseline in (one, *one.baselines.values())]
    seen = {(one.candidate.settings["made"], share(one)) for one in everyone}
    assert asked.count("evaluated") == len(seen - {("tuned", "tuned")})
    assert all(not math.isnan(one.test.f1) for one in everyone)
    testbed.asked.clear()
    assert hold(testbed, *methods, journal=journal) == found
    assert testbed.asked == []


def test_a_method_without_a_qualifying_candidate_sends_in_nothing(testbed: WeighedTestBed):
    found = hold(testbed, *BASELINES, line("sum", 0.5))
    assert found["sum"].selections == {94.0: None, 75.0: None}
    assert len(found["sum"].candidates) == 1


def test_a_model_is_evaluated_under_its_instruction(
    testbed: WeighedTestBed, monkeypatch: pytest.MonkeyPatch
):
    scored = []
    call = type(testbed.evaluator("validation")).__call__

    def watched(self, model: Any, instruction: str = "", **options: float) -> Metrics:
        scored.append(instruction)
        return call(self, model, instruction, **options)

    monkeypatch.setattr(type(testbed.evaluator("validation")), "__call__", watched)
    hold(testbed, Method("prompt", (Prompted("Say so."), Interpolated(0.1))))
    # Base and tuned, the candidates, and the one that was chosen.
    assert scored.count("Say so.") == 1 and scored.count("") >= 5


def test_a_candidate_that_keeps_too_little_is_not_asked(testbed: WeighedTestBed):
    journal = Memory()
    whole = hold(testbed, line(INTERPOLATION, 0.05, 0.2, 0.6))
    found = hold(
        dataclasses.replace(testbed, least_retention=75.0),
        line(INTERPOLATION, 0.05, 0.2, 0.6),
        journal=journal,
    )
    for level in LEVELS:
        sent, want = (selected(one, INTERPOLATION, level) for one in (found, whole))
        assert (sent.candidate.settings, sent.test) == (want.candidate.settings, want.test)
    metrics = [one.validation for one in found[INTERPOLATION].candidates]
    assert [math.isnan(one.refusal_delta) for one in metrics] == [False, False, True]
    assert metrics[2].retention == pytest.approx(40.0) and metrics[2].as_dict()["f1"] is None
    assert [one["front"] for one in found[INTERPOLATION].as_dict()["candidates"]][2] is False
    # Base keeps nothing and is asked all the same.
    assert not math.isnan(journal.found["base", "validation"][0].refusal_delta)
