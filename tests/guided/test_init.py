"""The questions of `hcnr init`: each answer checked at once."""

import json

from typer.testing import CliRunner

from commands import run
from hcnr.cli import app
from hcnr.guided.recipe_file import load_recipe
from pairs import write_jsonl


def asked(monkeypatch, *answers, options=()):
    monkeypatch.setattr("hcnr.commands.init._at_terminal", lambda: True)
    return CliRunner().invoke(app, ["init", *options], input="".join(f"{a}\n" for a in answers))


def test_every_wrong_answer_is_asked_again(given, tmp_path, monkeypatch):
    few = write_jsonl(tmp_path / "few.jsonl", [{"prompt": "w1", "response": "w2"}])
    out = tmp_path / "there" / "out"
    result = asked(
        monkeypatch,
        tmp_path / "absent", given["base"],
        given["base"], given["tuned"],
        few, given["task"],
        "nothing.jsonl", given["honesty"],
        given["validation"],
        given["validation"], given["questions"],
        given["base"] / "out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    told = result.output
    for sentence in (
        "/absent' does not exist", "have the same weights", "holds 1 samples, expected at least 32",
        "nothing.jsonl does not exist", "which cannot judge", "inside",
    ):  # fmt: skip
        assert told.count(sentence) == 1, sentence
    recipe = load_recipe(out / "hcnr.yaml")
    assert recipe.models.base == str(given["base"]) and recipe.data.task == str(given["task"])
    assert recipe.data.questions == str(given["questions"])
    assert told.splitlines()[-1] == f"next: hcnr run --recipe {out / 'hcnr.yaml'}"


def test_the_starter_set_needs_no_questions_and_json_is_alone(given, tmp_path, monkeypatch):
    result = asked(
        monkeypatch, given["base"], given["tuned"], given["task"], "", tmp_path / "out",
        options=["--json"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (
        json.loads(result.stdout[result.stdout.index("{") :])["recipe"]["data"]["honesty"]
        == "starter"
    )
    again = asked(
        monkeypatch, given["base"], given["tuned"], given["task"], "", tmp_path / "out",
        tmp_path / "other",
    )  # fmt: skip
    assert "exists already" in again.output and (tmp_path / "other" / "hcnr.yaml").is_file()


def test_without_a_terminal_it_says_so():
    shown = run("init", code=2)
    assert "asks its questions at a terminal, and there is none here" in shown.stderr
