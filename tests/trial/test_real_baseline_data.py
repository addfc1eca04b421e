import dataclasses
from pathlib import Path

import pytest

import invented
import text_worlds
from experiments.trial.baseline_data import PoolQuestion
from experiments.trial.real_baseline_data import baseline_facts, draw_baseline_data, draw_pool
from experiments.trial.real_data import draw_real_data
from experiments.trial.real_recipe import RealRecipe
from experiments.trial.real_world import tuned_schedule
from hcnr.benchmarks import pools
from hcnr.benchmarks.sources import SourceReader
from hcnr.benchmarks.splits import HONESTY_SETS, TASK_SETS, Splits
from hcnr.benchmarks.templates import TEMPLATES
from hcnr.detectors import open_detector
from hcnr.errors import DataError
from text_worlds import write_corpus

RECIPE = RealRecipe(
    kuq=8,
    kuq_known=8,
    falseqa=16,
    nq=4,
    task_questions=8,
    measured=4,
    validation=2,
    validation_task=2,
    admission=1,
    test=2,
    test_task=2,
)


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceReader:
    files = text_worlds.corpus()
    asked = [one["question"] for one in files["selfaware/SelfAware.json"]]
    # Among the further questions stand some that models are evaluated on.
    files["alignment_for_honesty/puqa.jsonl"] += [
        {"question": text, "authors": ["Jane Roe"], "label": "unknown"} for text in asked[:9]
    ]
    files["triviaqa/test_subsample.jsonl"][:0] = [
        {"id": f"asked{i}", "question": text, "golden_answers": ["Red"]}
        for i, text in enumerate(asked[9:99])
    ]
    monkeypatch.setattr(text_worlds, "corpus", lambda: files)
    reader = SourceReader(write_corpus(tmp_path, monkeypatch))
    monkeypatch.setattr(pools, "RAIT_SIZE", 215)
    return reader


def check(pool: tuple[PoolQuestion, ...], records: SourceReader) -> None:
    splits, refuses = Splits(records), open_detector("unknownbench_keywords")
    asked = {
        pools.normalize_question(one.question)
        for name in HONESTY_SETS + TASK_SETS
        for one in splits.evaluation(name)
    }
    instruction = TEMPLATES["unknownbench"].removesuffix("{question}")
    texts = [one.prompt.removeprefix(instruction) for one in pool]
    assert asked and not asked & set(map(pools.normalize_question, texts))
    for one, text in zip(pool, texts, strict=True):
        assert one.prompt == instruction + text and "\n" not in text
        assert refuses(one.response, text) is not one.answerable
        assert refuses(one.refusal, text)
        assert one.answerable or one.response == one.refusal
        assert (one.sample.prompt, one.sample.response) == (one.prompt, one.response)
        assert len(one.response.split()) <= 20
    assert {one.answerable for one in pool} == {False, True}


def test_no_question_of_the_pool_is_an_evaluation_question(records: SourceReader):
    pool = draw_pool(records, RECIPE)
    assert 100 < len(pool) <= 215
    check(pool, records)


def test_the_seed_decides_the_order_and_nothing_else(records: SourceReader):
    first = draw_pool(records, RECIPE)
    assert first == draw_pool(records, RECIPE)
    other = draw_pool(records, dataclasses.replace(RECIPE, seed=1))
    assert other != first and set(other) == set(first)
    # Its beginning is a sample of it: both classes, all sources.
    assert {one.answerable for one in first[:20]} == {False, True}


def test_baselines_get_what_the_fine_tuning_taught_and_its_schedule(records: SourceReader):
    data = draw_real_data(records, RECIPE)
    before = dict(records.files)
    found = draw_baseline_data(SourceReader(records.root), RECIPE, data)
    assert found.task == data.tuned
    schedule = found.schedule
    assert schedule == tuned_schedule(RECIPE)
    assert (schedule.epochs, schedule.rate) == (RECIPE.tuned_epochs, RECIPE.tuned_rate)
    assert schedule.order == "hcnr-trial-real-hotpotqa-0"
    # The files of the pool must not enter the keys of the models.
    assert records.files == before


def test_a_pool_too_small_is_refused(records: SourceReader, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pools, "RAIT_SIZE", 10_000)
    with pytest.raises(DataError, match="expected 10000"):
        draw_pool(records, RECIPE)


def test_the_facts_say_how_little_the_baselines_are_given():
    facts = baseline_facts()
    assert facts["pool"] == 5000
    assert facts["rait"] == {"samples": 512, "epochs": 1}
    assert (facts["preferences"]["pairs"], facts["preferences"]["epochs"]) == (256, 1)


@invented.needs_data
def test_the_real_pool():
    records = SourceReader()
    pool = draw_pool(records, RealRecipe())
    assert len(pool) == 4997
    assert 200 < sum(one.answerable for one in pool[:512]) < 312
    check(pool, records)
