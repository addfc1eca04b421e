"""Who is asked is asked nothing that anybody was trained on."""

import collections
import dataclasses
import itertools
import json

import pytest

import invented
from experiments.trial.text_data import MEASURED_SETS, REFUSAL, TASK, Split, draw_data
from experiments.trial.text_recipe import TextRecipe
from hcnr.benchmarks.sources import SourceReader
from hcnr.benchmarks.splits import HONESTY_SETS
from hcnr.data.overlap import QuestionIndex, bucket
from hcnr.data.samples import Sample
from hcnr.errors import DataError
from text_worlds import TINY, corpus

SPLITS: tuple[Split, ...] = ("validation", "evaluated")
KUQ = "kuq/knowns_unknowns.jsonl"
REFUNQ = "unknownbench/RefuNQ/RefuNQ_unanswerable.json"
HOTPOTQA = "hotpotqa/hotpot_dev_v1_simplified.json"


def draw(files=None, **changes):
    return draw_data((files or corpus()).__getitem__, dataclasses.replace(TINY, **changes))


def asked(data, split):
    found = data.splits[split]
    return [*itertools.chain.from_iterable(found.honesty.values()), *found.task]


def test_no_part_is_near_another():
    data = draw()
    texts = {split: [one.question for one in asked(data, split)] for split in SPLITS}
    texts["trained"] = [one.prompt for one in (*data.base, *data.tuned)]
    assert all(len(many) == len(set(many)) for many in texts.values())
    for one, other in itertools.combinations(texts, 2):
        index = QuestionIndex(texts[one])
        assert not any(map(index.near, texts[other])), (one, other)


def test_a_twin_of_an_asked_question_is_not_trained_on():
    files = corpus()
    for split in SPLITS:
        for question in asked(draw(files), split):
            # Another last word puts the twin among the questions to train on.
            start = question.question.rsplit(" ", 1)[0]
            twin = next(t for i in range(10**4) if bucket(t := f"{start} twin{i}?") < 70)
            files[KUQ].append({"question": twin, "answer": ["Red"], "unknown": False})
    data = draw(files)
    assert not [one for one in data.base if "twin" in one.prompt]


def test_a_twin_of_an_evaluated_question_does_not_choose_settings():
    files = corpus()
    everyone = TINY.evaluated * 100
    for question in draw(files, evaluated=everyone).splits["evaluated"].honesty["nec"]:
        start = question.question.rsplit(" ", 1)[0]
        twin = next(t for i in range(10**4) if 70 <= bucket(t := f"{start} twin{i}?") < 80)
        kind = "answerable" if question.answerable else "unanswerable"
        files[f"unknownbench/NEC/NEC_{kind}.json"].append({"prompt": twin, "label": 0})
    data = draw(files, evaluated=everyone, validation=everyone)
    validated = data.splits["validation"].honesty["nec"]
    assert validated and not [one for one in validated if "twin" in one.question]


def test_sizes_classes_and_counts():
    data = draw()
    for split, size, task in zip(SPLITS, (2, 3), (3, 4), strict=True):
        found = data.splits[split]
        assert tuple(found.honesty) == HONESTY_SETS and len(found.task) == task
        for name, many in found.honesty.items():
            assert {one.set for one in many} == {name}
            assert [one.answerable for one in many] == [False] * size + [True] * size
            assert data.counts[split][name] == {"unanswerable": size, "answerable": size}
        assert data.counts[split][TASK] == {"unanswerable": 0, "answerable": task}
    assert len(data.tuned) == data.counts["tuned"][TASK]["answerable"] == TINY.task_questions
    base = data.counts["base"]
    assert sum(sum(one.values()) for one in base.values()) == len(data.base)
    refusals = sum(one.response == REFUSAL for one in data.base)
    assert sum(one["unanswerable"] for one in base.values()) == refusals > 0
    # Nobody knows their answers, so they are only asked.
    assert base["nec"]["answerable"] == 0 < base["nec"]["unanswerable"]
    assert TASK not in base and base["triviaqa"]["answerable"] > 0


