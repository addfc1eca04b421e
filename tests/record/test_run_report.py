"""How statistics, a selection and a report show themselves: briefly, and escaped."""

import copy
import json

import pytest

import hcnr
from hcnr.errors import DataError
from hcnr.record.run_report import RunReport
from pairs import config


def test_statistics_and_a_selection_are_one_line(pair, statistics):
    found = statistics["output"]
    text = repr(found)
    assert text.startswith("Statistics(axis: output, matrices: ") and len(text) < 300
    assert f"honesty curvature: {len(found.matrices)} matrices" in text
    assert "honesty: 8 samples, " in text
    selection = hcnr.select(found, pair["base"], pair["tuned"], config())
    text = repr(selection)
    count = sum(int(selection.masks[name].sum()) for name in selection.selected)
    assert f"matrices: {len(selection.selected)} of {len(selection.masks)}" in text
    assert f"neurons: {count} of " in text and len(text) < 200
    for one, title in ((found, "Statistics"), (selection, "Selection")):
        html = one._repr_html_()
        assert html.startswith("<table>") and f"<b>{title}</b>" in html


def test_a_report_shows_what_matters_and_holds_everything(pair, tmp_path):
    out = hcnr.restore(**pair, out=tmp_path / "out", config=config())
    report = hcnr.read_report(out)
    assert isinstance(report, RunReport) and dict(report) == json.loads(json.dumps(report))
    text, facts = repr(report), dict(report.facts())
    assert len(text) < 2000 and facts["repaired by"] == "sum"
    assert facts["verdict"].startswith(f"{report['verdict']['word']}: ")
    assert facts["base"] == "base"
    assert "<b>hcnr report</b>" in report._repr_html_()


def test_a_model_in_memory_carries_the_same(loaded, pair):
    model = hcnr.restore(
        loaded["base"], loaded["tuned"], pair["honesty"], pair["task"], tokenizer=pair["tuned"],
        config=config(),
    )  # fmt: skip
    assert repr(model.hcnr_report).startswith("RunReport(base: ")
    assert copy.deepcopy(model).hcnr_report == model.hcnr_report


def test_a_model_may_be_called_inf(pair, tmp_path):
    """Infinities are written by their names, which a directory may have too."""
    out = hcnr.restore(**pair, out=tmp_path / "out", config=config())
    path = out / "hcnr_report.json"
    content = json.loads(path.read_text())
    content["pair"]["base"] = content["matrices"][0]["condition"] = "inf"
    path.write_text(json.dumps(content))
    report = hcnr.read_report(out)
    assert report["pair"]["base"] == "inf"
    assert report["matrices"][0]["condition"] == float("inf")


def test_a_report_that_is_none(tmp_path):
    with pytest.raises(DataError, match=r"there is no hcnr_report.json in .*; give the directory"):
        hcnr.read_report(tmp_path)
    (tmp_path / "hcnr_report.json").write_text("[]")
    with pytest.raises(DataError, match="holds a list, expected an object"):
        hcnr.read_report(str(tmp_path))


def test_names_are_escaped():
    report = RunReport(pair={"base": "<script>", "tuned": "t"}, seconds={})
    assert "<script>" not in report._repr_html_()
