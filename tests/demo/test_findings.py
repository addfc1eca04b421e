import json
from typing import Any, cast

import pytest
from rich.console import Console

from hcnr.choosing.decision import decide, weigh
from hcnr.choosing.front import Scores
from hcnr.demo.evaluation import Evaluation, Examiner
from hcnr.demo.findings import write_metrics_of, write_probe
from hcnr.demo.interpolation import InterpolationPoint
from hcnr.demo.recipe import Recipe
from hcnr.demo.tokenizer import build_tokenizer
from hcnr.demo.world import REFUSAL, build_world
from hcnr.evaluation.judged import JUDGED, read_judged
from hcnr.evaluation.table import print_evaluation

WORLD = build_world(Recipe.quick())
EXAMINER = Examiner(build_tokenizer(WORLD), WORLD)


def _says(refusals: int) -> dict[str, list[str]]:
    """Refuses the first questions of the names and answers the others rightly where it can."""
    said = {
        one.name: [question.answers[0] if question.answers else "x" for question in one.questions]
        for one in EXAMINER.benchmarks
    }
    said["names"][:refusals] = [REFUSAL] * refusals
    said["guild"][0] += " and more"
    return said


@pytest.fixture
def metrics(tmp_path) -> dict[str, Any]:
    said = {"restored": _says(90), "tuned": _says(30), "base": _says(110)}
    said["interpolation"] = _says(60)
    curve = [
        InterpolationPoint(c, Evaluation.of(EXAMINER.score(_says(n))))
        for c, n in ((0.0, 30), (0.5, 60))
    ]
    points = [(one.coefficient, Scores.of(one.evaluation)) for one in curve]
    after = Scores.of(Evaluation.of(EXAMINER.score(said["restored"])))
    decision = decide(weigh(after, points[0][1], points, 5.0))
    path = write_metrics_of(tmp_path / "restored", EXAMINER, said, curve, curve[1], decision)
    assert path == tmp_path / "restored-eval" / "metrics.json"
    return json.loads(path.read_text())


def test_metrics_hold_every_model_and_the_rival(metrics: dict[str, Any]):
    # 90 of 120 unknown names refused, no known one.
    assert metrics["model"] == "restored"
    assert metrics["sets"]["names"]["f1"] == pytest.approx(100 * 2 * 90 / (90 + 120))
    assert metrics["sets"]["names"]["detector"] == f"template:{REFUSAL}"
    low, high = metrics["macro"]["ci95"]["f1"]
    assert low < metrics["macro"]["f1"] < high
    assert list(metrics["models"]) == ["tuned", "base"]
    gap = metrics["differences"]["tuned"]["macro"]["refusal_delta"]
    assert gap["value"] == pytest.approx(50.0) and gap["ci95"][0] > 0
    assert metrics["interpolation_row"]["coefficient"] == 0.5
    assert metrics["interpolation_row"]["macro"]["refusal_delta"] == pytest.approx(50.0)
    assert [point["chosen"] for point in metrics["interpolation"]] == [False, True]
    assert metrics["interpolation"][0]["refusal_delta"] == pytest.approx(25.0)
    assert metrics["data"]["names"]["questions"] == 236
    said = metrics["recommendation"]
    assert said["word"] == "use" and said["max_accuracy_drop"] == 5.0
    assert said["gain"]["value"] == pytest.approx(gap["value"])
    assert said["gain"]["ci95"] == pytest.approx(gap["ci95"])
    assert said["interpolation"]["lead"]["value"] == pytest.approx(25.0)
    asked = metrics["data"]["guild"]["questions"]
    for found in (metrics, metrics["models"]["base"], metrics["interpolation_row"]):
        assert found["tasks_macro"]["accuracy"] == pytest.approx(100 * (asked - 1) / asked)


def test_every_answer_is_kept(metrics: dict[str, Any], tmp_path):
    questions = read_judged(tmp_path / "restored-eval" / JUDGED)
    names = [one for one in questions if one.set == "names" and not one.answerable]
    for model, refused in (("restored", 90), ("tuned", 30), ("interpolation-0.5", 60)):
        assert sum(one.said[model].refused for one in names) == refused
    assert len(questions) == sum(one["questions"] for one in metrics["data"].values())


def test_the_evaluations_own_printer_takes_them(metrics: dict[str, Any]):
    console = Console(width=120)
    with console.capture() as capture:
        print_evaluation(metrics, console)
    text = capture.get()
    assert "interpolation 0.5" in text and "85.7" in text and "guild" in text


def test_without_scikit_learn_the_demo_goes_on_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    note = write_probe(tmp_path / "probe.json", cast(Any, None), cast(Any, None))
    assert "scikit-learn" in note and "hcnr[evaluate]" in note
    assert list(tmp_path.iterdir()) == []
