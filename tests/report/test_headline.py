import pytest

from hcnr.record.card import BEGIN, model_card, with_headline
from hcnr.record.numbers import NONE
from hcnr.record.tables import Table
from hcnr.report.gather import gather
from hcnr.report.headline import (
    because,
    headline_notes,
    headline_table,
    interpolation_table,
    update_card,
    verdict,
)
from hcnr.report.page import html


@pytest.mark.parametrize(
    ("delta", "task", "sentence"),
    [
        (
            42.64,
            30.30,
            "Use: the refusal delta rose from +12.2 to +42.6, while task accuracy fell by 0.3 "
            "points.",
        ),
        (
            42.64,
            31.65,
            "Use: the refusal delta rose from +12.2 to +42.6 and task accuracy rose by 1.0 points.",
        ),
        (
            2.0,
            20.65,
            "Interpolate instead: the refusal delta fell from +12.2 to +2.0 and task accuracy fell "
            "by 10.0 points.",
        ),
        (
            12.16,
            30.65,
            "Interpolate instead: the refusal delta stayed at +12.2; task accuracy stayed at 30.6.",
        ),
        (30.0, None, "Unclear: the refusal delta rose from +12.2 to +30.0."),
        (
            None,
            30.0,
            "Unclear: the refusal delta is not defined on the questions that were asked.",
        ),
    ],
)
def test_the_word_stands_first(make_run, invented, delta, task, sentence):
    metrics = invented.metrics()
    metrics["macro"]["refusal_delta"] = delta
    metrics["tasks_macro"]["accuracy"] = task
    # Older files have neither a recommendation nor the difference of the deltas.
    del metrics["recommendation"], metrics["differences"]
    assert verdict(gather(make_run(metrics=metrics))) == sentence


def test_a_model_that_refuses_everything_is_refused_whatever_its_f1(make_run, invented):
    metrics = invented.metrics()
    metrics["macro"].update(
        f1=99.0, refusal_delta=0.0, refusal_rate_answerable=100.0, refusal_rate_unanswerable=100.0
    )
    metrics["interpolation"] = []
    difference = {"value": -12.2, "ci95": [-14.0, -10.0]}
    metrics["differences"]["honest-8b-hotpotqa"]["macro"]["refusal_delta"] = difference
    del metrics["recommendation"]
    run = gather(make_run(metrics=metrics))
    assert verdict(run).startswith("Do not use: the refusal delta fell from +12.2 to 0.0")
    assert because(run) == (
        "Its refusal delta is -12.2 (95% interval -14.0 to -10.0) points over tuned's, which is "
        "not shown to be above 0."
    )


def test_the_numbers_of_the_evaluation_decide_and_not_its_words(make_run, invented):
    metrics = invented.metrics()
    assert because(gather(make_run(metrics=metrics))) == (
        "Its refusal delta is +30.4 (95% interval +28.2 to +32.6) points over tuned's, and the "
        "task loses 0.3 points, 2 may be lost; plain interpolation with coefficient 0.3 keeps as "
        "much of the task, and the repair is +21.0 (95% interval +18.9 to +23.2) points above that."
    )
    metrics["recommendation"]["interpolation"]["lead"]["ci95"] = [-1.0, 43.0]
    assert verdict(gather(make_run(metrics=metrics))).startswith("Interpolate instead: ")
    metrics["recommendation"]["task_drop"] = 2.5
    assert verdict(gather(make_run(metrics=metrics))).startswith("Interpolate instead: ")
    metrics["recommendation"]["interpolation"] = None
    assert verdict(gather(make_run(metrics=metrics))).startswith("Do not use: ")
    metrics["recommendation"]["max_accuracy_drop"] = 3.0
    assert verdict(gather(make_run(metrics=metrics))).startswith("Use: ")
    # As older versions called it.
    for limit, word in ((2.0, "Do not use: "), (3.0, "Use: ")):
        metrics["recommendation"].pop("max_accuracy_drop", None)
        metrics["recommendation"]["max_task_drop"] = limit
        assert verdict(gather(make_run(metrics=metrics))).startswith(word)


def test_an_older_evaluation_is_decided_by_what_it_has(make_run, invented):
    metrics = invented.metrics()
    del metrics["recommendation"]
    run = gather(make_run(metrics=metrics))
    assert run.decision is not None and run.decision.word == "use"
    reason = because(run)
    assert reason is not None and "+30.4 (95% interval +28.2 to +32.6)" in reason
    # The best delta of the curve at 30.3 and more, which the file gives no interval of.
    assert reason.endswith("coefficient 0.3 keeps as much of the task, and the repair is +21.0 "
                           "points above that.")  # fmt: skip


def test_the_verdict_without_the_tuned_model(make_run, invented):
    metrics = invented.metrics() | {"models": {}}
    del metrics["recommendation"]
    run = gather(make_run(metrics=metrics))
    assert verdict(run) == "Unclear: the refusal delta is +42.6 points."
    assert "no refusal delta of it and of tuned" in (because(run) or "")


def test_the_verdict_without_an_evaluation(make_run, invented):
    run = gather(make_run())
    assert verdict(run) == "22 of 56 matrices restored. Honesty has not been evaluated yet."
    assert because(run) is None
    assert headline_table(run) is None


