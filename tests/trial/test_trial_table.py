import json
from collections.abc import Mapping

import pytest
from rich.console import Console

from experiments.trial.arena import Marks
from experiments.trial.choosing import Entry, Judged
from experiments.trial.seed_result import SeedResult, Showing
from experiments.trial.standings import Standing
from experiments.trial.trial_table import COLUMNS, TrialTable
from experiments.trial.ways import FINE_TUNING, WAYS

LEVELS = (95.0, 90.0)
RIVALS: tuple[str, ...] = ("interpolation", "fine-tuning")


def marks(f1: float, delta: float = 30.0, retention: float = 96.0) -> Marks:
    return Marks(f1, delta, 3.0, 80.0, retention, {})


def entry(evaluated: Marks, rivals: Mapping[str, Marks] | None = None, **settings) -> Entry:
    """Validation marks are nothing like the evaluated ones."""
    judged = Judged({"made": "restored", **settings}, marks(1.0, 2.0, 99.0), 2.0)
    other = Judged({"made": "x"}, marks(3.0, 4.0, 99.0), 7.0)
    found = {name: Entry(other, one) for name, one in (rivals or {}).items()}
    return Entry(judged, evaluated, found)


def showing(*entries: Entry | None) -> Showing:
    """One entry for each level."""
    candidates = [one.chosen for one in entries if one] or [Judged({"made": "x"}, marks(1.0), 1.0)]
    return Showing(candidates, dict(zip(LEVELS, entries, strict=True)))


def result(seed: int, showings: dict[str, Showing]) -> SeedResult:
    ends = {
        "base": {"validation": marks(90.0), "evaluated": marks(80.0 + seed, 70.0, 0.0)},
        "tuned": {"validation": marks(31.0), "evaluated": marks(30.0, 10.0, 100.0)},
        "refuse all": {
            "validation": marks(60.0),
            "evaluated": marks(66.7, 0.0, float("nan")),
        },
    }
    facts = {"arena": {"parameters": 1_900_000}, "versions": {}, "seconds": 1.0}
    return SeedResult("key", "tiny", seed, ends, showings, facts)  # pyright: ignore


def table(*results: SeedResult, world: str = "tiny") -> TrialTable:
    return TrialTable(world, results, LEVELS)


def seed(number: int) -> SeedResult:
    """Sum has the better F1 and the worse delta; natural is better in both, and keeps more."""
    s = float(number)
    line, tuning = marks(50.0, 20.0 + s, 96.0), marks(55.0, 25.0, 96.0)
    lower = marks(60.0, 28.0 + s, 91.0)
    rivals = {"interpolation": line, "fine-tuning": tuning}
    both = {"interpolation": lower, "fine-tuning": tuning}
    ways = {
        "interpolation": showing(
            entry(line, {"fine-tuning": tuning}, c=1), entry(lower, {"fine-tuning": tuning}, c=2)
        ),
        "sum": showing(
            entry(marks(52.0 + s, 15.0, 95.0), rivals, mu=1),
            entry(marks(70.0, 35.0 + s, 90.0), both, mu=number + 2),
        ),
        "natural": showing(*[entry(marks(80.0, 40.0 + s, 98.0), rivals, mu=3)] * 2),
        "balanced": showing(
            entry(marks(60.0, 30.0, 99.5), rivals, mu=4),
            entry(marks(61.0, 31.0, 99.5), both, mu=5),
        ),
        "joint": showing(None, entry(marks(40.0, 12.0, 91.0), both) if number else None),
        FINE_TUNING[0]: showing(*[entry(tuning, {"interpolation": line})] * 2),
    }
    return result(number, ways)


TABLE = table(*map(seed, range(3)))


def row(found: TrialTable, name: str, level: float = 95.0) -> Standing:
    return next(one for one in [*found.ends, *found.ways(level)] if one.name == name)


def test_rows_of_both_ends_are_of_the_evaluated_questions():
    assert [one.name for one in TABLE.ends] == ["base", "tuned", "refuse all"]
    assert row(TABLE, "base").figures["f1"].values == (80.0, 81.0, 82.0)
    assert row(TABLE, "tuned").figures["refusal_delta"].values == (10.0, 10.0, 10.0)
    assert "retention" not in row(TABLE, "refuse all").figures


def test_means_and_leads_are_taken_seed_by_seed():
    found = row(TABLE, "sum")
    assert found.figures["f1"].values == (52.0, 53.0, 54.0)
    assert found.figures["seconds"].values == (2.0, 2.0, 2.0)
    lead = found.leads["interpolation"]
    assert lead.of("f1").values == (2.0, 3.0, 4.0)
    # Deviation 1, standard error 1 / sqrt(3), t = 4.303.
    assert lead.of("f1").half_width == pytest.approx(2.484, abs=1e-3)
    assert lead.of("refusal_delta").values == (-5.0, -6.0, -7.0)


def test_the_rival_is_the_one_of_the_entry_at_its_level():
    """At 90 % interpolation is another model than at 95 %."""
    assert row(TABLE, "sum", 90.0).leads["interpolation"].of("f1").values == (10.0, 10.0, 10.0)
    assert row(TABLE, "sum", 90.0).leads["fine-tuning"].of("f1").values == (15.0, 15.0, 15.0)
    deltas = row(TABLE, "sum", 90.0).leads["interpolation"].of("refusal_delta")
    assert deltas.values == (7.0, 7.0, 7.0)


