import json
from collections.abc import Mapping

import pytest
from rich.console import Console

from experiments.trial.method_summary import MethodSummary
from experiments.trial.methods import FINE_TUNING, METHODS
from experiments.trial.metrics import Metrics
from experiments.trial.seed_result import MethodResult, SeedResult
from experiments.trial.selection import Scored, Selected
from experiments.trial.trial_table import COLUMNS, TrialTable

LEVELS = (95.0, 90.0)
BASELINES: tuple[str, ...] = ("interpolation", "fine-tuning")


def metrics(f1: float, delta: float = 30.0, retention: float = 96.0) -> Metrics:
    return Metrics(f1, delta, 3.0, 80.0, retention, {})


def selected(
    evaluated: Metrics, baselines: Mapping[str, Metrics] | None = None, **settings
) -> Selected:
    """Validation metrics are nothing like the test ones."""
    scored = Scored({"made": "restored", **settings}, metrics(1.0, 2.0, 99.0), 2.0)
    other = Scored({"made": "x"}, metrics(3.0, 4.0, 99.0), 7.0)
    found = {name: Selected(other, one) for name, one in (baselines or {}).items()}
    return Selected(scored, evaluated, found)


def method_result(*selections: Selected | None) -> MethodResult:
    """One selection for each level."""
    candidates = [one.candidate for one in selections if one] or [
        Scored({"made": "x"}, metrics(1.0), 1.0)
    ]
    return MethodResult(candidates, dict(zip(LEVELS, selections, strict=True)))


def result(seed: int, method_results: dict[str, MethodResult]) -> SeedResult:
    references = {
        "base": {"validation": metrics(90.0), "evaluated": metrics(80.0 + seed, 70.0, 0.0)},
        "tuned": {"validation": metrics(31.0), "evaluated": metrics(30.0, 10.0, 100.0)},
        "refuse all": {
            "validation": metrics(60.0),
            "evaluated": metrics(66.7, 0.0, float("nan")),
        },
    }
    facts = {"arena": {"parameters": 1_900_000}, "versions": {}, "seconds": 1.0}
    return SeedResult("key", "tiny", seed, references, method_results, facts)  # pyright: ignore


def table(*results: SeedResult, world: str = "tiny") -> TrialTable:
    return TrialTable(world, results, LEVELS)


def seed(number: int) -> SeedResult:
    """Sum has the better F1 and the worse delta; natural is better in both, and keeps more."""
    s = float(number)
    line, tuning = metrics(50.0, 20.0 + s, 96.0), metrics(55.0, 25.0, 96.0)
    lower = metrics(60.0, 28.0 + s, 91.0)
    baselines = {"interpolation": line, "fine-tuning": tuning}
    both = {"interpolation": lower, "fine-tuning": tuning}
    methods = {
        "interpolation": method_result(
            selected(line, {"fine-tuning": tuning}, c=1),
            selected(lower, {"fine-tuning": tuning}, c=2),
        ),
        "sum": method_result(
            selected(metrics(52.0 + s, 15.0, 95.0), baselines, mu=1),
            selected(metrics(70.0, 35.0 + s, 90.0), both, mu=number + 2),
        ),
        "natural": method_result(*[selected(metrics(80.0, 40.0 + s, 98.0), baselines, mu=3)] * 2),
        "balanced": method_result(
            selected(metrics(60.0, 30.0, 99.5), baselines, mu=4),
            selected(metrics(61.0, 31.0, 99.5), both, mu=5),
        ),
        "joint": method_result(None, selected(metrics(40.0, 12.0, 91.0), both) if number else None),
        FINE_TUNING[0]: method_result(*[selected(tuning, {"interpolation": line})] * 2),
    }
    return result(number, methods)


TABLE = table(*map(seed, range(3)))


def row(found: TrialTable, name: str, level: float = 95.0) -> MethodSummary:
    return next(one for one in [*found.references, *found.methods(level)] if one.name == name)


def test_rows_of_both_ends_are_of_the_evaluated_questions():
    assert [one.name for one in TABLE.references] == ["base", "tuned", "refuse all"]
    assert row(TABLE, "base").figures["f1"].values == (80.0, 81.0, 82.0)
    assert row(TABLE, "tuned").figures["refusal_delta"].values == (10.0, 10.0, 10.0)
    assert "retention" not in row(TABLE, "refuse all").figures


def test_means_and_differences_are_taken_seed_by_seed():
    found = row(TABLE, "sum")
    assert found.figures["f1"].values == (52.0, 53.0, 54.0)
    assert found.figures["seconds"].values == (2.0, 2.0, 2.0)
    difference = found.differences["interpolation"]
    assert difference.of("f1").values == (2.0, 3.0, 4.0)
    # Deviation 1, standard error 1 / sqrt(3), t = 4.303.
    assert difference.of("f1").half_width == pytest.approx(2.484, abs=1e-3)
    assert difference.of("refusal_delta").values == (-5.0, -6.0, -7.0)


