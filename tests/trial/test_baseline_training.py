import dataclasses
import os
import random
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from huggingface_hub.utils import _telemetry

from experiments.trial import baseline_training, preferences
from experiments.trial.baseline_data import BaselineData, PoolQuestion
from experiments.trial.candidate_builder import CandidateBuilder
from experiments.trial.candidate_specs import (
    Preferred,
    Prompted,
    Rait,
    Rehearsed,
    Samples,
    candidate_key,
)
from experiments.trial.preferences import Pair, check_trl, make_pairs, prefer
from hcnr.curvature.passes import sample_losses
from hcnr.data.batches import collate
from hcnr.data.samples import Sample, load_samples
from hcnr.data.tokens import tokenize
from hcnr.demo.real.training import Schedule, train
from hcnr.errors import ConfigError, DataError, HcnrError
from pairs import bits
from testbeds import REFUSAL, WeighedTestBed, write_testbed

SAMPLES = Samples(8)
POOL = tuple(
    PoolQuestion(
        prompt=f"w{i} w{i + 3} w{2 * i}",
        response=f"w{i + 1} w{i % 7}" if i % 2 else REFUSAL,
        refusal=REFUSAL,
        answerable=bool(i % 2),
    )
    for i in range(24)
)
RAIT = Rait(3e-3, samples=16, epochs=3)
DPO = Preferred("dpo", 3e-3, samples=16, epochs=2)
ORPO = Preferred("orpo", 3e-3, samples=16, epochs=2)


@pytest.fixture
def needs_trl() -> None:
    pytest.importorskip("trl", reason="TRL is not installed: pip install '.[trial]'")
    pytest.importorskip("datasets", reason="datasets is not installed: pip install '.[trial]'")


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> WeighedTestBed:
    candidate = write_testbed(tmp_path_factory.mktemp("testbed"), seed=3)
    task = tuple(load_samples(candidate.task).samples)
    data = BaselineData(POOL, task, Schedule(4, 4, 3e-3, "order", 1))
    return dataclasses.replace(candidate, baseline_data=lambda: data)


@pytest.fixture(params=[RAIT, DPO, ORPO, Rehearsed()], ids=lambda one: one.as_dict()["made"])
def spec(request):
    if isinstance(request.param, Preferred):
        request.getfixturevalue("needs_trl")
    return request.param


def likelihood(model, testbed: WeighedTestBed, samples: list[Sample]) -> torch.Tensor:
    """Mean log-probability of each response's tokens."""
    found = tokenize(samples, testbed.tokenizer).samples
    with torch.no_grad():
        return -sample_losses(model, collate(found, range(len(found)), pad_token_id=0))


def seed() -> None:
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)


def drawn() -> tuple[float, ...]:
    return random.random(), np.random.random(), float(torch.rand(1))


def candidate(testbed: WeighedTestBed, *specs) -> list[dict[str, bytes]]:
    with CandidateBuilder(testbed, SAMPLES) as builder:
        return [bits(one.model) for one in builder.build(specs)]


def test_a_baseline_is_deterministic_and_not_the_tuned_model(testbed: WeighedTestBed, spec):
    first, second = candidate(testbed, spec), candidate(testbed, spec)
    assert first == second
    assert first[0] != bits(testbed.load(testbed.tuned))


def test_a_baseline_leaves_the_tuned_model_files_and_seeds_alone(
    testbed: WeighedTestBed, spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
):
    reports = []
    # TRL's reports of its trainings leave by a thread of their own, which starts at the first.
    monkeypatch.setattr(_telemetry, "_start_telemetry_thread", lambda: reports.append("one"))
    monkeypatch.chdir(tmp_path)
    places = tmp_path / "temporary"
    places.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    seed()
    environment, threads = dict(os.environ), torch.get_num_threads()
    files = {path: path.read_bytes() for path in testbed.directory.rglob("*") if path.is_file()}
    expected = bits(testbed.load(testbed.tuned))
    with CandidateBuilder(testbed, SAMPLES) as builder:
        (one,) = builder.build([spec])
        assert not one.model.training
        assert one.seconds > 0 and one.instruction == ""
        assert all(value.dtype == torch.float32 for value in one.model.parameters())
        assert bits(builder._tuned) == expected
        # A patched forward pass would be an attribute of the model itself.
        assert "forward" not in vars(builder._tuned) and "forward" not in vars(one.model)
    found = drawn()
    seed()
    assert found == drawn()
    assert (dict(os.environ), torch.get_num_threads()) == (environment, threads)
    assert list(tmp_path.rglob("*")) == [places]
    assert files == {p: p.read_bytes() for p in testbed.directory.rglob("*") if p.is_file()}
    assert capfd.readouterr() == ("", "")
    assert reports == []


