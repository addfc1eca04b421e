from pathlib import Path

import pytest
from rich.text import Text
from typer.testing import CliRunner

from experiments.trial.__main__ import app
from experiments.trial.methods import METHODS
from experiments.trial.real_methods import REAL_METHODS
from hcnr.cli import app as hcnr_app
from hcnr.errors import ConfigError, DataError, HcnrError, OutputError


class _Table:
    def to_rich(self) -> Text:
        return Text("the table")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    calls = []

    def trial(environment, out, seeds, *, methods, overwrite, console):
        calls.append(
            (environment.world, out, list(seeds), [method.name for method in methods], overwrite)
        )
        return _Table()

    def variations(environment, out, seeds, *, overwrite, console):
        calls.append(("variations", out, list(seeds), overwrite))
        return _Table()

    monkeypatch.setattr("experiments.trial.fair_trial.run_trial", trial)
    monkeypatch.setattr("experiments.trial.variations.run_variations", variations)
    monkeypatch.delenv("HCNR_DATA_ROOT", raising=False)
    return calls


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_it_runs_what_was_asked_for(ran: list[tuple], tmp_path: Path):
    out = str(tmp_path / "out")
    found = invoke("--out", out, "--quick", "--seeds", "2", "--seed", "4",
                   "--ways", "sum,spectral-natural")  # fmt: skip
    assert found.exit_code == 0, found.output
    assert ran == [("synthetic, quick", out, [4, 5], ["sum", "spectral, natural"], False)]
    assert "the table" in found.stdout and f"written: {out}" in found.stdout.replace("\n", "")


def test_three_seeds_of_all_methods_are_the_default_and_variations_follow(ran: list[tuple]):
    assert invoke("--variations").exit_code == 0
    (trial, variations) = ran
    assert trial == ("synthetic", "trial", [0, 1, 2], [method.name for method in METHODS], False)
    assert variations == ("variations", "trial", [0, 1, 2], False)


def test_overwrite_is_for_both_tables(ran: list[tuple]):
    assert invoke("--variations", "--overwrite").exit_code == 0
    assert [call[-1] for call in ran] == [True, True]


def test_the_text_world_takes_its_data_root(ran: list[tuple], tmp_path: Path):
    assert invoke("--world", "text", "--data-root", str(tmp_path)).exit_code == 0
    assert ran[0][0] == "text"


def test_a_pretrained_world_has_its_own_methods(
    ran: list[tuple], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("experiments.trial.fair_trial.pretrained", lambda world, base: tmp_path)
    arguments = ["--world", "smollm2", "--data-root", str(tmp_path)]
    assert invoke(*arguments).exit_code == 0
    assert invoke(*arguments, "--ways", "orpo,rait").exit_code == 0
    assert [call[3] for call in ran] == [[method.name for method in REAL_METHODS], ["rait", "orpo"]]
    assert ran[0][0] == "smollm2, hotpotqa"
    assert isinstance(invoke("--ways", "rait").exception, ConfigError)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["--ways", "sum,spectrl"], ConfigError, "did you mean 'spectral'"),
        (["--ways", ","], ConfigError, "--ways is ','"),
        (["--ways", ""], ConfigError, "--ways is ''"),
        (["--seeds", "-1"], ConfigError, "number of seeds is -1, expected 1 to"),
        (["--seeds", "0"], ConfigError, "number of seeds is 0, expected 1 to"),
        (["--world", "txt"], ConfigError, "--world"),
        (["--world", "text"], DataError, "--data-root"),
        (["--world", "text", "--quick"], ConfigError, "--quick"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(ran, arguments: list[str], kind: type, words: str):
    found = invoke(*arguments)
    assert isinstance(found.exception, kind) and words in str(found.exception)
    assert ran == []


def test_bad_seeds_and_places_are_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def opened(*_, **__):
        raise AssertionError("a world was opened")

    monkeypatch.setattr("experiments.trial.fair_trial.open_synthetic", opened)
    (tmp_path / "file").write_text("mine")
    for arguments, kind in (
        (["--seeds", "0", "--out", str(tmp_path / "new")], ConfigError),
        (["--out", ""], OutputError),
        (["--out", str(tmp_path / "file")], OutputError),
        (["--out", str(tmp_path / "file" / "below")], OutputError),
    ):
        found = invoke(*arguments)
        assert isinstance(found.exception, HcnrError), found.exception
        assert isinstance(found.exception, kind)
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_help_says_what_it_does():
    text = " ".join(invoke("--help").output.split())
    for part in ("validation questions", "one thread", "different seeds into one --out"):
        assert part in text


def test_the_former_command_says_where_it_went():
    found = CliRunner().invoke(hcnr_app, ["lab", "trial", "--seeds", "2"])
    assert isinstance(found.exception, ConfigError)
    assert "python -m experiments.trial" in str(found.exception)
    assert " lab " not in CliRunner().invoke(hcnr_app, ["--help"]).output
