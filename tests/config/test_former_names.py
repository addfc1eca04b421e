"""Settings by the names that older versions had for them: read, with a note, and as one setting."""

import warnings

import pytest
import typer
import yaml
from typer.testing import CliRunner

import hcnr
from hcnr.cli import run
from hcnr.commands.options import config_options
from hcnr.config import EvaluateConfig, ProbeConfig, RestoreConfig, SweepConfig, load_config
from hcnr.config.loading import load_with
from hcnr.errors import ConfigError
from hcnr.guided.recipe_file import load_recipe, recipe_of
from hcnr.output import output_options
from hcnr.settings import FormerName


@pytest.mark.parametrize(
    ("kind", "old", "new", "value"),
    [
        (RestoreConfig, "max_task_drop", "max_task_drop_percent", 5.0),
        (EvaluateConfig, "max_task_drop", "max_accuracy_drop", 5.0),
        (SweepConfig, "max_task_drop", "max_accuracy_drop", 5.0),
        (SweepConfig, "interpolation", "coefficients", (0.5,)),
        (ProbeConfig, "draws", "resamples", 300),
    ],
)
def test_a_former_name_is_read_with_a_note(kind, old, new, value):
    with pytest.warns(FormerName, match=rf"^{old} is now called {new} \(.*\), and is read as that"):
        found = kind(**{old: value})
    with pytest.warns(FormerName):
        assert kind().replace(**{old: value}) == found == kind(**{new: value})
    with pytest.raises(ConfigError, match=f"{old} and {new} were both given"):
        kind(**{old: value, new: value})
    with pytest.warns(FormerName), pytest.raises(ConfigError, match=rf"^{new} is 'much'"):
        kind(**{old: "much"})


def test_percent_and_points_share_no_name():
    names = [set(kind.model_fields) for kind in (RestoreConfig, SweepConfig, EvaluateConfig)]
    assert names[0] & names[1] == set()
    # Of the rest each means the same in both.
    assert names[0] & names[2] == {"chat_template", "device", "dtype", "seed"}
    assert "max_task_drop" not in set().union(*names)


def test_files_of_older_versions_are_read(tmp_path):
    path = tmp_path / "hcnr_config.yaml"
    path.write_text("max_task_drop: 7\nseed: 3\n")
    with pytest.warns(FormerName, match="max_task_drop_percent"):
        assert load_config(path) == RestoreConfig(max_task_drop_percent=7, seed=3)
    with pytest.warns(FormerName):
        assert RestoreConfig.from_file(path, max_task_drop_percent=1).max_task_drop_percent == 1
    # A sweep's were points.
    with pytest.warns(FormerName, match="max_accuracy_drop"):
        own, shared = load_with(SweepConfig, path, {}, {})
    assert own == SweepConfig(max_accuracy_drop=7) and shared == RestoreConfig(seed=3)
    with pytest.warns(FormerName):
        own, _ = load_with(SweepConfig, path, {"max_accuracy_drop": 1}, {})
    assert own.max_accuracy_drop == 1


@pytest.mark.parametrize("new", ["max_task_drop_percent", "max_accuracy_drop"])
def test_one_limit_under_two_names_is_refused_in_a_recipe(tmp_path, new):
    path = tmp_path / "hcnr.yaml"
    parts = {"models": {"base": "b", "tuned": "t"}, "data": {"task": "t.jsonl"}}
    path.write_text(yaml.safe_dump({**parts, "settings": {new: 2.0, "max_task_drop": 7.5}}))
    told = f"is the former name of max_task_drop_percent and max_accuracy_drop, and {new} was given"
    line = path.read_text().splitlines().index("  max_task_drop: 7.5") + 1
    with pytest.raises(ConfigError, match=rf"yaml, line {line}: settings.max_task_drop {told}"):
        load_recipe(path)
    with pytest.raises(ConfigError, match=f"^--max-task-drop {told}"):
        recipe_of({**parts, "settings": {new: 2.0, "max_task_drop": 7.5}})


def test_an_older_recipe_had_one_limit_for_both(tmp_path):
    path = tmp_path / "hcnr.yaml"
    path.write_text(
        "models: {base: b, tuned: t}\ndata: {task: t.jsonl}\nsettings: {max_task_drop: 7.5}\n"
    )
    with pytest.warns(FormerName, match=r"max_task_drop_percent .* and max_accuracy_drop"):
        settings = load_recipe(path).settings
    assert (settings.max_task_drop_percent, settings.max_accuracy_drop) == (7.5, 7.5)
    values = {
        "models": {"base": "b", "tuned": "t"}, "data": {"task": "t.jsonl"},
        "settings": {"max_task_drop": "7"},
    }  # fmt: skip
    with pytest.warns(FormerName):
        settings = recipe_of(values).settings
    assert (settings.max_task_drop_percent, settings.max_accuracy_drop) == (7.0, 7.0)
    values["settings"] = {"max_accuracy_drop": "-1"}
    with pytest.raises(ConfigError, match=r"--max-accuracy-drop is '-1', expected points of task"):
        recipe_of(values)


def test_results_are_still_read_by_the_former_name():
    assert RestoreConfig(max_task_drop_percent=7).max_task_drop == 7
    from hcnr.search.result import SweepResult

    scores = hcnr.Scores(50.0, 0.0, 50.0)
    assert SweepResult(scores, scores, 3.5, {}).max_task_drop == 3.5


@pytest.mark.parametrize("kind", [RestoreConfig, EvaluateConfig])
def test_an_option_by_its_former_name(kind):
    given: list[dict[str, object]] = []

    @config_options(kind)
    def command(*, settings: dict[str, object]) -> None:
        given.append(settings)

    app = typer.Typer()
    app.command()(command)
    assert CliRunner().invoke(app, ["--max-task-drop", "7"]).exit_code == 0
    assert given == [{"max_task_drop": "7"}]
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert "--max-task-drop " not in text


@pytest.mark.parametrize("quiet", [False, True])
def test_a_command_notes_it_in_a_line(capsys, quiet):
    @output_options
    def command() -> None:
        RestoreConfig(max_task_drop=7)  # pyright: ignore[reportCallIssue]

    run(lambda: command(quiet=quiet, as_json=False))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == ("" if quiet else
        "note: max_task_drop is now called max_task_drop_percent (percent of what fine-tuning "
        "gained, a finite number, at least 0), and is read as that\n"
    )  # fmt: skip


def test_names_of_today_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RestoreConfig(max_task_drop_percent=1).replace(max_task_drop_percent=2)
