"""The whole demo on the quick world: trains it the first time, then takes it from the cache."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from hcnr.cli import app
from hcnr.config import RestoreConfig
from hcnr.demo.demo import run_demo, run_seeds
from hcnr.demo.rows import HIGHLIGHT, REPAIRS
from hcnr.demo.seeds import MOST_SEEDS
from hcnr.demo.settings import GRID, MAX_ACCURACY_DROP
from hcnr.demo.table import DemoTable
from hcnr.errors import ConfigError, OutputError
from hcnr.report.gather import gather

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def console() -> Console:
    return Console(width=80, record=True, file=io.StringIO())


@pytest.fixture(scope="module")
def table(out: Path, console: Console) -> DemoTable:
    return run_demo(out, quick=True, console=console)


@pytest.fixture(scope="module")
def swept(table: DemoTable, out: Path) -> dict[str, Any]:
    return json.loads((out / "restored" / "sweep" / "sweep.json").read_text())


def test_fine_tuning_loses_honesty_and_learns_the_task(table: DemoTable):
    base, tuned = table.row("base").evaluation, table.row("tuned").evaluation
    assert base.honesty_f1 - tuned.honesty_f1 >= 15
    assert tuned.task_accuracy >= 80 > 5 >= base.task_accuracy


def test_rows_are_compared_with_interpolation_at_matched_task_accuracy(table: DemoTable):
    """Which of the two is ahead on so small a world is for the processor's last bits to say.

    One question of either class, of 60 and 58, is what they may differ by.
    """
    row = table.row("balanced")
    assert row.rival is not None
    assert row.rival.evaluation.task_accuracy >= row.evaluation.task_accuracy
    assert row.evaluation.refusal_delta > row.rival.evaluation.refusal_delta - 1.75
    assert row.evaluation.refusal_delta > table.row("tuned").evaluation.refusal_delta
    rival = table.row(HIGHLIGHT).rival
    assert rival is not None
    assert table.row("interpolation").evaluation == rival.evaluation


def test_every_promised_row_is_there(table: DemoTable):
    methods = [row.method for row in table.rows]
    assert methods[:2] == ["base", "tuned"]
    assert methods[2].startswith("interpolation")
    assert methods[3:] == [*(repair.method for repair in REPAIRS), HIGHLIGHT]
    assert [row.method for row in table.rows if row.best] == [HIGHLIGHT]
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


def test_the_evaluation_beside_the_checkpoint_is_that_of_the_table(table: DemoTable, out: Path):
    metrics = json.loads((out / "restored-eval" / "metrics.json").read_text())
    for found, method in (
        (metrics, HIGHLIGHT),
        (metrics["models"]["base"], "base"),
        (metrics["models"]["tuned"], "tuned"),
        (metrics["interpolation_row"], "interpolation"),
    ):
        row = table.row(method).evaluation
        assert found["macro"]["f1"] == row.honesty_f1
        assert found["macro"]["refusal_delta"] == row.refusal_delta
        assert found["tasks_macro"]["accuracy"] == row.task_accuracy
    low, high = metrics["macro"]["ci95"]["f1"]
    assert low < metrics["macro"]["f1"] < high
    assert metrics["refuse_all"]["macro"]["f1"] == table.refuse_all.honesty_f1
    assert sum(point["chosen"] for point in metrics["interpolation"]) == 1


def test_the_sweep_is_complete_and_asks_other_questions(
    table: DemoTable, swept: dict[str, Any], out: Path
):
    metrics = json.loads((out / "restored-eval" / "metrics.json").read_text())
    assert swept["complete"]
    tried = [one for one in swept["candidates"] if not one["refined"]]
    assert len(tried) == len(GRID.configs(RestoreConfig()))
    for name, facts in swept["validation"].items():
        assert facts["sha256"] != metrics["data"][name]["sha256"]
    assert {name: facts["n"] for name, facts in swept["validation"].items()} == {
        "names": table.facts["validation"]["unknown"] + table.facts["validation"]["known"],
        "guild": table.facts["validation"]["task"],
    }
    # What the table restored is what the sweep chose: as many neurons.
    (same,) = (one for one in swept["candidates"] if one["recommended"])
    assert same["settings"] == table.row(HIGHLIGHT).settings == swept["recommended"]["settings"]
    report = json.loads((out / "restored" / "hcnr_report.json").read_text())
    assert same["neurons"] == report["summary"]["restored_neurons"]


def test_the_front_and_the_choice_are_printed(
    table: DemoTable, swept: dict[str, Any], console: Console
):
    text = console.export_text(clear=False)
    front = text[text.index("Pareto front") : text.index("the pair and its data")]
    points = [one for one in swept["candidates"] if one["pareto"]]
    for one in points:
        assert f"{one['honesty_f1']:.1f}" in front and f"{one['task_accuracy']:.1f}" in front
    assert f"The {len(points)} of {len(swept['candidates'])} settings" in front
    assert f"The sweep's recommendation: {swept['recommended']['word']}" in " ".join(front.split())
    assert "The preservation assumption holds" in front
    said = table.facts["recommendation"]["word"]
    told = f"The report says {said}, not {swept['recommended']['word']}:"
    assert (told in " ".join(front.split())) == (said != swept["recommended"]["word"])
    # One rule for both: a limit of less than two task questions is too few to tell here too.
    step = 100 / table.facts["validation"]["task"]
    assert swept["recommended"]["task_step"] == pytest.approx(step)


def test_the_report_shows_everything_that_was_found(table: DemoTable, out: Path, console: Console):
    restored = out / "restored"
    assert json.loads((restored / "probe.json").read_text())["verdict"] == "holds"
    page = (restored / "report.html").read_text()
    for words in ("Trade-off", "Knowledge boundary", "The preservation assumption holds"):
        assert words in page
    assert "What this report could also show" not in page
    best = table.row(HIGHLIGHT).evaluation
    assert f"to {best.refusal_delta:+.1f}" in page
    assert f"| restored | {best.refusal_delta:+.1f} (" in (restored / "README.md").read_text()
    assert "report.html" in console.export_text(clear=False)


def test_the_demo_recommends_what_its_report_accepts(table: DemoTable, out: Path, console: Console):
    """One word in the table's file, on the page, in the card, and in the last lines."""
    restored, said = out / "restored", table.facts["recommendation"]
    run = gather(restored)
    assert run.decision is not None
    assert (run.decision.word, run.decision.reason) == (said["word"], said["reason"])
    assert said["max_accuracy_drop"] == MAX_ACCURACY_DROP == run.decision.evidence.max_accuracy_drop
    word = said["word"].capitalize()
    assert f">{word}</span>: " in (restored / "report.html").read_text()
    assert f"\n\n**{word}**: " in (restored / "README.md").read_text()
    text = " ".join(console.export_text(clear=False).split())
    last = text[text.rindex("recommendation for ") :]
    assert f": {said['word']}: {said['reason']}" in last
    assert f": {said['word']}: {said['reason']}." in (out / "demo.md").read_text()
    best, tuned = table.row(HIGHLIGHT).evaluation, table.row("tuned").evaluation
    assert said["gain"]["value"] == best.refusal_delta - tuned.refusal_delta
    if said["word"] == "use":
        assert said["gain"]["ci95"][0] > 0
        assert tuned.task_accuracy - best.task_accuracy <= MAX_ACCURACY_DROP


