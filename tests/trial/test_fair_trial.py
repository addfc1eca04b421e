import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from arenas import WeighedArena, course_of, write_arena
from experiments.trial import fair_trial, fine_tuning
from experiments.trial.arena import Marks
from experiments.trial.choosing import LEVELS
from experiments.trial.fair_trial import (
    Course,
    collect_trial,
    open_course,
    pair_digest,
    run_seeds,
    run_trial,
)
from experiments.trial.journal import open_journal
from experiments.trial.making import FineTuned, Interpolated, Restored, Samples
from experiments.trial.seed_result import SeedResult
from experiments.trial.trial_files import prepared
from experiments.trial.ways import Way, find_ways
from hcnr.benchmarks.questions import Question
from hcnr.demo.seeds import MOST_SEEDS
from hcnr.errors import ConfigError, DataError, OutputError
from hcnr.evaluation.question_sets import QuestionSets

QUIET = Console(quiet=True)
WAYS = (
    Way("interpolation", tuple(Interpolated(share) for share in (0.03, 0.08, 0.2, 0.9))),
    Way("sum", (Restored("sum", in_weight_ratio=0.1, cross_weight_ratio=0.2), Restored("sum"))),
    Way("spectral", (Restored("spectral", task_weight=30.0), Restored("spectral"))),
    Way("fine-tuning, honesty", tuple(FineTuned("honesty", 1e-4, one) for one in (1, 2))),
)
GRID = sum(len(way.grid) for way in WAYS)


@pytest.fixture
def course(tmp_path: Path) -> tuple[Course, dict[int, WeighedArena]]:
    return course_of(tmp_path / "worlds")


def asked(arenas: dict[int, WeighedArena]) -> list[Counter[str]]:
    found = [Counter(arena.asked) for arena in arenas.values()]
    for arena in arenas.values():
        arena.asked.clear()
    return found


def test_a_trial_from_end_to_end(course, tmp_path: Path):
    held, arenas = course
    table = run_trial(held, tmp_path / "out", range(2), ways=WAYS, console=QUIET)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [
        *("seed-0.json", "seed-0.jsonl", "seed-1.json", "seed-1.jsonl"),
        *("trial.json", "trial.md"),
    ]
    for result, counts in zip(table.results, asked(arenas), strict=True):
        chosen = {
            json.dumps(dict(one.chosen.settings), sort_keys=True)
            for showing in result.showings.values()
            for entry in showing.entries.values()
            if entry is not None
            for one in (entry, *entry.rivals.values())
        } - {'{"made": "tuned"}'}
        # Every candidate once, and on the evaluated part nobody but the chosen and the two ends.
        assert counts == {"validation": GRID + 2, "evaluated": len(chosen) + 2}
        assert result.ends["base"]["evaluated"].retention == pytest.approx(0.0)
        assert result.ends["tuned"]["evaluated"].retention == pytest.approx(100.0)
        assert math.isnan(result.ends["refuse all"]["evaluated"].retention)
        entry = {level: result.showings["interpolation"].entries[level] for level in LEVELS}
        assert [one and one.chosen.settings["coefficient"] for one in entry.values()] == [
            *(0.03, 0.08, 0.2)
        ]
        for one in entry.values():
            assert one is not None
            # Chosen by validation, though the evaluated part would have it the other way round.
            assert one.evaluated.f1 == pytest.approx(130.0 - one.chosen.validation.f1)
    written = json.loads((tmp_path / "out" / "trial.json").read_text())
    assert [one["seed"] for one in written["results"]] == [0, 1]
    assert len(written["results"][0]["ways"]["sum"]["candidates"]) == 2
    assert (tmp_path / "out" / "trial.md").read_text() == table.to_markdown()


def test_a_finished_seed_is_read_and_a_lost_result_is_made_from_the_journal(course, tmp_path: Path):
    held, arenas = course
    first = run_trial(held, tmp_path, range(2), ways=WAYS, console=QUIET)
    asked(arenas)
    (tmp_path / "seed-1.json").unlink()
    again = run_trial(held, tmp_path, range(2), ways=WAYS, console=QUIET)
    assert asked(arenas) == [Counter(), Counter()]
    assert again.as_dict()["tables"] == first.as_dict()["tables"]


def test_seeds_of_several_machines_make_one_table(tmp_path: Path):
    """Each of them trained models of its own, so that no run would take the other's seed."""
    together = tmp_path / "together"
    together.mkdir()
    for number in range(2):
        held, _ = course_of(tmp_path / f"worlds-{number}")
        run_trial(held, tmp_path / str(number), [number], ways=WAYS, console=QUIET)
        name = f"seed-{number}.json"
        (together / name).write_bytes((tmp_path / str(number) / name).read_bytes())
    table = collect_trial(together)
    assert [one.seed for one in table.results] == [0, 1] and list(table.levels) == list(LEVELS)
    assert (together / "trial.md").read_text() == table.to_markdown()
    few = json.loads((together / "seed-1.json").read_text())
    del few["ways"]["sum"]
    (together / "seed-1.json").write_text(json.dumps(few))
    with pytest.raises(OutputError, match=r"seed-1.json has the ways .*expected .* as in"):
        collect_trial(together)
    with pytest.raises(OutputError, match="no finished seed"):
        collect_trial(tmp_path / "worlds-0")


