import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.trial import fair_trial, fine_tuning
from experiments.trial.candidate_specs import FineTuned, Interpolated, Restored, Samples
from experiments.trial.fair_trial import (
    Environment,
    collect_trial,
    open_environment,
    pair_digest,
    run_seeds,
    run_trial,
)
from experiments.trial.journal import open_journal
from experiments.trial.methods import Method, find_methods
from experiments.trial.metrics import Metrics
from experiments.trial.seed_result import SeedResult
from experiments.trial.selection import LEVELS
from experiments.trial.trial_files import prepared
from hcnr.benchmarks.questions import Question
from hcnr.demo.seeds import MOST_SEEDS
from hcnr.errors import ConfigError, DataError, OutputError
from hcnr.evaluation.question_sets import QuestionSets
from testbeds import WeighedTestBed, environment_of, write_testbed

QUIET = Console(quiet=True)
METHODS = (
    Method("interpolation", tuple(Interpolated(share) for share in (0.03, 0.08, 0.2, 0.9))),
    Method("sum", (Restored("sum", in_weight_ratio=0.1, cross_weight_ratio=0.2), Restored("sum"))),
    Method("spectral", (Restored("spectral", task_weight=30.0), Restored("spectral"))),
    Method("fine-tuning, honesty", tuple(FineTuned("honesty", 1e-4, one) for one in (1, 2))),
)
GRID = sum(len(method.grid) for method in METHODS)


@pytest.fixture
def environment(tmp_path: Path) -> tuple[Environment, dict[int, WeighedTestBed]]:
    return environment_of(tmp_path / "worlds")


def asked(testbeds: dict[int, WeighedTestBed]) -> list[Counter[str]]:
    found = [Counter(testbed.asked) for testbed in testbeds.values()]
    for testbed in testbeds.values():
        testbed.asked.clear()
    return found


def test_a_trial_from_end_to_end(environment, tmp_path: Path):
    held, testbeds = environment
    table = run_trial(held, tmp_path / "out", range(2), methods=METHODS, console=QUIET)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [
        *("seed-0.json", "seed-0.jsonl", "seed-1.json", "seed-1.jsonl"),
        *("trial.json", "trial.md"),
    ]
    for result, counts in zip(table.results, asked(testbeds), strict=True):
        chosen = {
            json.dumps(dict(one.candidate.settings), sort_keys=True)
            for method_result in result.method_results.values()
            for selected in method_result.selections.values()
            if selected is not None
            for one in (selected, *selected.baselines.values())
        } - {'{"made": "tuned"}'}
        # Every candidate once, and on the test split nobody but the chosen and the two ends.
        assert counts == {"validation": GRID + 2, "evaluated": len(chosen) + 2}
        assert result.references["base"]["evaluated"].retention == pytest.approx(0.0)
        assert result.references["tuned"]["evaluated"].retention == pytest.approx(100.0)
        assert math.isnan(result.references["refuse all"]["evaluated"].retention)
        selected = {
            level: result.method_results["interpolation"].selections[level] for level in LEVELS
        }
        assert [one and one.candidate.settings["coefficient"] for one in selected.values()] == [
            *(0.03, 0.08, 0.2)
        ]
        for one in selected.values():
            assert one is not None
            # Chosen by validation, though the test split would have it the other method round.
            assert one.test.f1 == pytest.approx(130.0 - one.candidate.validation.f1)
    written = json.loads((tmp_path / "out" / "trial.json").read_text())
    assert [one["seed"] for one in written["results"]] == [0, 1]
    assert len(written["results"][0]["ways"]["sum"]["candidates"]) == 2
    assert (tmp_path / "out" / "trial.md").read_text() == table.to_markdown()


def test_a_finished_seed_is_read_and_a_lost_result_is_made_from_the_journal(
    environment, tmp_path: Path
):
    held, testbeds = environment
    first = run_trial(held, tmp_path, range(2), methods=METHODS, console=QUIET)
    asked(testbeds)
    (tmp_path / "seed-1.json").unlink()
    again = run_trial(held, tmp_path, range(2), methods=METHODS, console=QUIET)
    assert asked(testbeds) == [Counter(), Counter()]
    assert again.as_dict()["tables"] == first.as_dict()["tables"]