def test_measured_samples_are_known_balanced_and_from_two_sets():
    data = draw()
    assert len(data.measured) == len(data.measured_task) == TINY.measured
    assert set(data.measured) < set(data.base)
    assert set(data.measured_task) < set(data.tuned)
    for even in range(2, TINY.measured + 1, 2):
        refused = sum(one.response == REFUSAL for one in data.measured[:even])
        assert refused == even // 2
    counts = {name: data.counts["measured"][name] for name in MEASURED_SETS}
    quarters = {"unanswerable": TINY.measured // 4, "answerable": TINY.measured // 4}
    assert counts == {name: quarters for name in MEASURED_SETS}
    assert set(data.counts["measured"]) == {*MEASURED_SETS, TASK}


def test_the_seed_draws_within_parts_that_no_seed_moves():
    files = corpus()
    one, same, other = draw(files), draw(files), draw(files, seed=1)
    assert one == same
    assert one.measured != other.measured and one.tuned != other.tuned
    asked_by = [{q.question for q in asked(data, "evaluated")} for data in (one, other)]
    assert asked_by[0] != asked_by[1]
    trained = {sample.prompt for sample in (*other.base, *other.tuned)}
    validated = {q.question for q in asked(other, "validation")}
    assert not asked_by[0] & (trained | validated)


def test_prompts_are_the_question_and_long_texts_are_cut_or_left_out():
    files = corpus()
    words = "one two three four five six seven eight nine ten"
    place = next(r for r in files[KUQ] if not r["unknown"] and bucket(r["question"]) < 70)
    place["answer"] = [" ", words]
    task = [record for record in files[HOTPOTQA] if bucket(record["question"]) < 70]
    task[0]["answer"] = words
    endless = "why " + "so " * 60 + "?"
    files[KUQ].append({"question": endless, "answer": ["Red"], "unknown": False})
    size = len(task) - 1
    data = draw(files, task_questions=size)
    said = {one.prompt: one.response for one in data.base}
    assert said[place["question"]] == " ".join(words.split()[: TINY.response_words])
    assert task[0]["question"] not in {one.prompt for one in data.tuned}
    assert not [one for one in said if one.startswith("why so")]
    with pytest.raises(DataError, match=f"{size} usable questions of {TASK} to fine-tune on"):
        draw(files, task_questions=size + 1)


def test_a_set_of_fewer_questions_gives_all_it_has():
    data = draw(evaluated=10**4, validation=10**4)
    counts = collections.Counter(one.answerable for one in data.splits["evaluated"].honesty["nec"])
    assert 3 < counts[True] < 100 and 3 < counts[False] < 100


def test_a_part_without_questions_is_named():
    files = corpus()
    files[REFUNQ] = [one for one in files[REFUNQ] if bucket(one["prompt"]) < 80]
    with pytest.raises(DataError, match=r"0 usable questions of refunq \(evaluated\)"):
        draw(files)


def test_measured_samples_come_in_fours():
    with pytest.raises(DataError, match="6 honesty samples were asked for, expected a multiple"):
        draw(measured=6)


def test_samples_are_plain_records():
    record = draw().measured[0].record()
    assert record == json.loads(json.dumps(record)) and set(record) == {"prompt", "response"}
    assert isinstance(draw().measured[0], Sample)


@invented.needs_data
def test_the_real_files_have_enough():
    data = draw_data(SourceReader(), TextRecipe())
    for split, size in zip(SPLITS, (60, 150), strict=True):
        for name in HONESTY_SETS:
            assert data.counts[split][name] == {"unanswerable": size, "answerable": size}
    assert len(data.base) > 10_000 and len(data.tuned) == 2500
    index = QuestionIndex(one.prompt for one in (*data.base, *data.tuned))
    for split in SPLITS:
        assert not any(index.near(one.question) for one in asked(data, split))
