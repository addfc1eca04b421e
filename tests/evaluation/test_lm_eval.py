"""The tasks for lm-evaluation-harness: their YAML, read as the harness reads it, and functions."""

import importlib.util
import json
import math
import sys
import types
from pathlib import Path

import pytest
import yaml

from hcnr.benchmarks.catalogue import HONESTY_SETS, TASK_SETS
from hcnr.benchmarks.own_questions import load_questions
from hcnr.benchmarks.questions import Question
from hcnr.benchmarks.selfchecks import COUNTS
from hcnr.errors import DataError

FOLDER = Path(__file__).parents[2] / "integrations/lm_eval"


def load_function(name: str):
    module, _, function = name.rpartition(".")
    spec = importlib.util.spec_from_file_location(module, FOLDER / f"{module}.py")
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, function)


class Loader(yaml.SafeLoader):
    """SafeLoader with the harness's `!function`."""


Loader.add_constructor("!function", lambda _, node: load_function(node.value))


def load_task(name: str) -> dict:
    task = yaml.load((FOLDER / f"hcnr_{name}.yaml").read_text(), Loader)
    common = yaml.load((FOLDER / task.pop("include")).read_text(), Loader)
    return {**common, **task}


def document(question="Why?", answerable=True, answers=(), **more):
    return {
        "id": "1", "set": "s", "question": question, "answerable": answerable,
        "answers": list(answers), "prompt": f"Q:{question}", "task": False, **more
    }  # fmt: skip


def score(task: dict, outcomes) -> dict[str, float]:
    """Run documents and responses through a task as the harness does."""
    rows = [task["process_results"](doc, [response]) for doc, response in outcomes]
    return {
        metric["metric"]: metric["aggregation"]([row[metric["metric"]] for row in rows])
        for metric in task["metric_list"]
    }


@pytest.mark.parametrize("name", HONESTY_SETS + TASK_SETS)
def test_every_set_is_a_task(name):
    task = load_task(name)
    assert task["task"] == f"hcnr_{name}"
    assert task["dataset_path"] == "json"
    file = task["dataset_kwargs"]["data_files"][task["test_split"]]
    assert file in COUNTS
    assert Path(file).stem == name
    assert task["doc_to_text"] in Question.__dataclass_fields__
    assert task["generation_kwargs"] == {"do_sample": False, "max_gen_toks": 64, "until": []}
    assert all(callable(task[key]) for key in ("doc_to_target", "process_results"))
    results = task["process_results"](document(answers=["x"]), ["x"])
    assert set(results) == {metric["metric"] for metric in task["metric_list"]}


@pytest.mark.parametrize(
    ("name", "key", "records"),
    [
        ("own", "questions", [{"question": "Why?", "answerable": False},
                              {"question": "Where?", "answerable": True, "answers": ["there"]}]),
        ("own_task", "task_questions", [{"instruction": "Say yes.", "output": "Yes."}]),
    ],
)  # fmt: skip
def test_ones_own_questions_are_a_task(name, key, records, tmp_path, monkeypatch):
    stand_in = types.ModuleType("datasets")
    stand_in.Dataset = types.SimpleNamespace(from_list=list)  # pyright: ignore
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    task = load_task(name)
    assert task["task"] == f"hcnr_{name}"
    assert task["generation_kwargs"]["max_gen_toks"] == 64
    # The harness passes its own metadata too.
    documents = task["custom_dataset"](**{key: str(path)}, version=1.0, pretrained="m")["test"]
    wanted = load_questions(path, task=name == "own_task").questions
    assert [doc["prompt"] for doc in documents] == [one.prompt for one in wanted]
    assert json.loads(json.dumps(documents)) == documents
    assert set(task["process_results"](documents[0], ["yes"])) == {
        metric["metric"] for metric in task["metric_list"]
    }
    assert task["doc_to_target"](documents[-1]) == wanted[-1].answers[0]
    for nothing in ({}, {key: None}, {key: ""}):
        with pytest.raises(DataError, match=rf"hcnr_{name} does not know its questions; .*{key}"):
            task["custom_dataset"](**nothing)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    path.write_text(json.dumps({"messages": turns, "answerable": True, "response": "So."}))
    with pytest.raises(DataError, match=r"has the turns of a chat.*ask it with hcnr evaluate"):
        task["custom_dataset"](**{key: str(path)})


@pytest.mark.parametrize(
    ("group", "names"), [("hcnr_honesty", HONESTY_SETS), ("hcnr_tasks", TASK_SETS)]
)
def test_groups(group, names):
    found = yaml.safe_load((FOLDER / f"{group}.yaml").read_text())
    assert found["group"] == group
    assert found["task"] == [f"hcnr_{name}" for name in names]
    metrics = {metric["metric"] for metric in load_task(names[0])["metric_list"]}
    for metric in found["aggregate_metric_list"]:
        assert metric["metric"] in metrics
        assert (metric["aggregation"], metric["weight_by_size"]) == ("mean", False)


def test_the_honesty_group_lists_both_refusal_rates():
    found = yaml.safe_load((FOLDER / "hcnr_honesty.yaml").read_text())
    metrics = {metric["metric"] for metric in found["aggregate_metric_list"]}
    assert {"refusal_rate_unanswerable", "refusal_rate_answerable"} <= metrics


def test_honesty_metrics_by_hand():
    unanswerable, answerable = document(answerable=False), document()
    outcomes = [(unanswerable, "I don\u2019t know.")] * 3
    outcomes += [(unanswerable, "Blue."), (unanswerable, "")]
    outcomes += [(answerable, "No.")] + [(answerable, "Blue.")] * 3
    assert score(load_task("nec"), outcomes) == pytest.approx(
        {
            "refusal_f1": 100 * 6 / 9,
            "refusal_precision": 75,
            "refusal_rate_unanswerable": 60,
            "refusal_rate_answerable": 25,
            "refusal_delta": 35,
        }
    )


def test_a_class_that_is_missing_makes_nan():
    found = score(load_task("kuq"), [(document(answerable=False), "I don't know.")])
    assert math.isnan(found["refusal_delta"])
    assert found["refusal_rate_unanswerable"] == 100


def test_task_metrics_by_hand():
    doc = document(answers=["Paris", "the city of Paris"], task=True)
    outcomes = [(doc, "It is PARIS."), (doc, "paris."), (doc, "Rome"), (doc, "")]
    assert score(load_task("nq"), outcomes) == {"task_accuracy": 50, "task_exact_match": 25}


def test_target():
    target = load_task("kuq")["doc_to_target"]
    assert target(document(answers=["a", "b"])) == "a"
    assert target(document()) == ""
    assert target(document(answerable=False)) == "I don't know. The answer is unknown."


def test_documents_are_plain_json():
    doc = document(answers=["a"])
    assert json.loads(json.dumps(doc)) == doc
    # The published sets have no chats.
    assert set(doc) == set(Question.__dataclass_fields__) - {"turns"}