def test_seeds_of_several_machines_make_one_table(tmp_path: Path):
    """Each of them trained models of its own, so that no run would take the other's seed."""
    together = tmp_path / "together"
    together.mkdir()
    for number in range(2):
        held, _ = environment_of(tmp_path / f"worlds-{number}")
        run_trial(held, tmp_path / str(number), [number], methods=METHODS, console=QUIET)
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
    testbed = write_testbed(tmp_path / "world")
    whole = run_trial(
        Environment("tiny", lambda *_: testbed),
        tmp_path / "whole",
        [0],
        methods=METHODS,
        console=QUIET,
    )
    total = len(testbed.asked)
    testbed.asked.clear()

    def stop() -> None:
        if len(testbed.asked) == calls:
            raise KeyboardInterrupt

    stopped = dataclasses.replace(testbed, before=stop)
    with pytest.raises(KeyboardInterrupt):
        run_trial(
            Environment("tiny", lambda *_: stopped),
            tmp_path / "part",
            [0],
            methods=METHODS,
            console=QUIET,
        )
    assert not (tmp_path / "part" / "seed-0.json").exists()
    with (tmp_path / "part" / "seed-0.jsonl").open("a") as file:
        file.write('{"candidate": "cut sh')
    testbed.asked.clear()
    found = run_trial(
        Environment("tiny", lambda *_: testbed),
        tmp_path / "part",
        [0],
        methods=METHODS,
        console=QUIET,
    )
    assert len(testbed.asked) == total - calls
    assert _without_seconds(found.results[0]) == _without_seconds(whole.results[0])


def test_more_settings_cost_only_themselves(environment, tmp_path: Path):
    held, testbeds = environment
    run_trial(held, tmp_path, range(2), methods=METHODS[:2], console=QUIET)
    asked(testbeds)
    wider = Method("sum", (*METHODS[1].grid, Restored("sum", "input")))
    table = run_trial(held, tmp_path, range(2), methods=(METHODS[0], wider), console=QUIET)
    assert [one["validation"] for one in asked(testbeds)] == [1, 1]
    assert [len(one.method_results["sum"].candidates) for one in table.results] == [3, 3]


