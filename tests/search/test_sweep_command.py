import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hcnr.commands import sweep as command
from hcnr.errors import ConfigError
from hcnr.search.grid import Grid


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the command asks the library for, where all that it names is there."""
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
    for name in ("s.safetensors", "q.jsonl", "own.jsonl"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    calls: list[SimpleNamespace] = []

    def run(base: Path, tuned: Path, honesty: Any, task: Any, **options: Any) -> Any:
        how = options.pop("settings")
        calls.append(SimpleNamespace(honesty=honesty, task=task, **dict(how), **options))
        return SimpleNamespace(data={}, as_dict=dict)

    # By the module's name: `hcnr.sweep` is the function.
    monkeypatch.setattr(importlib.import_module("hcnr.search.sweep"), "sweep", run)
    monkeypatch.setattr("hcnr.search.table.print_sweep", lambda result, console: None)
    return calls


def invoke(*arguments: str):
    app = typer.Typer()
    app.command(epilog=command.EPILOG)(command.sweep)
    return CliRunner().invoke(app, ["base", "tuned", *arguments])


def test_lists_become_a_grid(asked):
    result = invoke(
        "--statistics", "s.safetensors", "--in-weight", "0.5, 0.3", "--cross-weight", "0.4",
        "--compensation", "sum,balanced", "--task-weight", "1,10", "--validation", "q.jsonl",
        "--benchmarks", "kuq,own.jsonl", "--tasks", "hotpotqa", "--coefficients", "",
        "--axis", "input", "--ablate", "--max-accuracy-drop", "3.5", "--out", "there",
        "--in-weight-ratio", "0.4", "--no-refine",
        "--batch-size", "7", "--max-new-tokens", "9",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "written: there/sweep.json"
    (call,) = asked
    assert call.grid == Grid((0.3, 0.5), (0.4,), ("sum", "balanced"), (1.0, 10.0))
    assert call.benchmarks == ["q.jsonl", "kuq", "own.jsonl"]
    assert tuple(call.tasks) == ("hotpotqa",)
    assert call.coefficients == ()
    assert (call.config.axis, call.config.in_weight_ratio) == ("input", 0.4)
    assert call.ablate
    assert not call.refine
    assert call.max_accuracy_drop == 3.5
    assert (call.batch_size, call.max_new_tokens) == (7, 9)
    assert call.statistics == Path("s.safetensors")
    assert call.honesty is call.task is None


def test_the_defaults_are_those_of_the_library(asked):
    assert invoke().exit_code == 0
    (call,) = asked
    assert call.grid == Grid()
    assert call.refine
    assert call.coefficients == tuple(step / 10 for step in range(1, 10))
    assert not call.benchmarks
    assert call.out == Path("sweep")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--in-weight", "0.3;0.5"), "--in-weight is '0.3;0.5', expected numbers separated by"),
        (("--task-weight", "much"), "--task-weight is 'much', expected numbers"),
        (("--cross-weight", ""), "cross_weight lists no value"),
        (("--compensation", "none,bst"), "compensation holds 'bst'.* did you mean"),
        (("--damping", "-1"), "damping is '-1', expected"),
        (("--in-weight-ratio", "0.3"), "--in-weight-ratio is 0.3, .* to try with --in-weight$"),
        (("--cross-weight-ratio", "1"), "--cross-weight-ratio is 1, .* with --cross-weight$"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(asked, arguments, message):
    result = invoke(*arguments)
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise result.exception
    assert not asked


def test_the_help_is_complete():
    app = typer.Typer()
    app.command(epilog=command.EPILOG)(command.sweep)
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    for option in ("--in-weight", "--cross-weight", "--compensation", "--task-weight",
                   "--validation", "--max-accuracy-drop", "--ablate", "--statistics",
                   "--no-refine"):  # fmt: skip
        assert option in text