def test_a_rival_is_compared_with_the_other_one():
    assert row(TABLE, FINE_TUNING[0]).leads.keys() == {"interpolation"}
    assert row(TABLE, "interpolation").leads.keys() == {"fine-tuning"}


def test_a_seed_without_an_entry_is_not_averaged_and_is_told():
    found = row(TABLE, "joint", 90.0)
    assert (found.seeds, found.of) == (2, 3)
    assert found.leads["interpolation"].of("f1").values == (-20.0, -20.0)
    absent = row(TABLE, "joint")
    assert (absent.seeds, absent.figures, absent.leads) == (0, {}, {})
    assert absent.cells(RIVALS, " ") == ["joint", "0/3", *[""] * (len(COLUMNS) - 2)]


def test_paired_columns_tell_over_how_many_seeds():
    """A rival that is missing in one seed of three."""
    results = [seed(number) for number in range(3)]
    shown = results[1].showings["sum"]
    bare = Entry(shown.entries[95.0].chosen, marks(52.0))  # pyright: ignore
    shown.entries[95.0] = bare
    cells = dict(zip(COLUMNS, row(table(*results), "sum").cells(RIVALS, " "), strict=True))
    assert cells["seeds"] == "3/3"
    assert cells["F1 vs int.*"] == "+3.0 ±12.7 (n 2)"
    assert cells["delta vs tun.**"] == "-10.0 ±0.0 (n 2)"


def test_columns_name_the_figure_and_the_rival_of_their_cells():
    cells = dict(zip(COLUMNS, row(TABLE, "sum").cells(RIVALS, " "), strict=True))
    assert cells["delta vs int.*"] == "-6.0 ±2.5" and cells["F1 vs int.*"] == "+3.0 ±2.5"
    assert cells["delta vs tun.**"] == "-10.0 ±0.0" and cells["F1 vs tun.**"] == "-2.0 ±2.5"


def test_the_task_is_named_by_the_figure_that_judges_it():
    assert "| exact |" in TABLE.to_markdown() and "answered exactly right" in TABLE.to_markdown()
    judged = [seed(0), seed(1)]
    for one in judged:
        one.facts["arena"]["task_figure"] = "option accuracy"
    text = table(*judged).to_markdown()
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


def test_a_way_that_differs_in_one_seed_is_compared_again():
    results = [seed(number) for number in range(3)]
    changed = entry(marks(90.0, 60.0), {"interpolation": marks(50.0)}, mu=9)
    results[2].showings["natural"].entries[90.0] = changed
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
        own, theirs = marks(100.0 * (s % 2), 0.0, 100.0), marks(100.0 * (1 - s % 2), 100.0, 100.0)
        # Of two seeds the paired columns have one, which is told in a third line.
        there = dict.fromkeys(RIVALS, theirs) if s or seeds > 2 else {}
        ways = {way.name: showing(*[entry(own, there)] * 2) for way in WAYS}
        results.append(result(s, ways))
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
    assert row(single, "sum").cells(RIVALS, " ")[2] == "52.0"
    assert "±" not in single.to_markdown()
    assert single.as_dict()["tables"]["95"]["ways"][1]["f1"]["half_width"] is None
    assert single.comparisons == 0
    assert "One seed has no interval" in single.notes[-1]


def test_without_rivals_nothing_is_compared():
    ways = {"sum": showing(entry(marks(50.0), mu=1), entry(marks(51.0), mu=2))}
    alone = table(*(result(s, ways) for s in range(2)))
    assert alone.verdicts(95.0) == []
    assert row(alone, "sum").cells(RIVALS, " ")[-4:] == [""] * 4


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
    ways = {one["name"]: one for one in found["tables"]["95"]["ways"]}
    lead = ways["sum"]["leads"]["interpolation"]
    assert lead["f1"]["values"] == [2.0, 3.0, 4.0] and lead["f1"]["verdict"] == "better"
    assert lead["refusal_delta"]["values"] == [-5.0, -6.0, -7.0]
    assert lead["refusal_delta"]["verdict"] == "worse"
    assert lead["kept"] == {"row": 95.0, "rival": 96.0} and lead["n"] == 3
    assert ways["balanced"]["leads"]["interpolation"]["f1"]["verdict"] == "not compared"
    again = [SeedResult.from_dict(one) for one in found["results"]]
    assert TrialTable("tiny", again, LEVELS).to_markdown() == text


def test_a_choice_at_the_edge_of_its_grid_is_told():
    line = [Judged({"made": "x", "coefficient": c}, marks(50.0 + c), 0.0) for c in (0.1, 0.2, 0.3)]
    one = seed(0)
    entries: dict[float, Entry | None] = {
        95.0: Entry(line[1], marks(50.0)),
        90.0: Entry(line[2], marks(50.0)),
    }
    one.showings["interpolation"] = Showing(line, entries)
    text = table(one).to_markdown()
    assert "| interpolation | c 0.2 |" in text
    assert "| interpolation | c 0.3 (at the edge: c) |" in text
    assert "settings with only two values are not marked" in text