@pytest.mark.parametrize("calls", [1, 5, 9, 14])
def test_an_interrupted_seed_goes_on_where_it_stopped(tmp_path: Path, calls: int):
    arena = write_arena(tmp_path / "world")
    whole = run_trial(
        Course("tiny", lambda *_: arena), tmp_path / "whole", [0], ways=WAYS, console=QUIET
    )
    total = len(arena.asked)
    arena.asked.clear()

    def stop() -> None:
        if len(arena.asked) == calls:
            raise KeyboardInterrupt

    stopped = dataclasses.replace(arena, before=stop)
    with pytest.raises(KeyboardInterrupt):
        run_trial(
            Course("tiny", lambda *_: stopped), tmp_path / "part", [0], ways=WAYS, console=QUIET
        )
    assert not (tmp_path / "part" / "seed-0.json").exists()
    with (tmp_path / "part" / "seed-0.jsonl").open("a") as file:
        file.write('{"candidate": "cut sh')
    arena.asked.clear()
    found = run_trial(
        Course("tiny", lambda *_: arena), tmp_path / "part", [0], ways=WAYS, console=QUIET
    )
    assert len(arena.asked) == total - calls
    assert _without_seconds(found.results[0]) == _without_seconds(whole.results[0])


def test_more_settings_cost_only_themselves(course, tmp_path: Path):
    held, arenas = course
    run_trial(held, tmp_path, range(2), ways=WAYS[:2], console=QUIET)
    asked(arenas)
    wider = Way("sum", (*WAYS[1].grid, Restored("sum", "input")))
    table = run_trial(held, tmp_path, range(2), ways=(WAYS[0], wider), console=QUIET)
    assert [one["validation"] for one in asked(arenas)] == [1, 1]
    assert [len(one.showings["sum"].candidates) for one in table.results] == [3, 3]


