"""A base whose own files say that it was made from tuned."""

import json
import shutil

import pytest

from commands import run
from hcnr.models.parents import about_parents
from hcnr.plan import plan_run
from pairs import config


@pytest.fixture
def copies(pair, tmp_path):
    """The pair, in directories that may be written to."""
    return {role: shutil.copytree(pair[role], tmp_path / role) for role in ("base", "tuned")}


@pytest.mark.parametrize("parent", ["../{0}", "{1}/{0}"])
def test_a_card_names_the_other_one(copies, tmp_path, parent):
    card = f"---\nlicence: mit\nbase_model:\n- {parent.format('tuned', tmp_path)}\n---\nText\n"
    (copies["base"] / "README.md").write_text(card)
    (message,) = about_parents(copies["base"], copies["tuned"])
    assert "base and tuned seem to be exchanged: the files of BASE (base) name TUNED (tuned)" in (
        message
    )
    assert about_parents(copies["tuned"], copies["base"]) == [], "the right way round"
    found = plan_run(copies["base"], copies["tuned"], config(), tokens_per_sample=4)
    assert message in found.messages
    shown = run("plan", copies["base"], copies["tuned"], "--device", "cpu")
    assert "seem to be exchanged" in " ".join(shown.stdout.split())


@pytest.mark.parametrize("name", ["x" * 300, "/root\0", "/proc/1/root/x", "a/b/c"])
def test_names_that_cannot_be_looked_up_say_nothing(copies, name, monkeypatch):
    file = copies["base"] / "config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "_name_or_path": name}))
    assert about_parents(copies["base"], copies["tuned"]) == []

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.samefile", denied)
        assert about_parents(copies["base"], copies["tuned"]) == []


def test_two_that_name_each_other_say_nothing(copies):
    for role, other in (("base", "tuned"), ("tuned", "base")):
        (copies[role] / "README.md").write_text(f"---\nbase_model: ../{other}\n---\n")
    assert about_parents(copies["base"], copies["tuned"]) == []


def test_a_configuration_does_and_the_cache_of_the_hub(copies, tmp_path):
    file = copies["base"] / "config.json"
    settings = json.loads(file.read_text())
    place = tmp_path / "models--some--thing" / "snapshots" / "1"
    place.parent.mkdir(parents=True)
    copies["tuned"].rename(place)
    file.write_text(json.dumps({**settings, "_name_or_path": "some/thing"}))
    assert about_parents(copies["base"], place)
    file.write_text(json.dumps({**settings, "_name_or_path": "some/other"}))
    assert about_parents(copies["base"], place) == []


@pytest.mark.parametrize(
    "card", ["", "---\n[\n---\n", "---\n- a\n---\n", "---\nbase_model: 3\n---\n"]
)
def test_other_cards_say_nothing(copies, card):
    (copies["base"] / "README.md").write_text(card)
    assert about_parents(copies["base"], copies["tuned"]) == []
