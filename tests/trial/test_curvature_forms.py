"""What each form keeps of a second moment, and trials of forms on a tiny pair."""

import json
from pathlib import Path

import pytest
import torch

from experiments import curvature_forms
from experiments.curvature_forms import (
    DIAGONALS,
    KEPT,
    NOTHING,
    WHOLE,
    Form,
    FormTrial,
    blocks,
    blocks_of,
    diagonals,
    directions,
    directions_of,
    nothing,
    page,
    table,
)
from hcnr.errors import ConfigError
from hcnr_kernels import BlockDiagonal
from spectra import moment
from testbeds import write_questioned_testbed

HONESTY, TASK = moment(30, 12, 1, decay=1.0), moment(30, 12, 2, decay=1.0)


def test_blocks_and_diagonals():
    for change, size in ((blocks(5), 5), (diagonals, 1), (blocks(12), 12)):
        for found, given in zip(change(HONESTY, TASK), (HONESTY, TASK), strict=True):
            torch.testing.assert_close(found, BlockDiagonal.cut(given, size).dense())
    assert torch.equal(nothing(HONESTY, TASK)[0], torch.eye(12, dtype=torch.float64))


@pytest.mark.parametrize("rank", [1, 4, 11])
def test_directions_keep_the_strongest_and_the_mean_of_the_rest(rank: int):
    both = HONESTY / HONESTY.trace() + TASK / TASK.trace()
    span = torch.linalg.eigh(both).eigenvectors[:, -rank:]
    outside = torch.eye(12, dtype=torch.float64) - span @ span.T
    for found, given in zip(directions(rank)(HONESTY, TASK), (HONESTY, TASK), strict=True):
        torch.testing.assert_close(span.T @ found @ span, span.T @ given @ span)
        torch.testing.assert_close(found.trace(), given.trace())
        left = (given.trace() - (span.T @ given @ span).trace()) / (12 - rank)
        torch.testing.assert_close(found @ outside, left * outside)
    assert directions(12)(HONESTY, TASK) == (HONESTY, TASK)


def test_what_a_form_holds_and_costs_is_counted():
    shapes = [(6, 4), (2, 4)]
    assert Form("", WHOLE, WHOLE).numbers(shapes) == 36 + 16 + 4 + 16
    assert Form("", WHOLE, WHOLE).operations(shapes) == 216 + 64 + 8 + 64
    assert Form("", DIAGONALS, NOTHING).numbers(shapes) == 8
    assert Form("", NOTHING, blocks_of(3)).numbers(shapes) == 18 + 4
    assert Form("", NOTHING, directions_of(3)).operations(shapes) == 54 + 8


def test_every_form_keeps_the_same_share(tmp_path: Path):
    trial = FormTrial(write_questioned_testbed(tmp_path))
    forms = (
        Form("whole", WHOLE, WHOLE, samples=8),
        Form("blocks", blocks_of(4), blocks_of(4), samples=8),
        Form("few directions", directions_of(3), directions_of(3), samples=8),
    )
    rows = [trial.try_form(form) for form in forms]
    for row in rows:
        assert row["kept"] == pytest.approx(KEPT, abs=0.3)
        assert row["ci95"][0] <= row["delta"] <= row["ci95"][1]
    assert len({row["task_weight"] for row in rows}) > 1
    assert rows[0]["held"] == rows[0]["operations"] == 1 > rows[1]["held"] > rows[1]["operations"]
    sets = list(rows[0]["sets"])
    lines = table(rows, sets).splitlines()
    assert len(lines) == 5 and lines[3].startswith("| blocks | 8 | ")
    text = page(rows, sets, ["--task nq"])
    assert "curvature_forms --task nq" in text and "Not run: blocks of 128; 64 directions; " in text
    assert trial.try_form(forms[0]) == rows[0]


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch, capsys):
    testbed = write_questioned_testbed(tmp_path / "pair")
    forms = [Form(name, WHOLE, NOTHING, samples=8) for name in ("first", "second", "third")]
    monkeypatch.setattr(curvature_forms, "open_real", lambda *_, **__: testbed)
    monkeypatch.setattr(curvature_forms, "pretrained", lambda *_: tmp_path)
    monkeypatch.setattr(curvature_forms, "FORMS", forms)
    out, tried = tmp_path / "out", []
    real = FormTrial.try_form

    def try_form(self: FormTrial, form: Form):
        tried.append(form.name)
        if tried == ["first", "second"]:
            raise KeyboardInterrupt
        return real(self, form)

    monkeypatch.setattr(FormTrial, "try_form", try_form)
    settings = {"task": "nq", "out": out, "sets": "kuq", "questions": 6, "task_questions": 9}
    with pytest.raises(KeyboardInterrupt):
        curvature_forms.main(**settings)
    assert "Not run: second; third." in (out / "smollm2-nq-0.md").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=r"was asked .*'questions': 6.* choose another --out"):
        curvature_forms.main(**{**settings, "questions": 5})
    curvature_forms.main(**settings)
    assert tried == ["first", "second", "second", "third"]
    kept = json.loads((out / "smollm2-nq-0.json").read_text(encoding="utf-8"))
    assert [row["form"] for row in kept["rows"]] == ["first", "second", "third"]
    text = (out / "smollm2-nq-0.md").read_text(encoding="utf-8")
    assert "--sets kuq --questions 6 --task-questions 9" in text and "Not run" not in text
    assert len(capsys.readouterr().out.splitlines()) == 3