def test_a_finished_seed_of_other_levels_samples_or_choosing_is_not_taken(
    course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    held, arenas = course
    way = Way("sum", (Restored("sum", in_weight_ratio=0.1, cross_weight_ratio=0.2),), Samples(8))

    def run(way: Way, levels: tuple[float, ...]) -> SeedResult:
        return run_seeds(held, tmp_path, [0], [way], levels, "seed", QUIET)[0]

    first = run(way, (90.0,))
    assert run(way, (90.0,)).as_dict() == first.as_dict()
    assert list(run(way, (75.0,)).showings["sum"].entries) == [75.0]
    asked(arenas)
    run(dataclasses.replace(way, samples=Samples(4)), (75.0,))
    assert asked(arenas)[0]["validation"] == 1
    before = run(way, (90.0,)).key
    monkeypatch.setattr(fair_trial, "CHOOSING", -1)
    assert run(way, (90.0,)).key != before


def test_trials_of_two_pairs_do_not_mix(course, tmp_path: Path):
    held, arenas = course
    run_trial(held, tmp_path, [0], ways=WAYS[:1], console=QUIET)
    (arenas[0].honesty).write_text('{"prompt": "w1", "response": "w2"}\n')
    with pytest.raises(OutputError, match=r"seed-0\.jsonl holds the trial of another pair"):
        run_trial(held, tmp_path, [0], ways=WAYS[:1], console=QUIET)


def test_a_seed_is_run_by_one_process_at_a_time(course, tmp_path: Path):
    held, arenas = course
    with (
        open_journal(tmp_path / "seed-0.jsonl", pair_digest(arenas[0])),
        pytest.raises(OutputError, match=r"another process is running .*seed-0\.jsonl"),
    ):
        run_trial(held, tmp_path, [0], ways=WAYS[:1], console=QUIET)
    assert asked(arenas)[0] == Counter()
    run_trial(held, tmp_path, [0], ways=WAYS[:1], console=QUIET)


QUESTION = Question("1", "names", "who?", True, ("w1", "w2"), "who? Answer:")


def panel(honesty: Question = QUESTION, task: Question = QUESTION) -> QuestionSets:
    return QuestionSets({"names": (honesty,)}, {"task": (task,)}, {}, None, False, 0, 0)


@pytest.mark.parametrize(
    "change", [{"question": "whom?"}, {"answerable": False}, {"answers": ("w1",)}, {"prompt": "?"}]
)
def test_the_digest_is_of_every_question(tmp_path: Path, change: dict):
    arena = dataclasses.replace(
        write_arena(tmp_path), panels={"validation": panel(), "evaluated": panel()}
    )
    other = dataclasses.replace(QUESTION, **change)
    found = [
        pair_digest(dataclasses.replace(arena, panels={"validation": one, "evaluated": two}))
        for one, two in (
            (panel(), panel()),
            (panel(other), panel()),
            (panel(task=other), panel()),
            (panel(), panel(other)),
            (panel(), panel(task=other)),
        )
    ]
    assert found[0] == pair_digest(arena) and len(set(found)) == 5


def test_the_digest_is_of_weights_samples_and_constants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    arena = write_arena(tmp_path)
    found = pair_digest(arena)
    assert pair_digest(dataclasses.replace(arena, asked=["x"])) == found
    others = [
        dataclasses.replace(arena, base=arena.tuned),
        dataclasses.replace(arena, tuned=arena.base),
        dataclasses.replace(arena, honesty=arena.task),
        dataclasses.replace(arena, task=arena.honesty),
        dataclasses.replace(arena, seed=1),
        dataclasses.replace(arena, world="other"),
        dataclasses.replace(arena, refusal="w62"),
    ]
    digests = [found, *map(pair_digest, others)]
    for module, name in (
        *((fine_tuning, "BATCH_SIZE"), (fine_tuning, "LARGEST_NORM"), (fair_trial, "FORMAT")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 7)
            digests.append(pair_digest(arena))
    assert len(set(digests)) == len(digests)
    assert pair_digest(arena) == found


def test_candidates_that_two_ways_share_are_judged_once(course, tmp_path: Path):
    held, arenas = course
    twin = Way("the same again", WAYS[0].grid)
    table = run_trial(held, tmp_path, [0], ways=(WAYS[0], twin), console=QUIET)
    assert asked(arenas)[0]["validation"] == len(WAYS[0].grid) + 2
    first, second = table.results[0].showings.values()
    assert first.candidates == second.candidates
    # The rival itself has no rival of its own name.
    assert [one and one.chosen for one in first.entries.values()] == [
        one and one.chosen for one in second.entries.values()
    ]


@pytest.mark.parametrize("seeds", [0, MOST_SEEDS + 1])
def test_seeds_without_an_interval_are_refused(course, tmp_path: Path, seeds: int):
    held, _ = course
    with pytest.raises(ConfigError, match="--seeds"):
        run_trial(held, tmp_path / "new", range(seeds), console=QUIET)
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_found_first(course, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    held, arenas = course
    with pytest.raises(OutputError, match="choose another --out"):
        run_trial(held, tmp_path / "file", [0], console=QUIET)
    assert asked(arenas)[0] == Counter()
    assert list(prepared(tmp_path / "empty").iterdir()) == []
    with pytest.raises(OutputError, match="--out is empty"):
        run_trial(held, "", [0], console=QUIET)


def test_bad_worlds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("HCNR_DATA_ROOT", raising=False)
    with pytest.raises(ConfigError, match="no world named 'txt', expected one of synthetic, text"):
        open_course("txt")
    with pytest.raises(DataError, match="--data-root"):
        open_course("text")
    with pytest.raises(ConfigError, match="--quick"):
        open_course("text", data_root=tmp_path, quick=True)
    for world in ("text", "text-mild"):
        assert open_course(world, data_root=tmp_path).world == world
    assert open_course("synthetic", quick=True).world == "synthetic, quick"


def _without_seconds(result: SeedResult) -> dict:
    return _plain({**result.as_dict(), "facts": None})


def _plain(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _plain(one) for name, one in found.items() if name != "seconds"}
    return [_plain(one) for one in found] if isinstance(found, list) else found


@pytest.mark.lab
def test_the_quick_world_tells_ways_apart(tmp_path: Path):
    ways = find_ways(["interpolation", "spectral", "joint", "fine-tuning-both"])
    held = open_course("synthetic", quick=True)
    (result,) = run_trial(held, tmp_path, [0], ways=ways, console=QUIET).results
    base, tuned = result.ends["base"]["evaluated"], result.ends["tuned"]["evaluated"]
    assert base.retention == pytest.approx(0.0) and tuned.retention == pytest.approx(100.0)
    assert base.f1 - tuned.f1 >= 15
    entry = result.showings["spectral"].entries[90.0]
    assert entry is not None
    assert entry.evaluated.f1 - tuned.f1 >= 10 and entry.evaluated.retention >= 80
    # Seconds are of this candidate alone, measuring included: more than a weighted mean takes.
    line = result.showings["interpolation"].entries[90.0]
    assert line is not None and 0 < line.chosen.seconds < entry.chosen.seconds
    assert all(isinstance(one.validation, Marks) for one in result.showings["joint"].candidates)
