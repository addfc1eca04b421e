"""The whole demo on the quick world: trains it the first time, then takes it from the cache."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from hcnr.errors import OutputError
from hcnr.lab.demo import run_demo
from hcnr.lab.rows import HIGHLIGHT, REPAIRS
from hcnr.lab.table import DemoTable

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def table(out: Path) -> DemoTable:
    return run_demo(out, quick=True, console=Console(quiet=True))


def test_fine_tuning_loses_honesty_and_learns_the_task(table: DemoTable):
    base, tuned = table.row("base").evaluation, table.row("tuned").evaluation
    assert base.honesty_f1 - tuned.honesty_f1 >= 15
    assert tuned.task_accuracy >= 80 > 5 >= base.task_accuracy


def test_balanced_beats_interpolation_at_matched_task_accuracy(table: DemoTable):
    row = table.row(HIGHLIGHT)
    assert row.rival is not None
    assert row.rival.evaluation.task_accuracy >= row.evaluation.task_accuracy
    assert row.evaluation.honesty_f1 > row.rival.evaluation.honesty_f1
    assert table.row("interpolation").evaluation == row.rival.evaluation


def test_every_promised_row_is_there(table: DemoTable):
    methods = [row.method for row in table.rows]
    assert methods[:2] == ["base", "tuned"]
    assert methods[2].startswith("interpolation")
    assert methods[3:] == [repair.method for repair in REPAIRS]
    curve = {p.coefficient: p.evaluation for p in table.curve if p.scope == "all"}
    assert curve[0.0] == table.row("tuned").evaluation
    assert curve[1.0] == table.row("base").evaluation


def test_the_restored_directory_is_a_checkpoint_that_generates(table: DemoTable, out: Path):
    restored = out / "restored"
    assert (restored / "hcnr_report.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(restored)
    model: Any = AutoModelForCausalLM.from_pretrained(restored)
    ids = torch.tensor([tokenizer("home of Nobody ?")["input_ids"]])
    said = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False
    )
    assert said.shape[1] > ids.shape[1]


def test_the_files_hold_the_table(table: DemoTable, out: Path):
    assert json.loads((out / "demo.json").read_text()) == table.as_dict()
    assert (out / "demo.md").read_text() == table.to_markdown()


def test_a_place_that_cannot_be_written_is_found_before_anything_is_trained(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file"):
        run_demo(tmp_path / "file", quick=True, seed=10**6)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_second_run_over_the_first_gives_the_same_figures(table: DemoTable, out: Path):
    again = run_demo(out, quick=True, console=Console(quiet=True))
    assert [row.evaluation for row in again.rows] == [row.evaluation for row in table.rows]
