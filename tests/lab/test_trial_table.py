import json

import pytest
from rich.console import Console

from hcnr.lab.arena import Marks
from hcnr.lab.choosing import Entry, Judged
from hcnr.lab.seed_result import SeedResult, Showing
from hcnr.lab.seeds import Spread
from hcnr.lab.standings import Standing, verdict
from hcnr.lab.trial_table import RIVALS, TrialTable, at_edge, best_of
from hcnr.lab.ways import FINE_TUNING, WAYS

LEVELS = (95.0, 90.0)


def marks(f1: float, retention: float = 96.0, delta: float | None = None) -> Marks:
    return Marks(f1, f1 / 2 if delta is None else delta, 3.0, 80.0, retention, {})


def entry(f1: float, validation: float | None = None, **settings) -> Entry:
    judged = Judged({"made": "restored", **settings}, marks(validation or f1), 2.0)
    return Entry(judged, marks(f1))


def showing(found: Entry | None) -> Showing:
    candidates = [found.chosen] if found else [Judged({"made": "restored"}, marks(10.0, 20.0), 1.0)]
    return Showing(candidates, dict.fromkeys(LEVELS, found))


def result(seed: int, **f1s: Entry | None) -> SeedResult:
    names = {"line": "interpolation", "one": FINE_TUNING[0], "both": FINE_TUNING[1]}
    ends = {
        "base": {"validation": marks(90.0, 0.0), "evaluated": marks(80.0 + seed, 0.0)},
        "tuned": {"validation": marks(30.0, 100.0), "evaluated": marks(30.0, 100.0)},
        "refuse all": {"evaluated": marks(66.7, float("nan"), 0.0)},
    }
    showings = {names.get(name, name): showing(found) for name, found in f1s.items()}
    facts = {"arena": {"parameters": 1_900_000}, "versions": {}, "seconds": 1.0}
    return SeedResult("key", "tiny", seed, ends, showings, facts)  # pyright: ignore


def table(*results: SeedResult) -> TrialTable:
    return TrialTable("tiny", results, LEVELS)


TABLE = table(
    result(0, line=entry(50.0), sum=entry(49.0), natural=entry(60.0, mu=1), joint=None,
           one=entry(55.0, 90.0), both=entry(58.0, 80.0)),
    result(1, line=entry(52.0), sum=entry(54.0), natural=entry(62.5, mu=2), joint=None,
           one=entry(56.0, 70.0), both=entry(59.0, 80.0)),
    result(2, line=entry(51.0), sum=entry(50.0), natural=entry(60.5, mu=3), joint=None,
           one=entry(50.0, 85.0), both=None),
)  # fmt: skip


def row(found: TrialTable, name: str) -> Standing:
    return next(one for one in [*found.ends, *found.ways(95.0)] if one.name == name)


def test_means_and_leads_are_taken_seed_by_seed():
    found = row(TABLE, "natural")
    assert found.figures["f1"].values == (60.0, 62.5, 60.5)
    assert found.figures["seconds"].values == (2.0, 2.0, 2.0)
    assert found.leads["interpolation"].values == (10.0, 10.5, 9.5)
    # Deviation 0.5, standard error 0.5 / sqrt(3), t = 4.303.
    assert found.leads["interpolation"].half_width == pytest.approx(1.242, abs=1e-3)
    assert found.delta_leads["interpolation"].values == (5.0, 5.25, 4.75)


def test_the_rival_of_fine_tuning_is_chosen_by_its_validation_marks():
    """Honesty only in seeds 0 and 2, both in seed 1: by validation, whatever the other marks."""
    assert row(TABLE, "natural").leads["fine-tuning"].values == (5.0, 3.5, 10.5)
    assert best_of([None, None]) is None
    assert row(TABLE, FINE_TUNING[0]).leads.keys() == {"interpolation"}
    assert row(TABLE, "interpolation").leads.keys() == {"fine-tuning"}


def test_a_seed_without_an_entry_is_not_averaged_and_is_told():
    found = row(TABLE, FINE_TUNING[1])
    assert (found.seeds, found.of) == (2, 3)
    assert found.figures["f1"].values == (58.0, 59.0)
    assert found.leads["interpolation"].values == (8.0, 7.0)
    absent = row(TABLE, "joint")
    assert (absent.seeds, absent.figures, absent.leads) == (0, {}, {})
    assert absent.cells(RIVALS, " ") == ["joint", "0/3", *[""] * 8]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((10.0, 10.5, 9.5), "better"),
        ((-10.0, -10.5, -9.5), "worse"),
        ((10.0, -1.0, 3.0), "undecided"),
        ((0.0, 0.0, 0.0), "undecided"),
        ((99.0,), "undecided"),
    ],
)
def test_nothing_is_claimed_where_the_interval_holds_0(values: tuple[float, ...], found: str):
    assert verdict(Spread(values)) == found