def test_the_baseline_is_the_one_of_the_selection_at_its_level():
    """At 90 % interpolation is another model than at 95 %."""
    assert row(TABLE, "sum", 90.0).differences["interpolation"].of("f1").values == (
        10.0,
        10.0,
        10.0,
    )
    assert row(TABLE, "sum", 90.0).differences["fine-tuning"].of("f1").values == (15.0, 15.0, 15.0)
    deltas = row(TABLE, "sum", 90.0).differences["interpolation"].of("refusal_delta")
    assert deltas.values == (7.0, 7.0, 7.0)


def test_a_baseline_is_compared_with_the_other_one():
    assert row(TABLE, FINE_TUNING[0]).differences.keys() == {"interpolation"}
    assert row(TABLE, "interpolation").differences.keys() == {"fine-tuning"}


def test_a_seed_without_a_selection_is_not_averaged_and_is_told():
    found = row(TABLE, "joint", 90.0)
    assert (found.seeds, found.of) == (2, 3)
    assert found.differences["interpolation"].of("f1").values == (-20.0, -20.0)
    absent = row(TABLE, "joint")
    assert (absent.seeds, absent.figures, absent.differences) == (0, {}, {})
    assert absent.cells(BASELINES, " ") == ["joint", "0/3", *[""] * (len(COLUMNS) - 2)]


def test_paired_columns_tell_over_how_many_seeds():
    """A baseline that is missing in one seed of three."""
    results = [seed(number) for number in range(3)]
    shown = results[1].method_results["sum"]
    bare = Selected(shown.selections[95.0].candidate, metrics(52.0))  # pyright: ignore
    shown.selections[95.0] = bare
    cells = dict(zip(COLUMNS, row(table(*results), "sum").cells(BASELINES, " "), strict=True))
    assert cells["seeds"] == "3/3"
    assert cells["F1 vs int.*"] == "+3.0 ±12.7 (n 2)"
    assert cells["delta vs tun.**"] == "-10.0 ±0.0 (n 2)"


def test_columns_name_the_figure_and_the_baseline_of_their_cells():
    cells = dict(zip(COLUMNS, row(TABLE, "sum").cells(BASELINES, " "), strict=True))
    assert cells["delta vs int.*"] == "-6.0 ±2.5" and cells["F1 vs int.*"] == "+3.0 ±2.5"
    assert cells["delta vs tun.**"] == "-10.0 ±0.0" and cells["F1 vs tun.**"] == "-2.0 ±2.5"


def test_the_task_is_named_by_the_figure_that_judges_it():
    assert "| exact |" in TABLE.to_markdown() and "answered exactly right" in TABLE.to_markdown()
    scored = [seed(0), seed(1)]
    for one in scored:
        one.facts["arena"]["task_figure"] = "option accuracy"
    text = table(*scored).to_markdown()
    assert "| option accuracy |" in text and "exact" not in text


def test_who_wins_who_loses_and_who_cannot_be_told():
    delta, f1, delta_tuning, f1_tuning, *_ = TABLE.verdicts(95.0)
    assert delta == (
        "Refusal delta against interpolation at 95 %: better: 'natural' (+20.0 ±0.0), "
        "'fine-tuning, honesty' (+4.0 ±2.5); worse: 'sum' (-6.0 ±2.5); not told apart: no way; not "
        "compared: 'balanced' (keeps 3.5 points more)."
    )
    assert f1 == (
        "F1 against interpolation at 95 %: better: 'sum' (+3.0 ±2.5), 'natural' (+30.0 ±0.0), "
        "'fine-tuning, honesty' (+5.0 ±0.0); worse: no way; not told apart: no way; not compared: "
        "'balanced' (keeps 3.5 points more)."
    )
    assert delta_tuning.startswith("Refusal delta against fine-tuning at 95 %: better: 'natural'")
    assert f1_tuning.endswith(
        "not told apart: 'sum'; not compared: 'balanced' (keeps 3.5 points more)."
    )
    assert "No candidate of 'joint' kept 95 %" in TABLE.verdicts(95.0)[-1]


def test_a_model_that_was_sent_in_at_a_higher_level_is_not_compared_again():
    lower = TABLE.verdicts(90.0)
    assert lower[-1] == (
        "Left out, because they sent in the same models as at a higher level: 'natural', "
        "'fine-tuning, honesty'."
    )
    assert not any("natural" in one or "honesty" in one for one in lower[:-1])
    assert not any("Left out" in one for one in TABLE.verdicts(95.0))
    assert "| natural | as above | as above | as above |" in TABLE.to_markdown()


def test_a_method_that_differs_in_one_seed_is_compared_again():
    results = [seed(number) for number in range(3)]
    changed = selected(metrics(90.0, 60.0), {"interpolation": metrics(50.0)}, mu=9)
    results[2].method_results["natural"].selections[90.0] = changed
    found = table(*results)
    assert "'natural'" in found.verdicts(90.0)[0]
    assert "| natural | as above | as above | mu 9 |" in found.to_markdown()