def test_a_baseline_that_is_asked_for_again_is_not_trained_again(
    testbed: WeighedTestBed, monkeypatch: pytest.MonkeyPatch
):
    calls = []

    def watched(model, *arguments, **settings):
        calls.append(None)
        return train(model, *arguments, **settings)

    monkeypatch.setattr(baseline_training, "train", watched)
    other = dataclasses.replace(RAIT, rate=1e-3)
    specs = [RAIT, Rehearsed(), other, RAIT, Rehearsed()]
    with CandidateBuilder(testbed, SAMPLES) as builder:
        found = [(bits(one.model), one.seconds) for one in builder.build(specs)]
        assert not any(one.model.training for one in builder.build([RAIT]))
    assert len(calls) == 3
    assert found[3] == found[0] != found[2] and found[4] == found[1]


def test_rait_learns_the_pools_responses(testbed: WeighedTestBed):
    samples = [one.sample for one in POOL[: RAIT.samples]]
    before = likelihood(testbed.load(testbed.tuned), testbed, samples)
    with CandidateBuilder(testbed, SAMPLES) as builder:
        (after,) = (likelihood(one.model, testbed, samples) for one in builder.build([RAIT]))
    assert after.mean() > before.mean() + 0.1


@pytest.mark.parametrize("spec", [DPO, ORPO], ids=["dpo", "orpo"])
def test_preferences_widen_the_margin(testbed: WeighedTestBed, spec: Preferred, needs_trl):
    tuned = testbed.load(testbed.tuned)
    pairs = make_pairs(tuned, testbed.tokenizer, POOL[:16])
    chosen = [Sample(one.prompt, one.chosen) for one in pairs]
    rejected = [Sample(one.prompt, one.rejected) for one in pairs]

    def margin(model) -> torch.Tensor:
        return likelihood(model, testbed, chosen) - likelihood(model, testbed, rejected)

    before = margin(tuned)
    after = margin(prefer(tuned, testbed.tokenizer, pairs, spec, seed=3))
    assert after.mean() > before.mean() + 0.1
    assert (after > before).float().mean() > 0.8


def test_a_step_of_dpo_goes_down_the_papers_gradient(testbed: WeighedTestBed, needs_trl):
    """From the reference all margins are zero: the gradient is that of minus beta / 2 times them.

    The first step only warms up; the second one of Adam moves every weight by the rate, against
    the gradient's sign.
    """
    tuned = testbed.load(testbed.tuned)
    pairs = [Pair(one.prompt, one.response, f"w{i + 2}") for i, one in enumerate(POOL[:8])]
    model = prefer(tuned, testbed.tokenizer, pairs, Preferred("dpo", 1e-4, 0.5, 8, 2), seed=0)
    name = "model.layers.0.mlp.up_proj.weight"
    weight = tuned.get_parameter(name)
    total = torch.zeros(())
    for sign, kind in ((1, "chosen"), (-1, "rejected")):
        tokens = tokenize([Sample(one.prompt, getattr(one, kind)) for one in pairs],
                          testbed.tokenizer).samples  # fmt: skip
        losses = sample_losses(tuned, collate(tokens, range(8), pad_token_id=0))
        counts = torch.tensor([len(one) - one.response_start for one in tokens])
        total = total + sign * (losses * counts).sum()
    (gradient,) = torch.autograd.grad(total, weight)
    moved = model.get_parameter(name) - weight
    large = gradient.abs() > 0.1 * gradient.abs().max()
    assert large.sum() > 20
    assert torch.equal(moved[large].sign(), -gradient[large].sign())


@pytest.mark.parametrize("by", ["dpo", "orpo"])
def test_every_epoch_sees_each_pair_once_in_an_order_of_the_seed(
    testbed: WeighedTestBed, by: Literal["dpo", "orpo"], monkeypatch: pytest.MonkeyPatch, needs_trl
):
    from experiments.trial import trl_trainers

    seen: list[list[int]] = []
    row = trl_trainers._row

    def watched(good, bad):
        seen[-1].append(chosen.index(good))
        return row(good, bad)

    step, widths = trl_trainers._InOrder.training_step, []

    def stepped(self, model, inputs, *rest):
        widths.append(inputs["input_ids" if by == "dpo" else "chosen_input_ids"].shape[1])
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(trl_trainers, "_row", watched)
    monkeypatch.setattr(trl_trainers._InOrder, "training_step", stepped)
    samples = [Sample(f"w{i} " * (1 + i % 5), f"w{i + 1}") for i in range(1, 33)]
    chosen = tokenize(samples, testbed.tokenizer).samples
    for seed in (0, 0, 1):
        seen.append([])
        trl_trainers.train_preferences(
            testbed.load(testbed.tuned), testbed.tokenizer, chosen, chosen,
            Preferred(by, 1e-3, epochs=2), seed,
        )  # fmt: skip
    for order in seen:
        assert sorted(order[:32]) == sorted(order[32:]) == list(range(32))
        assert order[:32] != order[32:]
        for first in range(0, 64, 8):
            lengths = [len(chosen[index]) for index in order[first : first + 8]]
            assert max(lengths) - min(lengths) <= 2
            # What the trainer gets is what was ordered.
            assert widths.pop(0) == max(lengths)
    assert seen[0] == seen[1] != seen[2]


