import pytest
import typer
from typer.testing import CliRunner

from hcnr.commands.report import EPILOG, report
from hcnr.errors import DataError
from hcnr.record.card import model_card
from hcnr.report.gather import gather

app = typer.Typer()
app.command(epilog=EPILOG)(report)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_page_pictures_and_card_are_written(full_run):
    (full_run / "README.md").write_text(model_card(gather(full_run).report))
    result = run(full_run)
    assert result.exit_code == 0
    assert (full_run / "report.html").is_file()
    assert len(list((full_run / "report").glob("*.svg"))) == 10
    assert "72.8 (72.0 to 73.6)" in (full_run / "README.md").read_text()
    assert result.output.count("written: ") == 2 and result.output.count("updated: ") == 1


def test_another_place_without_pictures(full_run, tmp_path):
    result = run(full_run, "--out", tmp_path / "x.html", "--no-svg")
    assert result.output == f"written: {tmp_path / 'x.html'}\n"
    assert not (tmp_path / "x").exists() and not (full_run / "report.html").exists()


@pytest.mark.parametrize(("option", "charts"), [("--png", 10), ("--no-png", 0)])
def test_the_former_option_still_works_and_says_what_is_written(full_run, option, charts):
    result = run(full_run, option)
    assert result.exit_code == 0
    assert ("the charts are SVG files now" in result.output) == (option == "--png")
    assert len(list((full_run / "report").glob("*.svg"))) == charts
    assert "--png" not in run("--help").output


def test_bad_input_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"no hcnr_report\.json"):
        run(tmp_path)