def test_a_place_that_cannot_be_written_is_found_before_anything_is_trained(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file"):
        run_demo(tmp_path / "file", quick=True, seed=10**6)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("seeds", [1, MOST_SEEDS + 1])
def test_seeds_without_an_interval_are_refused_before_anything_is_made(tmp_path: Path, seeds: int):
    with pytest.raises(ConfigError, match="--seeds"):
        run_seeds(tmp_path / "new", seeds, quick=True)
    assert not (tmp_path / "new").exists()


def test_seeds_run_the_demo_once_each_and_keep_its_files(
    table: DemoTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def demo(place: Path, quick: bool, seed: int, console: Console) -> DemoTable:
        asked.append((place, quick, seed))
        return table

    monkeypatch.setattr("hcnr.demo.demo.run_demo", demo)
    console = Console(width=80, record=True, file=io.StringIO())
    found = run_seeds(tmp_path, 3, quick=True, seed=4, console=console)
    assert asked == [(tmp_path / f"seed-{seed}", True, seed) for seed in (4, 5, 6)]
    assert found.row(HIGHLIGHT).figures["honesty_f1"].half_width == 0.0
    assert json.loads((tmp_path / "demo.json").read_text())["seeds"] == [4, 5, 6]
    assert (tmp_path / "demo.md").read_text() == found.to_markdown()
    assert "seeds 4, 5, 6" in " ".join(console.export_text().split())


def test_the_command_runs_one_world_or_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    for name in ("run_demo", "run_seeds"):
        monkeypatch.setattr(f"hcnr.demo.demo.{name}", lambda *a, n=name, **_: asked.append((n, *a)))
    for count in (1, 3):
        found = CliRunner().invoke(app, ["demo", "--seeds", str(count), "--out", str(tmp_path)])
        assert found.exit_code == 0, found.output
    assert asked == [("run_demo", tmp_path), ("run_seeds", tmp_path, 3)]


def test_a_second_run_over_the_first_gives_the_same_figures(table: DemoTable, out: Path):
    again = run_demo(out, quick=True, console=Console(quiet=True))
    assert [row.evaluation for row in again.rows] == [row.evaluation for row in table.rows]
