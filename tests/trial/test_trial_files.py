import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from experiments.trial import variations
from experiments.trial.candidate_specs import Interpolated, Restored
from experiments.trial.fair_trial import Environment, run_trial
from experiments.trial.methods import Method
from hcnr.errors import OutputError
from testbeds import WeighedTestBed, environment_of

QUIET = Console(quiet=True)
METHODS = (
    Method("interpolation", tuple(Interpolated(share) for share in (0.03, 0.2))),
    Method("sum", (Restored("sum", in_weight_ratio=0.1, cross_weight_ratio=0.2),)),
)


@pytest.fixture
def environment(tmp_path: Path) -> tuple[Environment, dict[int, WeighedTestBed]]:
    return environment_of(tmp_path / "worlds")


def asked(testbeds: dict[int, WeighedTestBed]) -> list[Counter[str]]:
    found = [Counter(testbed.asked) for testbed in testbeds.values()]
    for testbed in testbeds.values():
        testbed.asked.clear()
    return found


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"key": "cut sho', "\xff", None])
def test_a_file_that_is_no_result_is_refused_and_kept(
    environment, tmp_path: Path, text: str | None
):
    held, testbeds = environment
    file = tmp_path / "seed-0.json"
    if text is None:
        file.mkdir()
    else:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(OutputError, match=r"seed-0\.json is no result of a trial \(.*--out"):
        run_trial(held, tmp_path, [0], methods=METHODS[:1], console=QUIET)
    assert text is None or file.read_bytes() == text.encode("latin-1")
    assert asked(testbeds)[0] == Counter()


@pytest.mark.parametrize("change", ["key", "ways"])
def test_a_result_of_another_trial_or_version_is_made_again(
    environment, tmp_path: Path, change: str
):
    held, testbeds = environment
    first = run_trial(held, tmp_path, [0], methods=METHODS[:1], console=QUIET)
    asked(testbeds)
    file = tmp_path / "seed-0.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps({**found, change: {"sum": {"an older": "layout"}}}))
    again = run_trial(held, tmp_path, [0], methods=METHODS[:1], console=QUIET)
    assert again.as_dict()["tables"] == first.as_dict()["tables"]
    assert asked(testbeds)[0] == Counter()
    assert json.loads(file.read_text())["ways"] == found["ways"]


def tables(out: Path) -> list[bytes]:
    return [(out / f"trial.{kind}").read_bytes() for kind in ("json", "md")]


@pytest.mark.parametrize(
    ("seeds", "methods", "world", "lost"),
    [
        ([1], METHODS[:2], "tiny", "seed 0,"),
        ([0, 1], METHODS[:1], "tiny", "way 'sum',"),
        ([1], METHODS[1:2], "tiny", "seed 0 and way 'interpolation',"),
        ([0, 1], METHODS[:2], "small", "world 'tiny',"),
    ],
)
def test_tables_that_would_lose_something_are_kept_unless_overwritten(
    environment, tmp_path: Path, seeds, methods, world: str, lost: str
):
    held, testbeds = environment
    run_trial(held, tmp_path, [0], methods=METHODS[:2], console=QUIET)
    before = tables(tmp_path)
    asked(testbeds)
    other = dataclasses.replace(held, world=world)
    with pytest.raises(OutputError, match=f"trial.json holds a finished trial of {lost}") as error:
        run_trial(other, tmp_path, seeds, methods=methods, console=QUIET)
    assert "--overwrite" in str(error.value) and "\n" not in str(error.value)
    assert tables(tmp_path) == before and asked(testbeds) == [Counter(), Counter()]
    found = run_trial(other, tmp_path, seeds, methods=methods, overwrite=True, console=QUIET)
    assert tables(tmp_path)[1].decode() == found.to_markdown() != before[1].decode()
    assert json.loads(tables(tmp_path)[0])["seeds"] == seeds


def test_a_wider_trial_replaces_the_tables_of_a_narrower_one(environment, tmp_path: Path):
    held, _ = environment
    for seeds, methods in (([1], METHODS[:1]), ([1], METHODS[:2]), ([0, 1], METHODS[:2])):
        run_trial(held, tmp_path, seeds, methods=methods, console=QUIET)
        found = json.loads((tmp_path / "trial.json").read_text())
        assert found["seeds"] == seeds and len(found["results"][0]["ways"]) == len(methods)


@pytest.mark.parametrize("name", ["trial.json", "trial.md"])
@pytest.mark.parametrize("text", ["[]", "{}", '{"world": [], "seeds": 3}', "my notes"])
def test_tables_that_are_not_ours_are_refused_and_kept(
    environment, tmp_path: Path, name: str, text: str
):
    held, testbeds = environment
    (tmp_path / name).write_text(text)
    with pytest.raises(OutputError, match=r"is no table of a trial; .* or pass --overwrite"):
        run_trial(held, tmp_path, [0], methods=METHODS[:1], console=QUIET)
    assert (tmp_path / name).read_text() == text and asked(testbeds)[0] == Counter()


def test_variations_keep_the_tables_of_other_seeds_too(
    environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    arm = variations.Arm("line", "short", METHODS[0])
    question = variations.Question("x", "How far?", "short", (arm,))
    monkeypatch.setattr(variations, "list_questions", lambda _: (question,))
    held, testbeds = environment
    variations.run_variations(held, tmp_path, [0], console=QUIET)
    before = (tmp_path / "variations.json").read_bytes()
    asked(testbeds)
    with pytest.raises(OutputError, match=r"variations\.json holds a finished trial of seed 0,"):
        variations.run_variations(held, tmp_path, [1], console=QUIET)
    assert (tmp_path / "variations.json").read_bytes() == before
    assert asked(testbeds) == [Counter(), Counter()]
    variations.run_variations(held, tmp_path, [1], overwrite=True, console=QUIET)
    assert json.loads((tmp_path / "variations.json").read_text())["seeds"] == [1]
    variations.run_variations(held, tmp_path, [0, 1], console=QUIET)


def test_seeds_of_several_processes_meet_in_one_table(environment, tmp_path: Path):
    """The other process ends while this one is running; both seeds are kept."""
    held, testbeds = environment
    others = []

    def meanwhile() -> None:
        if not others:
            others.append(1)
            run_trial(held, tmp_path, [1], methods=METHODS[:1], console=QUIET)
            others.append(tables(tmp_path))

    testbeds[0] = dataclasses.replace(testbeds[0], before=meanwhile)
    console = Console(width=1000)
    with console.capture() as capture:
        (found,) = run_trial(held, tmp_path, [0], methods=METHODS[:1], console=console).results
    assert "trial.json holds a finished trial of seed 1" in capture.get()
    assert found.seed == 0 and tables(tmp_path) == others[1]
    asked(testbeds)
    both = run_trial(held, tmp_path, [0, 1], methods=METHODS[:1], console=QUIET)
    assert [one.seed for one in both.results] == [0, 1]
    assert asked(testbeds) == [Counter(), Counter()]
