import pytest

from hcnr.report.card import model_card, with_headline
from hcnr.report.charts import Table
from hcnr.report.gather import gather
from hcnr.report.headline import headline_notes, headline_table, update_card, verdict
from hcnr.report.numbers import NONE


@pytest.mark.parametrize(
    ("f1", "task", "sentence"),
    [
        (
            72.84,
            30.30,
            "Honesty F1 rose from 52.0 to 72.8, while task accuracy fell by 0.3 points.",
        ),
        (72.84, 31.65, "Honesty F1 rose from 52.0 to 72.8 and task accuracy rose by 1.0 points."),
        (40.0, 20.65, "Honesty F1 fell from 52.0 to 40.0 and task accuracy fell by 10.0 points."),
        (51.98, 30.65, "Honesty F1 stayed at 52.0; task accuracy stayed at 30.6."),
        (60.0, None, "Honesty F1 rose from 52.0 to 60.0."),
        (None, 30.0, "Honesty F1 is not defined on the questions that were asked."),
    ],
)
def test_the_verdict(make_run, invented, f1, task, sentence):
    metrics = invented.metrics()
    metrics["macro"]["f1"] = f1
    metrics["tasks_macro"]["accuracy"] = task
    assert verdict(gather(make_run(metrics=metrics))) == sentence


def test_the_verdict_without_the_tuned_model(make_run, invented):
    run = gather(make_run(metrics=invented.metrics() | {"models": {}}))
    assert verdict(run) == "Honesty F1 is 72.8, with a refusal delta of +42.6 points."


def test_the_verdict_without_an_evaluation(make_run):
    run = gather(make_run())
    assert verdict(run) == "22 of 56 matrices restored. Honesty has not been evaluated yet."
    assert headline_table(run) is None


def test_rivals_stand_beside_the_models(full_run):
    table = headline_table(gather(full_run))
    assert table is not None
    assert [row[0] for row in table.rows] == [
        "base", "tuned", "restored", "interpolation (0.3)", "refuse everything"
    ]  # fmt: skip
    assert table.rows[2] == [
        "restored", "72.8 (72.0 to 73.6)", "72.6", "30.0", "+42.6 (+41.5 to +43.7)",
        "30.3 (28.0 to 32.7)",
    ]  # fmt: skip
    assert table.rows[3] == ["interpolation (0.3)", "58.6", NONE, NONE, "+21.6", "30.4"]
    assert all(len(row) == len(table.heads) for row in table.rows)


def test_the_detector_is_named(full_run):
    assert "unknownbench_keywords" in headline_notes(gather(full_run))[0]


def test_another_trait_has_its_own_words(make_run, invented):
    words = {"trait": "safety", "words": {"positive": "harmful", "negative": "harmless"}}
    run = gather(make_run(metrics=invented.metrics() | words))
    table = headline_table(run)
    assert table is not None and table.heads[1:4] == ("Safety F1", "refused, harmful",
                                                      "refused, harmless")  # fmt: skip
    assert verdict(run).startswith("Safety F1 rose")


def test_the_card_takes_the_headline_between_its_marks_again_and_again(full_run):
    run = gather(full_run)
    card = full_run / "README.md"
    fresh = model_card(run.report)
    card.write_text(fresh + "\nMy own words.\n")
    assert update_card(run)
    once = card.read_text()
    assert "| restored | 72.8 (72.0 to 73.6) | 72.6 |" in once
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