def test_the_number_of_comparisons_is_that_of_the_verdicts():
    """Not balanced, which keeps too much, nor what was compared at a higher level."""
    # At 95 %: sum 4, natural 4, interpolation 2, fine-tuning 2; at 90 %: interpolation 0, which
    # keeps 5 points less, sum 2 with interpolation, joint 2.
    assert TABLE.comparisons == 12 + 4
    text = " ".join(TABLE.notes)
    assert "makes 16 comparisons in words and corrects none" in text
    assert "about one in twenty would exclude 0 by chance" in text
    assert TABLE.as_dict()["comparisons"] == 16


def wild(seeds: int) -> TrialTable:
    """The widest figures that percentages can have, over the real names."""
    results = []
    for s in range(seeds):
        own, theirs = (
            metrics(100.0 * (s % 2), 0.0, 100.0),
            metrics(100.0 * (1 - s % 2), 100.0, 100.0),
        )
        # Of two seeds the paired columns have one, which is told in a third line.
        there = dict.fromkeys(BASELINES, theirs) if s or seeds > 2 else {}
        methods = {method.name: method_result(*[selected(own, there)] * 2) for method in METHODS}
        results.append(result(s, methods))
    return table(*results)


@pytest.mark.parametrize("found", [TABLE, wild(2), wild(3)], ids=["usual", "wild 2", "wild 3"])
def test_it_fits_100_columns_with_every_figure_and_says_how_it_was_made(found: TrialTable):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(found.to_rich())
    text = capture.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    for part in (
        *("at least 95 % of the gain in likelihood kept", "at least 90 % of the gain"),
        *("refuse all", "leads, not claims"),
    ):
        assert part in words


def test_one_seed_has_means_and_no_interval():
    single = table(seed(0))
    assert row(single, "sum").cells(BASELINES, " ")[2] == "52.0"
    assert "±" not in single.to_markdown()
    assert single.as_dict()["tables"]["95"]["ways"][1]["f1"]["half_width"] is None
    assert single.comparisons == 0
    assert "One seed has no interval" in single.notes[-1]


def test_without_baselines_nothing_is_compared():
    methods = {"sum": method_result(selected(metrics(50.0), mu=1), selected(metrics(51.0), mu=2))}
    alone = table(*(result(s, methods) for s in range(2)))
    assert alone.verdicts(95.0) == []
    assert row(alone, "sum").cells(BASELINES, " ")[-4:] == [""] * 4


def test_the_notes_take_their_numbers_from_the_data():
    text = " ".join(TABLE.notes)
    assert "3 seeds (0, 1, 2), 1.90 M parameter models" in text
    assert "Settings tried: 'interpolation' 2, 'sum' 2," in text
    assert "'joint' 1" in text
    assert "no fresh trial" not in text
    assert "Synthetic seeds 0 to 2 were used" in " ".join(
        table(*map(seed, range(2, 5)), world="synthetic").notes
    )


def test_markdown_and_json_carry_the_same():
    text = TABLE.to_markdown()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1, 5}
    assert "| sum | mu 2 | mu 3 | mu 4 |" in text
    assert "| joint | none qualified | none qualified | none qualified |" in text
    assert "### At least 95 % of the gain in likelihood kept" in text
    found = json.loads(json.dumps(TABLE.as_dict()))
    methods = {one["name"]: one for one in found["tables"]["95"]["ways"]}
    difference = methods["sum"]["leads"]["interpolation"]
    assert difference["f1"]["values"] == [2.0, 3.0, 4.0] and difference["f1"]["verdict"] == "better"
    assert difference["refusal_delta"]["values"] == [-5.0, -6.0, -7.0]
    assert difference["refusal_delta"]["verdict"] == "worse"
    assert difference["kept"] == {"row": 95.0, "rival": 96.0} and difference["n"] == 3
    assert methods["balanced"]["leads"]["interpolation"]["f1"]["verdict"] == "not compared"
    again = [SeedResult.from_dict(one) for one in found["results"]]
    assert TrialTable("tiny", again, LEVELS).to_markdown() == text


def test_a_choice_at_the_edge_of_its_grid_is_told():
    line = [
        Scored({"made": "x", "coefficient": c}, metrics(50.0 + c), 0.0) for c in (0.1, 0.2, 0.3)
    ]
    one = seed(0)
    selections: dict[float, Selected | None] = {
        95.0: Selected(line[1], metrics(50.0)),
        90.0: Selected(line[2], metrics(50.0)),
    }
    one.method_results["interpolation"] = MethodResult(line, selections)
    text = table(one).to_markdown()
    assert "| interpolation | c 0.2 |" in text
    assert "| interpolation | c 0.3 (at the edge: c) |" in text
    assert "settings with only two values are not marked" in text
