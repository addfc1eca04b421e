import copy
import io
import json
import re

import pytest
from rich.console import Console

import hcnr
from hcnr.errors import DataError
from hcnr.record.card import model_card
from hcnr.record.writing import read_report
from hcnr.report.figures.models import all_charts
from hcnr.report.gather import gather
from hcnr.report.page import html
from hcnr.report.terminal import print_report
from pairs import config

KINDS = ["spectral", "natural", "spectral+natural"]


def words(page):
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def terminal(report, width=80):
    console = Console(file=io.StringIO(), width=width)
    print_report(report, console, most=3)
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def test_the_page_sums_the_repair_up(make_run, invented):
    page = html(gather(make_run(report=invented.two_sided("spectral"))))
    text = words(page)
    assert '<tr class="strong"><th scope="row">3.16</th>' in page
    assert "22 of 56 matrices repaired. Honesty has not been evaluated yet." in text
    assert "with part of what fine-tuning changed given back to honest-8b . No training" in text
    assert "22 of 56 matrices were repaired as a whole (spectral), 23,068,672 parameters" in text
    assert "task weight mu 3.16 (found by a search, 5 tried)" in text
    assert re.search(r"directions restored [\d,]+ in effect \(3\d\.\d% of those of the", text)
    assert "mu = 3.16 is the smallest of 5 task weights that keeps 98%" in text
    assert "3.16 98.3 yes yes 10 99.4 yes" in text
    assert "Measuring took 2 passes." in text
    assert "Natural steps" not in text
    assert "neurons along the" not in text and "agree on" not in text


def test_what_such_a_repair_does_not_take_is_not_asked_for(make_run, invented):
    report = invented.two_sided("spectral")
    del report["scores"]
    text = words(html(gather(make_run(report=report))))
    assert "What this report could also show" in text and "Fisher scores" not in text
    report = invented.report()
    del report["scores"]
    assert "Fisher scores" in words(html(gather(make_run(report=report))))


def test_the_page_tells_the_steps(make_run, invented):
    report = invented.two_sided("natural", searched=False)
    report["two_sided"]["groups"] = 3
    text = words(html(gather(make_run(report=report))))
    assert "honest-8b-hotpotqa after natural steps down the honesty loss; its base is" in text
    assert "natural steps 3, honesty loss 2.412 to 1.402" in text
    assert "3 natural steps lowered the mean honesty loss from 2.412 to 1.402." in text
    assert "2 1.873 1.541 4.87 30.0%" in text
    assert "Measuring took 5 passes, for 3 groups of matrices one after the other." in text
    assert "Search for the task weight" not in text


def test_a_searched_weight_of_another_kind_is_told(make_run, invented):
    plain = invented.report()
    page = words(html(gather(make_run(report=plain))))
    searched = plain | {"two_sided": invented.two_sided()["two_sided"] | {"kind": "balanced"}}
    searched["two_sided"] |= {"passes": 0, "groups": 0}
    text = words(html(gather(make_run(report=searched))))
    assert "mu = 3.16 is the smallest of 5" in text and "mu = 3.16" not in page
    for said in ("11,264 neurons along the output axis", "56 matrices restored.", "agree on 81%",
                 "with some of its neurons restored to", "Share of neurons restored"):  # fmt: skip
        assert said in text and said in page
    assert "3.16 (found by a search" in model_card(searched) + terminal(searched)
    assert "with some of its neurons restored" in model_card(searched)


def test_the_card_sums_the_repair_up(invented):
    card = model_card(invented.two_sided("spectral+natural"))
    assert "two-sided variant of [HCNR]" in card
    for row in (
        "| matrices repaired | 22 of 56 |", "| compensation | spectral+natural |",
        "| task weight mu | 3.16 (found by a search, 5 tried) |",
        "| natural steps | 3, honesty loss 2.412 to 1.402 |",
    ):  # fmt: skip
        assert row in card
    assert "neurons restored |" not in card and "agreement of two halves" not in card
    assert "No training" not in card
    assert "| directions restored | " in model_card(invented.two_sided("spectral"))
    assert "No training was involved" in model_card(invented.report())


def test_the_terminal_sums_the_repair_up(invented):
    text = terminal(invented.two_sided("spectral"))
    assert "Repaired matrices" in text
    assert "perturbation ┃ restored ┃ honesty left ┃ task lost ┃" in text
    assert "task weight mu 3.16 (found by a search, 5 tried)" in text
    assert "half overlap" not in text and "neurons" not in text
    text = terminal(invented.two_sided("natural"), width=120)
    assert "perturbation ┃ honesty left ┃ task lost ┃ condition ┃" in text
    assert "natural steps 3, honesty loss 2.412 to 1.402" in text
    assert "perturbation ┃ overlap ┃ honesty objective" in terminal(invented.report())


def places_of(value, here=()):
    """Every place below, in the first element of a list."""
    children = value.items() if isinstance(value, dict) else list(enumerate(value))[:1]
    for key, child in children:
        yield (*here, key)
        if isinstance(child, dict | list):
            yield from places_of(child, (*here, key))


@pytest.mark.parametrize("odd", [None, "odd", -7, [], {}, [7, "a"], True, "inf"])
def test_whatever_stands_there_the_page_is_written_or_refused(make_run, invented, odd):
    whole = invented.two_sided("spectral+natural", 1)
    for part in (("two_sided",), ("matrices", 0, "two_sided")):
        inner = whole
        for key in part:
            inner = inner[key]
        for *parents, last in [part, *((*part, *where) for where in places_of(inner))]:
            broken = copy.deepcopy(whole)
            place = broken
            for key in parents:
                place = place[key]
            place[last] = odd
            try:
                assert html(gather(make_run(report=broken))).endswith("</html>\n")
            except DataError as error:
                found = r".*hcnr_report.json (holds a|has no part) .*[a-z0]; restore again to .*"
                assert re.fullmatch(found, str(error)), error


def test_names_are_only_text(make_run, invented):
    evil = "<script>alert(1)</script>"
    report = invented.two_sided("spectral")
    report["two_sided"]["kind"] = f"spectral,{evil}"
    report["matrices"][0]["name"] = evil
    report["matrices"][1]["two_sided"]["routes"] = [evil, evil]
    page = html(gather(make_run(report=report)))
    assert "<script" not in page and page.count("alert(1)") > 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_repair_of_today(pair, tmp_path, kind):
    out = tmp_path / "restored"
    settings = config(compensation=kind, cross_weight_ratio=0.6, steps=2)
    hcnr.restore(**pair, out=out, config=settings)
    run = gather(out)
    charts = all_charts(run)
    assert {"spectrum", "spectrum-by-matrix", "terms", "axes"} <= set(charts)
    assert ("directions" in charts) == (kind == "spectral")
    text = words(html(run))
    assert "8 of 14 matrices were repaired as a whole" in text
    assert ("2 natural steps" in text) == ("natural" in kind)
    assert "task weight mu 1" in terminal(read_report(out))
    summary = json.loads((out / "hcnr_report.json").read_text())["summary"]
    share = summary["restored_share"]
    assert run.report.repair is not None
    matrices = run.report.repair.matrices.values()
    if kind == "spectral":
        counts = [m.restored_directions or 0.0 for m in matrices]
        assert share == pytest.approx(sum(counts) / summary["restored_parameters"])
    else:
        assert share is None
    assert summary["largest_condition"] == pytest.approx(
        max(c for m in matrices for c in m.condition if c is not None)
    )
    assert "| task weight mu | 1 |" in (out / "README.md").read_text()
