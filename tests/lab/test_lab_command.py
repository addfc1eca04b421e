from pathlib import Path

import pytest
from rich.text import Text
from typer.testing import CliRunner

from hcnr.cli import app
from hcnr.errors import ConfigError, DataError, HcnrError, OutputError


class _Table:
    def to_rich(self) -> Text:
        return Text("the table")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    calls = []

    def trial(course, out, seeds, *, ways, console):
        calls.append((course.world, out, list(seeds), [way.name for way in ways]))
        return _Table()

    def variations(course, out, seeds, *, console):
        calls.append(("variations", out, list(seeds)))
        return _Table()

    monkeypatch.setattr("hcnr.lab.fair_trial.run_trial", trial)
    monkeypatch.setattr("hcnr.lab.variations.run_variations", variations)
    monkeypatch.delenv("HCNR_DATA_ROOT", raising=False)
    return calls


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["lab", "trial", *arguments])


def test_it_runs_what_was_asked_for(ran: list[tuple], tmp_path: Path):
    out = str(tmp_path / "out")
    found = invoke("--out", out, "--quick", "--seeds", "2", "--seed", "4",
                   "--ways", "sum,spectral-natural")  # fmt: skip
    assert found.exit_code == 0, found.output
    assert ran == [("synthetic, quick", Path(out), [4, 5], ["sum", "spectral, natural"])]
    assert "the table" in found.stdout and f"written: {out}" in found.stdout.replace("\n", "")


def test_three_seeds_of_all_ways_are_the_default_and_variations_follow(ran: list[tuple]):
    assert invoke("--variations").exit_code == 0
    (trial, variations) = ran
    assert trial[:3] == ("synthetic", Path("trial"), [0, 1, 2]) and len(trial[3]) == 12
    assert variations == ("variations", Path("trial"), [0, 1, 2])


def test_the_text_world_takes_its_data_root(ran: list[tuple], tmp_path: Path):
    assert invoke("--world", "text", "--data-root", str(tmp_path)).exit_code == 0
    assert ran[0][0] == "text"


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["--ways", "sum,spectrl"], ConfigError, "did you mean 'spectral'"),
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

    monkeypatch.setattr("hcnr.lab.fair_trial.open_synthetic", opened)
    (tmp_path / "file").write_text("mine")
    for arguments, kind in (
        (["--seeds", "0", "--out", str(tmp_path / "new")], ConfigError),
        (["--out", str(tmp_path / "file")], OutputError),
        (["--out", str(tmp_path / "file" / "below")], OutputError),
    ):
        found = invoke(*arguments)
        assert isinstance(found.exception, HcnrError), found.exception
        assert isinstance(found.exception, kind)
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_help_says_what_it_does():
    found = CliRunner().invoke(app, ["lab", "--help"])
    assert found.exit_code == 0 and "trial" in found.output
    assert "validation questions" in invoke("--help").output