def test_a_finished_seed_of_other_levels_samples_or_choosing_is_not_taken(
    environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    held, testbeds = environment
    method = Method(
        "sum", (Restored("sum", in_weight_ratio=0.1, cross_weight_ratio=0.2),), Samples(8)
    )

    def run(method: Method, levels: tuple[float, ...]) -> SeedResult:
        return run_seeds(held, tmp_path, [0], [method], levels, "seed", QUIET)[0]

    first = run(method, (90.0,))
    assert run(method, (90.0,)).as_dict() == first.as_dict()
    assert list(run(method, (75.0,)).method_results["sum"].selections) == [75.0]
    asked(testbeds)
    run(dataclasses.replace(method, samples=Samples(4)), (75.0,))
    assert asked(testbeds)[0]["validation"] == 1
    before = run(method, (90.0,)).key
    monkeypatch.setattr(fair_trial, "CHOOSING", -1)
    assert run(method, (90.0,)).key != before


def test_trials_of_two_pairs_do_not_mix(environment, tmp_path: Path):
    held, testbeds = environment
    run_trial(held, tmp_path, [0], methods=METHODS[:1], console=QUIET)
    (testbeds[0].honesty).write_text('{"prompt": "w1", "response": "w2"}\n')
    with pytest.raises(OutputError, match=r"seed-0\.jsonl holds the trial of another pair"):
        run_trial(held, tmp_path, [0], methods=METHODS[:1], console=QUIET)


def test_a_seed_is_run_by_one_process_at_a_time(environment, tmp_path: Path):
    held, testbeds = environment
    with (
        open_journal(tmp_path / "seed-0.jsonl", pair_digest(testbeds[0])),
        pytest.raises(OutputError, match=r"another process is running .*seed-0\.jsonl"),
    ):
        run_trial(held, tmp_path, [0], methods=METHODS[:1], console=QUIET)
    assert asked(testbeds)[0] == Counter()
    run_trial(held, tmp_path, [0], methods=METHODS[:1], console=QUIET)


QUESTION = Question("1", "names", "who?", True, ("w1", "w2"), "who? Answer:")


def questions(honesty: Question = QUESTION, task: Question = QUESTION) -> QuestionSets:
    return QuestionSets({"names": (honesty,)}, {"task": (task,)}, {}, None, False, 0, 0)


@pytest.mark.parametrize(
    "change", [{"question": "whom?"}, {"answerable": False}, {"answers": ("w1",)}, {"prompt": "?"}]
)
def test_the_digest_is_of_every_question(tmp_path: Path, change: dict):
    testbed = dataclasses.replace(
        write_testbed(tmp_path), question_sets={"validation": questions(), "evaluated": questions()}
    )
    other = dataclasses.replace(QUESTION, **change)
    found = [
        pair_digest(
            dataclasses.replace(testbed, question_sets={"validation": one, "evaluated": two})
        )
        for one, two in (
            (questions(), questions()),
            (questions(other), questions()),
            (questions(task=other), questions()),
            (questions(), questions(other)),
            (questions(), questions(task=other)),
        )
    ]
    assert found[0] == pair_digest(testbed) and len(set(found)) == 5


def test_the_digest_is_of_weights_samples_and_constants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    testbed = write_testbed(tmp_path)
    found = pair_digest(testbed)
    assert pair_digest(dataclasses.replace(testbed, asked=["x"])) == found
    others = [
        dataclasses.replace(testbed, base=testbed.tuned),
        dataclasses.replace(testbed, tuned=testbed.base),
        dataclasses.replace(testbed, honesty=testbed.task),
        dataclasses.replace(testbed, task=testbed.honesty),
        dataclasses.replace(testbed, seed=1),
        dataclasses.replace(testbed, world="other"),
        dataclasses.replace(testbed, refusal="w62"),
    ]
    digests = [found, *map(pair_digest, others)]
    for module, name in (
        *((fine_tuning, "BATCH_SIZE"), (fine_tuning, "LARGEST_NORM"), (fair_trial, "FORMAT")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 7)
            digests.append(pair_digest(testbed))
    assert len(set(digests)) == len(digests)
    assert pair_digest(testbed) == found


def test_candidates_that_two_methods_share_are_evaluated_once(environment, tmp_path: Path):
    held, testbeds = environment
    twin = Method("the same again", METHODS[0].grid)
    table = run_trial(held, tmp_path, [0], methods=(METHODS[0], twin), console=QUIET)
    assert asked(testbeds)[0]["validation"] == len(METHODS[0].grid) + 2
    first, second = table.results[0].method_results.values()
    assert first.candidates == second.candidates
    # The baseline itself has no baseline of its own name.
    assert [one and one.candidate for one in first.selections.values()] == [
        one and one.candidate for one in second.selections.values()
    ]


@pytest.mark.parametrize("seeds", [0, MOST_SEEDS + 1])
def test_seeds_without_an_interval_are_refused(environment, tmp_path: Path, seeds: int):
    held, _ = environment
    with pytest.raises(ConfigError, match="--seeds"):
        run_trial(held, tmp_path / "new", range(seeds), console=QUIET)
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_found_first(environment, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    held, testbeds = environment
    with pytest.raises(OutputError, match="choose another --out"):
        run_trial(held, tmp_path / "file", [0], console=QUIET)
    assert asked(testbeds)[0] == Counter()
    assert list(prepared(tmp_path / "empty").iterdir()) == []
    with pytest.raises(OutputError, match="--out is empty"):
        run_trial(held, "", [0], console=QUIET)


def test_bad_worlds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("HCNR_DATA_ROOT", raising=False)
    with pytest.raises(ConfigError, match="no world named 'txt', expected one of synthetic, text"):
        open_environment("txt")
    with pytest.raises(DataError, match="--data-root"):
        open_environment("text")
    with pytest.raises(ConfigError, match="--quick"):
        open_environment("text", data_root=tmp_path, quick=True)
    for world in ("text", "text-mild"):
        assert open_environment(world, data_root=tmp_path).world == world
    assert open_environment("synthetic", quick=True).world == "synthetic, quick"


def _without_seconds(result: SeedResult) -> dict:
    return _plain({**result.as_dict(), "facts": None})


def _plain(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _plain(one) for name, one in found.items() if name != "seconds"}
    return [_plain(one) for one in found] if isinstance(found, list) else found


@pytest.mark.lab
def test_the_quick_world_tells_methods_apart(tmp_path: Path):
    methods = find_methods(["interpolation", "spectral", "joint"])
    held = open_environment("synthetic", quick=True)
    (result,) = run_trial(held, tmp_path, [0], methods=methods, console=QUIET).results
    base, tuned = result.references["base"]["evaluated"], result.references["tuned"]["evaluated"]
    assert base.retention == pytest.approx(0.0) and tuned.retention == pytest.approx(100.0)
    assert base.f1 - tuned.f1 >= 15
    selected = result.method_results["spectral"].selections[90.0]
    assert selected is not None
    assert selected.test.f1 - tuned.f1 >= 10 and selected.test.retention >= 80
    # Seconds are of this candidate alone, measuring included: more than a weighted mean takes.
    line = result.method_results["interpolation"].selections[90.0]
    assert line is not None and 0 < line.candidate.seconds < selected.candidate.seconds
    assert all(
        isinstance(one.validation, Metrics) for one in result.method_results["joint"].candidates
    )
