"""The journal of a run and the result that follows from it."""

import pytest

from bench.goals import Goal, derived, judged
from bench.journal import UNFINISHED, Journal, fold, load
from bench.outputs import Outputs
from bench.report import cells, markdown


def record(section: str, case: str, **facts: object) -> dict:
    return {"kind": "record", "section": section, "case": case, "title": case, **facts}


RUN = {"kind": "run", "device": {"name": "A Card"}}


def test_a_line_that_was_cut_off_costs_itself_alone(tmp_path):
    journal = Journal([tmp_path / "a.jsonl"])
    journal.restart("run", device={"name": "A Card"})
    journal.add("record", section="gram", case="one", title="one")
    with journal.files[0].open("a") as file:
        file.write('{"kind": "record", "section": "gr')
    journal.add("record", section="gram", case="two", title="two")
    assert [one["title"] for one in fold(journal.entries())["records"]] == ["one", "two"]


def test_a_case_that_is_measured_again_replaces_what_there_was():
    earlier = fold([RUN, record("gram", "one", value=1), record("gram", "two", value=2)])
    again = [{"kind": "earlier", "result": earlier}, RUN, record("gram", "two", value=3)]
    found = fold(again)
    assert [(one["case"], one["value"], one["run"]) for one in found["records"]] == [
        ("one", 1, 1), ("two", 3, 2),
    ]  # fmt: skip
    assert "measured by 2 commands" in markdown(found)


def test_a_case_that_merely_began_replaces_nothing():
    begin = {"kind": "begin", "section": "gram", "case": "one"}
    (lost,) = fold([RUN, begin])["records"]
    assert lost["failed"] == UNFINISHED
    earlier = fold([RUN, record("gram", "one", value=1)])
    assert fold([{"kind": "earlier", "result": earlier}, RUN, begin])["records"][0]["value"] == 1
    # ... and is itself replaced, by a result of the same run or of the next one.
    (found,) = fold([RUN, begin, record("gram", "one", value=2)])["records"]
    assert found["value"] == 2
    after = [{"kind": "earlier", "result": fold([RUN, begin])}, RUN, record("gram", "one", value=3)]
    assert [one.get("value") for one in fold(after)["records"]] == [3]


def test_the_journal_goes_before_the_files_made_from_it(tmp_path):
    outputs = Outputs.open([tmp_path], {"name": "A Card"})
    outputs.journal.add("record", section="gram", case="one", title="one")
    found = load(tmp_path / "a-card-partial.json")
    assert [one["title"] for one in found["records"]] == ["one"]
    outputs.conclude(["gram"])
    assert not (tmp_path / "a-card-partial.jsonl").exists()
    assert load(tmp_path / "a-card-partial.json")["records"] == found["records"]


def test_a_record_that_fits_no_table_costs_the_table_alone(tmp_path):
    outputs = Outputs.open([tmp_path], {"name": "A Card"})
    outputs.journal.add("record", section="gram", case="one", title="one", ms="odd")
    outputs.refresh()
    outputs.conclude(["gram"])
    assert load(tmp_path / "a-card-partial.json")["records"][0]["ms"] == "odd"
    assert "no table" in (tmp_path / "a-card-partial.md").read_text()


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("{}", "not results")])
def test_what_holds_no_results_is_refused(text, said, tmp_path):
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        load(tmp_path / "x.json")


def test_rows_over_all_cases_hold_whichever_process_measured_them():
    records = [
        {"deterministic": True, "width": 1024, "width_ratio": 0.9},
        {"deterministic": False, "width": 4096, "width_ratio": 1.4},
    ]
    same, crossover = derived(records)
    assert same["goal"]["value"] == 0.5
    assert crossover["goal"]["value"] == 4096
    assert derived([{"title": "no such facts"}]) == []


@pytest.mark.parametrize(
    ("value", "at_most", "met"),
    [(2.0, False, True), (1.9, False, False), (2.0, True, True), (2.1, True, False)],
)
def test_a_target_is_met_on_its_side_alone(value, at_most, met):
    found = judged("a ratio", value, 2.0, 3.0, at_most)
    assert found["met"] is met
    assert found["target"] == ("<= 2" if at_most else ">= 2")
    assert (
        Goal("a ratio", lambda record: record["x"], 2.0, at_most=at_most).judged({"x": value})[
            "met"
        ]
        is met
    )
    assert cells({"title": "one", "goal": found})[-2] == ("yes" if met else "**no**")
    for without in (judged("a ratio", value), judged("a ratio", None, 2.0)):
        assert without["met"] is None and cells({"title": "one", "goal": without})[-2] == ""
