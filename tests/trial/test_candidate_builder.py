import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import hcnr
from experiments.trial import candidate_builder, fine_tuning
from experiments.trial.candidate_builder import CandidateBuilder, Clock, select_samples
from experiments.trial.candidate_specs import FineTuned, Interpolated, Masked, Restored, Samples
from experiments.trial.fine_tuning import Snapshot, fine_tune
from hcnr.curvature.spectral_bases import SpectralBases
from hcnr.data.batches import collate
from hcnr.data.samples import load_samples
from hcnr.data.tokens import tokenize
from hcnr.models.targets import target_matrices
from pairs import bits
from testbeds import REFUSAL, WeighedTestBed, write_testbed

SAMPLES = Samples(8)
RESTORED = (
    Restored("none", "input", 0.5, 0.4, "random"),
    Restored("sum", "input", 0.25, 0.4),
    Restored("sum", fisher_at="base"),
    Restored("sum", priority="honesty"),
    Restored("joint"),
    Restored("balanced", "output", 0.5, 0.4, task_weight=3.0),
    Restored("spectral", cross_weight_ratio=0.4, task_weight=3.0),
    Restored("natural", task_weight=10.0, steps=2, step_size=0.4),
    Restored("spectral+natural", task_weight=3.0, steps=1, step_size=0.2),
)


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> WeighedTestBed:
    return write_testbed(tmp_path_factory.mktemp("testbed"), seed=3)


def states(testbed: WeighedTestBed, *specs) -> list[dict[str, bytes]]:
    with CandidateBuilder(testbed, SAMPLES) as builder:
        return [bits(candidate.model) for candidate in builder.build(specs)]


def test_a_restored_candidate_is_what_restore_makes_bit_for_bit(testbed: WeighedTestBed):
    found = states(testbed, *RESTORED)
    for spec, state in zip(RESTORED, found, strict=True):
        model = hcnr.restore(
            testbed.base,
            testbed.tuned,
            testbed.honesty,
            testbed.task,
            config=spec.config(8, seed=3),
        )
        assert state == bits(model), spec
    assert len({str(sorted(state.items())) for state in found}) == len(RESTORED)


def test_an_interpolated_candidate_lies_on_the_line(testbed: WeighedTestBed):
    base, tuned = (testbed.load(path).state_dict() for path in (testbed.base, testbed.tuned))
    with CandidateBuilder(testbed, SAMPLES) as builder:
        for candidate in builder.build([Interpolated(0.25), Interpolated(1.0)]):
            assert isinstance(candidate.spec, Interpolated)
            share = candidate.spec.coefficient
            for name, value in candidate.model.state_dict().items():
                torch.testing.assert_close(value, (1 - share) * tuned[name] + share * base[name])


@pytest.mark.parametrize(("mu", "end"), [(1e12, "tuned"), (0.0, "base")])
def test_the_limits_of_spectral_are_the_ends(testbed: WeighedTestBed, mu: float, end: str):
    expected = testbed.load(testbed.directory / end).state_dict()
    with CandidateBuilder(testbed, SAMPLES) as builder:
        for candidate in builder.build([Restored("spectral", task_weight=mu)]):
            for name in target_matrices(candidate.model):
                weight = candidate.model.get_submodule(name).get_parameter("weight")
                torch.testing.assert_close(weight, expected[f"{name}.weight"], rtol=0, atol=1e-5)


def test_masked_writes_spectral_on_some_rows_and_leaves_the_others(testbed: WeighedTestBed):
    tuned = testbed.load(testbed.tuned).state_dict()
    whole, masked = Restored("spectral", task_weight=1.0), Masked(1.0, "random", 0.5)
    with CandidateBuilder(testbed, SAMPLES) as builder:
        full, part = (
            {name: value.clone() for name, value in candidate.model.state_dict().items()}
            for candidate in builder.build([whole, masked])
        )
    matrices = [f"{name}.weight" for name in target_matrices(testbed.load(testbed.tuned))]
    for name in matrices:
        kept = (part[name] == tuned[name]).all(1)
        assert int(kept.sum()) == round(len(kept) / 2), name
        torch.testing.assert_close(part[name][~kept], full[name][~kept], rtol=0, atol=1e-6)