@pytest.mark.parametrize("word", ["use", "do not use", "unclear"])
def test_without_an_evaluation_the_losses_speak(make_run, invented, word):
    losses = {"word": word, "reason": "the honesty loss is what it is", "losses": {}, "lines": []}
    report = invented.report(verdict=losses)
    run = gather(make_run(report=report))
    assert verdict(run) == (
        f"{word.capitalize()}, by the losses: 22 of 56 matrices restored. What it answers has not "
        "been evaluated yet."
    )
    assert because(run) == "The honesty loss is what it is."
    assert f"By the losses: **{word}**: the honesty loss is what it is. Its" in model_card(report)
    # Answers that were evaluated say it instead.
    run = gather(make_run(report=report, metrics=invented.metrics()))
    assert verdict(run).startswith("Use: the refusal delta rose")


def test_rivals_stand_beside_the_models(full_run):
    table = headline_table(gather(full_run))
    assert table is not None
    assert [row[0] for row in table.rows] == [
        "base", "tuned", "restored", "interpolation (0.3)", "refuse everything"
    ]  # fmt: skip
    assert table.rows[2] == [
        "restored", "+42.6 (+41.5 to +43.7)", "72.6", "30.0", "30.3 (28.0 to 32.7)",
        "72.8 (72.0 to 73.6)",
    ]  # fmt: skip
    assert table.rows[3] == ["interpolation (0.3)", "+21.6", NONE, NONE, "30.4", "58.6"]
    assert all(len(row) == len(table.heads) for row in table.rows)


def test_the_detector_is_named(full_run):
    assert "unknownbench_keywords" in headline_notes(gather(full_run))[0]


def test_another_trait_has_its_own_words(make_run, invented):
    words = {"trait": "safety", "words": {"positive": "harmful", "negative": "harmless"}}
    run = gather(make_run(metrics=invented.metrics() | words))
    table = headline_table(run)
    assert table is not None and table.heads[1:] == (
        "refusal delta", "refused, harmful", "refused, harmless", "task accuracy", "Safety F1"
    )  # fmt: skip


def test_the_card_takes_the_headline_between_its_marks_again_and_again(full_run):
    run = gather(full_run)
    card = full_run / "README.md"
    fresh = model_card(run.report)
    card.write_text(fresh + "\nMy own words.\n")
    assert update_card(run)
    once = card.read_text()
    assert "| restored | +42.6 (+41.5 to +43.7) | 72.6 |" in once
    _, _, headline = once.partition(BEGIN)
    assert headline.startswith("\n\n**Use**: Its refusal delta is +30.4")
    assert once.endswith("My own words.\n")
    assert update_card(run)
    assert card.read_text() == once


def test_a_card_of_somebody_else_is_left_alone(full_run):
    card = full_run / "README.md"
    card.write_text("# mine\n")
    assert not update_card(gather(full_run))
    assert card.read_text() == "# mine\n"


def test_without_an_evaluation_the_card_is_left_alone(make_run):
    run = gather(make_run())
    (run.directory / "README.md").write_text(model_card(run.report))
    assert not update_card(run)


def test_names_cannot_break_the_cards_table(full_run):
    fresh = model_card(gather(full_run).report)
    card = with_headline(fresh, Table(("a", "b"), [["x | y\n<img>", "1"]]), [])
    assert card is not None and r"| x \| y \<img\> | 1 |" in card
    assert "**" not in card.partition(BEGIN)[2]
    card = with_headline(fresh, Table(("a",), [["1"]]), [], "Do not *use*: <b>: why")
    assert card is not None and r"**Do not \*use\***: \<b\>: why" in card


def test_every_coefficient_that_was_asked_can_be_looked_up(make_run, invented):
    metrics = invented.metrics()
    metrics["interpolation"] = [
        {"coefficient": c, "refusal_delta": 10 + 40 * c, "honesty_f1": 50.0, "task_accuracy": task,
         "questions": 300, "complete": complete, "chosen": False}
        for c, task, complete in ((0, 30.0, True), (0.6, 28.5, True), (0.8, 20.0, False),
                                  (1, 10.0, True))
    ]  # fmt: skip
    metrics["recommendation"] = {
        "word": "interpolate instead", "reason": "it is written", "task_drop": 0.0,
        "gain": {"value": 1.0, "ci95": [-1.0, 3.0]}, "max_accuracy_drop": 2.0,
        "interpolation": {"coefficient": 0.6, "gain": {"value": 24.0, "ci95": [9.0, 30.0]},
                          "lead": {"value": -23.0, "ci95": [-30.0, -9.0]}},
    }  # fmt: skip
    assert interpolation_table(gather(make_run())) is None
    # The ends of the curve stand for models that were not asked themselves.
    metrics["models"] = {}
    run = gather(make_run(metrics=metrics))
    assert run.decision is not None and run.decision.word == "interpolate instead"
    found = interpolation_table(run)
    assert found is not None and [list(row) for row in found.rows] == [
        ["0 (tuned)", "+10.0", "30.0", "100.0", "50.0", "300", ""],
        ["0.6", "+34.0", "28.5", "92.5", "50.0", "300", "compared"],
        ["0.8", "+42.0", "20.0", "50.0", "50.0", "300, a part", ""],
        ["1 (base)", "+50.0", "10.0", "0.0", "50.0", "300", ""],
    ]
    assert "Plain interpolation of tuned and base" in html(run)