def test_who_wins_who_loses_and_who_cannot_be_told():
    losing = table(*(result(s, line=entry(60.0 + s), sum=entry(50.0 + s)) for s in range(3)))
    (f1, delta) = losing.verdicts(95.0)
    assert f1 == (
        "F1 against interpolation at 95 %: better: no way; worse: 'sum' (-10.0 ±0.0); not told "
        "apart: no way."
    )
    assert delta.startswith("Refusal delta against interpolation at 95 %: better: no way; worse")
    found = " ".join(TABLE.verdicts(95.0))
    assert "'natural' (+10.0 ±1.2)" in found
    assert "not told apart: 'sum'" in found
    assert "No candidate of 'joint' kept 95 %" in found


def test_it_fits_100_columns_with_every_figure_and_says_how_it_was_made():
    """The widest figures that percentages can have, over the real names."""
    wild = table(
        *(
            result(s, **{way.name: entry(100.0 * (s % 2), delta=0) for way in WAYS})
            for s in range(2)
        )
    )
    for found in (TABLE, wild):
        console = Console(width=100)
        with console.capture() as capture:
            console.print(found.to_rich())
        text = capture.get()
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 100
        words = " ".join(text.split())
        for part in ("at least 95 %", "at least 90 %", "refuse all", "leads, not claims"):
            assert part in words
    assert "0/3" in TABLE.to_markdown() and "+10.0 ±1.2" in TABLE.to_markdown()


def test_one_seed_has_means_and_no_interval():
    single = table(result(0, line=entry(50.0), sum=entry(49.0)))
    assert row(single, "sum").cells(RIVALS, " ")[2] == "49.0"
    assert "±" not in single.to_markdown()
    assert single.as_dict()["tables"]["95"]["ways"][1]["f1"]["half_width"] is None


def test_without_rivals_nothing_is_compared():
    alone = table(*(result(s, sum=entry(50.0 + s)) for s in range(2)))
    assert alone.verdicts(95.0) == []
    assert row(alone, "sum").cells(RIVALS, " ")[-2:] == ["", ""]


def test_markdown_and_json_carry_the_same():
    text = TABLE.to_markdown()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines if "settings" not in line}) == 2
    assert "| natural | mu 1 | mu 2 | mu 3 |" in text.replace("made restored, ", "")
    assert "| joint | none qualified | none qualified | none qualified |" in text
    found = json.loads(json.dumps(TABLE.as_dict()))
    ways = {one["name"]: one for one in found["tables"]["95"]["ways"]}
    assert ways["natural"]["leads"]["interpolation"]["f1"]["verdict"] == "better"
    assert ways["sum"]["leads"]["interpolation"]["f1"]["values"] == [-1.0, 2.0, -1.0]
    assert found["results"][0]["ways"]["natural"]["candidates"][0]["front"] is True
    again = [SeedResult.from_dict(one) for one in found["results"]]
    assert TrialTable("tiny", again, LEVELS).to_markdown() == text


def test_a_choice_at_the_edge_of_its_grid_is_told():
    tried = [{"mu": mu, "steps": steps, "kind": "a", "after": {"c": mu}} for mu in (1, 2, 3)
             for steps in (1, 9)]  # fmt: skip
    assert at_edge({"mu": 2, "steps": 9, "kind": "a", "after": {"c": 2}}, tried) == []
    assert at_edge({"mu": 3, "steps": 1, "kind": "a", "after": {"c": 1}}, tried) == ["mu", "c"]
    line = [Judged({"made": "x", "coefficient": c}, marks(50.0 + c), 0.0) for c in (0.1, 0.2, 0.3)]
    found: dict[float, Entry | None] = dict.fromkeys(LEVELS, Entry(line[2], marks(50.0)))
    one = result(0, sum=entry(50.0))
    one.showings["interpolation"] = Showing(line, found)
    assert "| interpolation | c 0.3 (at the edge: c) |" in table(one).to_markdown()