def test_fine_tunings_of_one_rate_are_one_training(
    testbed: WeighedTestBed, monkeypatch: pytest.MonkeyPatch
):
    calls = []

    def counted(*arguments, **settings):
        calls.append(settings)
        return fine_tune(*arguments, **settings)

    monkeypatch.setattr(candidate_builder, "fine_tune", counted)
    specs = [FineTuned("honesty", 1e-3, 2), FineTuned("both", 1e-3, 1),
               FineTuned("honesty", 1e-3, 1)]  # fmt: skip
    with CandidateBuilder(testbed, SAMPLES) as builder:
        found = {
            candidate.spec: (bits(candidate.model), candidate.seconds)
            for candidate in builder.build(specs)
        }
    assert [call["epochs"] for call in calls] == [[2, 1], [1]]
    assert set(found) == set(specs)
    assert found[specs[2]][1] < found[specs[0]][1]
    tokens = tokenize(load_samples(testbed.honesty, limit=8), testbed.tokenizer)
    start = testbed.load(testbed.tuned)
    ((_, model, _),) = fine_tune(start, tokens.samples, rate=1e-3, epochs=[1], seed=3)
    assert found[specs[2]][0] == bits(model)
    assert found[specs[1]][0] != bits(model)


@pytest.mark.parametrize(("on", "sets"), [("honesty", 1), ("both", 2)])
def test_fine_tuning_is_given_the_samples_that_a_repair_measures(
    testbed: WeighedTestBed,
    monkeypatch: pytest.MonkeyPatch,
    on: Literal["honesty", "both"],
    sets: int,
):
    given = []

    def watched(model, samples, **settings):
        given.append(list(samples))
        return fine_tune(model, samples, **settings)

    monkeypatch.setattr(candidate_builder, "fine_tune", watched)
    states(testbed, FineTuned(on, 1e-3, 1))
    files = [testbed.honesty, testbed.task][:sets]
    expected = [
        one
        for file in files
        for one in tokenize(load_samples(file, limit=8), testbed.tokenizer).samples
    ]
    assert given == [expected] and len(expected) == 8 * sets
    assert len(set(expected)) == len(expected)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of a processor whose time is spent by tests alone."""
    seconds = [0.0]
    monkeypatch.setattr(candidate_builder.time, "process_time", lambda: seconds[0])
    return seconds


def test_seconds_count_the_measuring_that_a_kind_needs(
    testbed: WeighedTestBed, monkeypatch: pytest.MonkeyPatch, now: list[float]
):
    stages = []

    class Slow(Clock):
        def begin(self, stage: str) -> None:
            super().begin(stage)
            stages.append(stage)
            now[0] += 100.0

    measure = SpectralBases.measure

    def slow(*arguments: Any, **settings: Any) -> SpectralBases:
        now[0] += 1000.0
        return measure(*arguments, **settings)

    monkeypatch.setattr(candidate_builder, "Clock", Slow)
    monkeypatch.setattr(SpectralBases, "measure", slow)
    specs = [
        *(Interpolated(0.5), Restored("none"), Restored("sum"), Restored("balanced")),
        *(Restored("spectral"), Masked(1.0, "kl")),
    ]
    with CandidateBuilder(testbed, SAMPLES) as builder:
        found = {candidate.spec: candidate.seconds for candidate in builder.build(specs)}
    whole = 100.0 * len(stages)
    assert len(set(stages)) == len(stages) > 3
    # What the candidates themselves take is less than a second of the real clock.
    expected = [0.0, whole - 200.0, whole - 100.0, whole, whole + 800.0, whole + 800.0]
    assert [found[one] for one in specs] == pytest.approx(expected, abs=5.0)


def test_the_repair_before_a_fine_tuning_is_paid_for(
    testbed: WeighedTestBed, monkeypatch: pytest.MonkeyPatch, now: list[float]
):
    measure = SpectralBases.measure

    def slow(*arguments: Any, **settings: Any) -> SpectralBases:
        now[0] += 1000.0
        return measure(*arguments, **settings)

    def training(*arguments: Any, **settings: Any) -> Iterator[Snapshot]:
        for shown in fine_tune(*arguments, **settings):
            yield shown._replace(seconds=10.0 * shown.epochs)

    monkeypatch.setattr(SpectralBases, "measure", slow)
    monkeypatch.setattr(candidate_builder, "fine_tune", training)
    after = Restored("spectral", task_weight=3.0)
    specs = [FineTuned("honesty", 1e-3, epochs, start) for start in (None, after)
               for epochs in (1, 2)]  # fmt: skip
    with CandidateBuilder(testbed, SAMPLES) as builder:
        found = {candidate.spec: candidate.seconds for candidate in builder.build(specs)}
    assert [found[one] for one in specs] == pytest.approx([10, 20, 1010, 1020], abs=5.0)


def test_a_training_is_paid_for_by_its_epochs_and_not_by_the_evaluator(
    testbed: WeighedTestBed, monkeypatch: pytest.MonkeyPatch, now: list[float]
):
    def slow(*arguments: Any, **settings: Any) -> Any:
        now[0] += 1.0
        return collate(*arguments, **settings)

    monkeypatch.setattr(fine_tuning, "collate", slow)
    specs = [FineTuned("honesty", 1e-3, epochs) for epochs in (1, 3)]
    found = []
    with CandidateBuilder(testbed, SAMPLES) as builder:
        for candidate in builder.build(specs):
            found.append(candidate.seconds)
            now[0] += 500.0
    # Eight samples are one step.
    assert found == [1.0, 3.0]


def test_fine_tuning_after_a_repair_starts_from_it(testbed: WeighedTestBed):
    after = Restored("spectral", task_weight=3.0)
    repaired, tuned = states(testbed, after, FineTuned("honesty", 0.0, 1, after))
    assert repaired == tuned


def test_the_order_and_the_neighbours_of_a_candidate_do_not_matter(testbed: WeighedTestBed):
    some = [RESTORED[7], RESTORED[6], Interpolated(0.5), RESTORED[1]]
    with CandidateBuilder(testbed, SAMPLES) as builder:
        together = {candidate.spec: bits(candidate.model) for candidate in builder.build(some)}
        backwards = {
            candidate.spec: bits(candidate.model) for candidate in builder.build(some[::-1])
        }
    assert together == backwards
    assert together[RESTORED[1]] == states(testbed, RESTORED[1])[0]


def test_a_kind_pays_for_what_it_needs(testbed: WeighedTestBed):
    measured = candidate_builder._Measured(
        None,  # pyright: ignore[reportArgumentType]
        None,  # pyright: ignore[reportArgumentType]
        {"score honesty": 1.0, "curvature of honesty": 2.0, "curvature of task": 4.0},
    )
    paid = {kind: measured.seconds(kind) for kind in ("none", "sum", "balanced", "spectral")}
    assert paid == {"none": 1.0, "sum": 3.0, "balanced": 7.0, "spectral": 1.0}
    clock = Clock()
    hcnr.measure(testbed.base, testbed.tuned, testbed.honesty, testbed.task,
                 RESTORED[5].config(8, 0).replace(all_hessians=True), watcher=clock)  # fmt: skip
    clock.stop()
    assert set(candidate_builder._NEEDED_BY) < set(clock.seconds), (
        "a stage of measure has another name"
    )
    assert all(spent >= 0 for spent in clock.seconds.values())


def test_samples_are_the_first_ones_or_refusals_alone(testbed: WeighedTestBed):
    mixed = select_samples(testbed, Samples(4))
    refusals = select_samples(testbed, Samples(4, "refusals"))
    assert [one.response == REFUSAL for one in mixed] == [True, False, True, False]
    assert [one.response for one in refusals] == [REFUSAL] * 4
    assert len({one.prompt for one in refusals}) == 4
    everything = load_samples(testbed.honesty).samples
    assert len(select_samples(testbed, Samples(100, "refusals"))) == len(everything) / 2


def test_other_samples_give_another_repair(testbed: WeighedTestBed):
    def candidate(samples: Samples) -> dict[str, bytes]:
        with CandidateBuilder(testbed, samples) as builder:
            return next(bits(one.model) for one in builder.build([Restored("sum")]))

    found = [candidate(Samples(4)), candidate(Samples(8)), candidate(Samples(4, "refusals"))]
    assert found[0] != found[1] and found[0] != found[2]


def test_nothing_on_disk_is_changed(testbed: WeighedTestBed, tmp_path: Path):
    before = {path: path.read_bytes() for path in testbed.directory.rglob("*") if path.is_file()}
    states(testbed, *RESTORED[:2], Interpolated(0.5), FineTuned("both", 1e-3, 1))
    assert before == {
        path: path.read_bytes() for path in testbed.directory.rglob("*") if path.is_file()
    }


def test_random_neurons_follow_the_seed_of_the_world(testbed: WeighedTestBed):
    other = dataclasses.replace(testbed, seed=4)
    assert states(testbed, RESTORED[0]) != states(other, RESTORED[0])