def test_preferences_refuse_where_there_is_no_answer_and_nowhere_else(
    testbed: WeighedTestBed, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def answers(model, tokenizer, prompts, **settings):
        asked.extend(prompts)
        return ["w9", "I don't know.", "", REFUSAL]

    monkeypatch.setattr(preferences, "generate", answers)
    model = testbed.load(testbed.tuned)
    pairs = make_pairs(model, testbed.tokenizer, POOL[:8])
    assert asked == [one.prompt for one in POOL[:8:2]]
    assert [one.prompt for one in pairs] == [one.prompt for one in POOL[:8] if one is not POOL[6]]
    answerable = [one for one in POOL[:8] if one.answerable]
    for pair, one in zip(pairs[1::2], answerable, strict=False):
        assert (pair.chosen, pair.rejected) == (one.response, REFUSAL)
    assert pairs[0] == Pair(POOL[0].prompt, REFUSAL, "w9")
    # Its own refusal and its silence are replaced by the answer of another question.
    for pair in (pairs[2], pairs[4]):
        assert pair.chosen == REFUSAL
        assert pair.rejected in {one.response for one in answerable}


def test_the_tuned_models_answers_are_taken_once_and_paid_by_both(
    testbed: WeighedTestBed, monkeypatch: pytest.MonkeyPatch
):
    calls, now = [], [0.0]

    def pairs_of(tuned, tokenizer, questions):
        calls.append(len(questions))
        now[0] += 100.0
        return [Pair("w1", "w2", "w3")]

    def preferred(tuned, *_):
        now[0] += 10.0
        return tuned

    monkeypatch.setattr(baseline_training.time, "process_time", lambda: now[0])
    monkeypatch.setattr(baseline_training, "make_pairs", pairs_of)
    monkeypatch.setattr(baseline_training, "prefer", preferred)
    monkeypatch.setattr(baseline_training, "check_trl", lambda _: None)
    with CandidateBuilder(testbed, SAMPLES) as builder:
        seconds = [one.seconds for one in builder.build([DPO, ORPO])]
    assert calls == [16] and seconds == [110.0, 110.0]


def test_rehearsal_is_the_fine_tuning_from_base_with_the_honesty_samples(
    testbed: WeighedTestBed, monkeypatch: pytest.MonkeyPatch
):
    seen = []

    def watched(model, data, schedule, **settings):
        seen.append((bits(model), data.samples, schedule))

    monkeypatch.setattr(baseline_training, "train", watched)
    candidate(testbed, Rehearsed(2))
    ((model, samples, schedule),) = seen
    assert testbed.baseline_data is not None
    data = testbed.baseline_data()
    honesty = list(load_samples(testbed.honesty, limit=8).samples)
    assert model == bits(testbed.load(testbed.base)) and schedule == data.schedule
    expected = [*data.task, *honesty, *honesty]
    assert samples == tokenize(expected, testbed.tokenizer).samples


def test_a_prompt_changes_no_weight(testbed: WeighedTestBed):
    with CandidateBuilder(testbed, SAMPLES) as builder:
        (found,) = ((one.instruction, one.seconds, bits(one.model))
                    for one in builder.build([Prompted("Say so.")]))  # fmt: skip
    assert found == ("Say so.", 0.0, bits(testbed.load(testbed.tuned)))


def test_every_setting_makes_another_candidate():
    specs = [
        *(Rait(1e-5), Rait(2e-5), Rait(1e-5, samples=8), Rait(1e-5, epochs=2)),
        *(Preferred("dpo", 1e-5), Preferred("orpo", 1e-5), Preferred("dpo", 2e-5)),
        *(Preferred("dpo", 1e-5, beta=0.2), Preferred("dpo", 1e-5, samples=8)),
        *(Preferred("dpo", 1e-5, epochs=2), Rehearsed(), Rehearsed(2)),
        *(Prompted("a"), Prompted("b")),
    ]
    assert len({candidate_key(one, SAMPLES) for one in specs}) == len(specs)


def test_a_missing_package_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preferences.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HcnrError, match=r"trl and datasets.*pip install '\.\[trial\]'"):
        check_trl([RAIT, DPO])
    check_trl([RAIT, Rehearsed()])


def test_a_world_without_a_pool_and_a_pool_too_small_are_refused(testbed: WeighedTestBed):
    with pytest.raises(ConfigError, match="no pool of questions for rait"):
        candidate(dataclasses.replace(testbed, baseline_data=None), RAIT)
    with pytest.raises(DataError, match="has 24 questions, expected at least 99"):
        candidate(testbed, Rait(1e-5, samples=99))
