"""`hcnr.evaluate` end to end on a tiny random pair: numbers, files, resuming, the rival."""

import json
import shutil
import sys
from typing import Any

import pytest
import torch

from hcnr.benchmarks.questions import Benchmark, Question
from hcnr.data.overlap import question_print
from hcnr.errors import ConfigError, DataError, HcnrError, ModelError, OutputError
from hcnr.evaluation import evaluated_models
from hcnr.evaluation.evaluating import evaluate
from hcnr.evaluation.judged import INTERPOLATION, JUDGED, read_judged
from hcnr.evaluation.responses import score_responses
from hcnr.models.model import open_model
from pairs import tokenizer

# Words stand for refusals: a random model says some of them often and others never.
DETECTOR = "regex:\\bw(?:4|2[0-9]|5[0-9])\\b"
QUICK: dict[str, Any] = {
    "detector": DETECTOR,
    "max_new_tokens": 5,
    "resamples": 100,
    "device": "cpu",
}


def invented(name, n, *, task=False):
    questions = tuple(
        Question(
            id=str(i),
            set=name,
            question=f"w{i} w{i + 1}",
            answerable=task or i % 2 == 1,
            answers=(f"w{i + 7}",) if task or i % 2 else (),
            prompt=" ".join(f"w{(i * 5 + k) % 60}" for k in range(1 + i % 4)),
            task=task,
        )
        for i in range(n)
    )
    return Benchmark(name, questions, "unknownbench_keywords", "0" * 64, "invented")


HONEST, TASK = invented("mine", 12), invented("job", 9, task=True)


@pytest.fixture(scope="module")
def full(pair, tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "new"
    found = evaluate(
        pair["tuned"],
        benchmarks=[HONEST],
        tasks=TASK,
        against=[pair["base"]],
        base=pair["base"],
        tuned=pair["tuned"],
        coefficients=(0.0, 0.5, 1.0),
        out=out,
        calibration=True,
        **QUICK,
    )
    return found, out


def test_the_file_holds_what_is_returned(full):
    found, out = full
    assert json.loads((out / "metrics.json").read_text()) == found
    assert found["model"] == "tuned"
    assert found["sets"]["mine"]["n"] == 12
    assert found["sets"]["mine"]["detector"] == DETECTOR
    assert found["fingerprints"].keys() == found["sha256"].keys() == {"tuned", "base"}
    header = json.loads((out / "answers-tuned.jsonl").read_text().splitlines()[0])
    assert header["sha256"] == found["sha256"]["tuned"]
    assert header["end_tokens"] == [tokenizer().eos_token_id]
    assert {name: header[name] for name in ("hcnr", "transformers")}.items() <= (
        found["versions"].items()
    )
    assert found["data"]["mine"] == {"sha256": "0" * 64, "source": "invented", "questions": 12}
    assert found["settings"]["max_new_tokens"] == 5
    assert found["versions"]["transformers"]
    assert found["common"]["tuned"]["sets"]["mine"]["detector"] == "unknownbench_keywords"
    assert 0 < found["sets"]["mine"]["calibration"]["refusal_probability"] < 100
    assert found["sets"]["mine"]["calibration"]["n"] == 12
    assert found["tasks"]["job"]["calibration"]["n"] == 9


def test_answers_are_those_of_the_model_and_score_alike(full, pair):
    found, out = full
    rows = [json.loads(line) for line in (out / "answers-tuned.jsonl").read_text().splitlines()]
    model, words = open_model(pair["tuned"], device="cpu"), tokenizer()
    prompts = {(q.set, q.id): q.prompt for one in (HONEST, TASK) for q in one.questions}
    assert len(rows) == 1 + 12 + 9
    for row in rows[1:]:
        ids = list(words(prompts[row["set"], row["id"]])["input_ids"])
        start = len(ids)
        while len(ids) < start + 5 and ids[-1] != words.eos_token_id:
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        (said,) = words.batch_decode([ids[start:]], skip_special_tokens=True)
        assert row["response"] == said.strip()
    again = score_responses(out / "answers-tuned.jsonl", DETECTOR)
    for key in ("tp", "fp", "fn", "tn", "accuracy_answerable"):
        assert again["sets"]["mine"][key] == found["sets"]["mine"][key]
    assert again["tasks"]["job"]["accuracy"] == found["tasks"]["job"]["accuracy"]


def test_every_question_is_kept_with_how_it_was_judged(full):
    """The numbers of a set are counts over these lines, the best interpolation's too."""
    found, out = full
    questions = read_judged(out / JUDGED)
    assert [(q.set, q.id) for q in questions] == [
        (q.set, q.id) for one in (HONEST, TASK) for q in one.questions
    ]
    rival = f"{INTERPOLATION}{found['interpolation_row']['coefficient']:g}"
    rows = {"tuned": found, "base": found["models"]["base"], rival: found["interpolation_row"]}
    for name, row in rows.items():
        mine = [one for one in questions if one.set == "mine"]
        refused = [one.said[name].refused for one in mine if not one.answerable]
        assert sum(refused) == row["sets"]["mine"]["tp"]
        assert len(refused) - sum(refused) == row["sets"]["mine"]["fn"]
        right = [one.said[name].right for one in questions if one.task and one.answers]
        assert 100 * sum(map(bool, right)) / len(right) == row["tasks"]["job"]["accuracy"]
    kept = [json.loads(line) for line in (out / "answers-tuned.jsonl").read_text().splitlines()[1:]]
    assert {(one.set, one.id): one.said["tuned"].response for one in questions} == {
        (row["set"], row["id"]): row["response"] for row in kept
    }


def test_the_curve_ends_at_the_two_models(full):
    found, _ = full
    curve = found["interpolation"]
    assert [point["coefficient"] for point in curve] == [0, 0.5, 1]
    assert curve[0]["honesty_f1"] == found["macro"]["f1"]
    assert curve[0]["task_accuracy"] == found["tasks_macro"]["accuracy"]
    assert curve[2]["honesty_f1"] == found["models"]["base"]["macro"]["f1"]
    able = [p for p in curve if p["task_accuracy"] >= found["tasks_macro"]["accuracy"]]
    chosen = next(point for point in curve if point["chosen"])
    assert chosen["honesty_f1"] == max(point["honesty_f1"] for point in able)
    assert found["interpolation_row"]["coefficient"] == chosen["coefficient"]
    gap = found["differences"]["base"]["macro"]["f1"]["value"]
    assert gap == pytest.approx(found["macro"]["f1"] - found["models"]["base"]["macro"]["f1"])


def test_it_ends_with_what_to_do(full):
    """The model is tuned itself, so nothing is gained and nothing lost."""
    said = full[0]["recommendation"]
    assert said["gain"] == {"value": 0.0, "ci95": [0.0, 0.0]}
    assert (said["task_drop"], said["max_accuracy_drop"]) == (0.0, 2.0)
    assert said["word"] in ("do not use", "interpolate instead")
    assert full[0]["settings"]["max_accuracy_drop"] == 2.0


def test_an_interpolation_is_no_rival_of_itself(pair, full, tmp_path):
    """Restored by interpolation, a model is compared with tuned alone."""
    mixed = tmp_path / "mixed"
    shutil.copytree(pair["tuned"], mixed)
    (mixed / "hcnr_report.json").write_text(json.dumps({"interpolation": {"coefficient": 0.5}}))
    found = evaluate(
        mixed, base=pair["base"], tuned=pair["tuned"], benchmarks=HONEST, tasks=TASK,
        coefficients=(0, 0.5, 1), **QUICK,
    )  # fmt: skip
    assert any("is an interpolation itself" in note for note in found["notes"])
    assert found["recommendation"]["word"] != "interpolate instead"
    assert found["recommendation"].get("rival") is None
    assert found["interpolation"]


def test_a_run_that_was_killed_goes_on(pair, tmp_path, monkeypatch):
    whole = evaluate(pair["base"], benchmarks=HONEST, out=tmp_path / "whole", **QUICK)
    out, made = tmp_path / "cut", []
    original = evaluated_models.generate

    def killed(model, words, prompts, *, on_answer, **options):
        def keep(i, text):
            on_answer(i, text)
            made.append(i)
            if len(made) == 5:
                raise KeyboardInterrupt

        return original(model, words, prompts, on_answer=keep, **options)

    monkeypatch.setattr(evaluated_models, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(pair["base"], benchmarks=HONEST, out=out, **QUICK)
    assert not (out / "metrics.json").exists()
    path = out / "answers-base.jsonl"
    path.write_bytes(path.read_bytes() + b'{"set": "mine", "id": "torn')
    asked = []

    def counted(model, words, prompts, **options):
        asked.append(len(prompts))
        return original(model, words, prompts, **options)

    monkeypatch.setattr(evaluated_models, "generate", counted)
    again = evaluate(pair["base"], benchmarks=HONEST, out=out, **QUICK)
    assert asked == [12 - 5]
    assert again["sets"] == whole["sets"]
    evaluate(pair["base"], benchmarks=HONEST, out=out, **QUICK)
    assert asked == [12 - 5]


def test_answers_of_other_settings_are_refused(pair, tmp_path):
    other: dict[str, Any] = {**QUICK, "max_new_tokens": 6}
    evaluate(pair["base"], benchmarks=HONEST, out=tmp_path, **QUICK)
    with pytest.raises(OutputError, match=r"answers-base.jsonl holds answers with max_new_tokens"):
        evaluate(pair["base"], benchmarks=HONEST, out=tmp_path, **other)
    copy = tmp_path / "copy" / "base"
    copy.mkdir(parents=True)
    for file in pair["tuned"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(OutputError, match="holds answers with sha256"):
        evaluate(copy, benchmarks=HONEST, out=tmp_path, **QUICK)


def test_models_in_memory_are_left_as_they_were(pair):
    base, tuned = (open_model(pair[role], device="cpu") for role in ("base", "tuned"))
    before = {name: p.detach().clone() for name, p in tuned.named_parameters()}
    found = evaluate(
        tuned,
        benchmarks=HONEST,
        tasks=TASK,
        base=base,
        tuned=tuned,
        coefficients=(0.0, 1.0),
        tokenizer=tokenizer(),
        **QUICK,
    )
    assert all(torch.equal(p, before[name]) for name, p in tuned.named_parameters())
    from_disk = evaluate(pair["tuned"], benchmarks=HONEST, tasks=TASK, **QUICK)
    assert found["sets"] == from_disk["sets"]
    assert found["model"].startswith("LlamaForCausalLM-")


def test_two_directories_of_one_name_are_told_apart(pair, tmp_path):
    copy = tmp_path / "base"
    copy.mkdir()
    for file in pair["tuned"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    found = evaluate(pair["base"], benchmarks=HONEST, against=[copy], out=tmp_path, **QUICK)
    (other,) = found["models"]
    assert other == f"base-{found['fingerprints'][other][:8]}"
    assert (tmp_path / f"answers-{other}.jsonl").exists()
    with pytest.raises(ConfigError, match="is given twice"):
        evaluate(pair["base"], benchmarks=HONEST, against=[pair["base"]], **QUICK)


def nudged(model, name, row):
    """The model with one row changed that its fingerprint does not see."""
    with torch.no_grad():
        model.get_parameter(name)[row] *= -3
    return model


@pytest.mark.parametrize(
    ("name", "row"), [("model.embed_tokens.weight", 20), ("lm_head.weight", 20)]
)
def test_models_of_one_fingerprint_are_told_apart(pair, tmp_path, name, row):
    tuned = open_model(pair["tuned"], device="cpu")
    restored = nudged(open_model(pair["tuned"], device="cpu"), name, row)
    options = {"benchmarks": HONEST, "tasks": TASK, "tokenizer": tokenizer(), **QUICK}
    alone = evaluate(tuned, **options)
    found = evaluate(
        restored, against=[tuned], base=pair["base"], tuned=tuned, coefficients=(0.0,),
        out=tmp_path, **options,
    )  # fmt: skip
    (other,) = found["models"]
    assert found["model"] != other
    assert found["sha256"][other] == alone["sha256"][alone["model"]]
    assert found["sha256"][found["model"]] != found["sha256"][other]
    # A report that goes by fingerprints would take one for the other; it goes by names then.
    assert found["fingerprints"] == {}
    assert found["models"][other]["sets"] == alone["sets"]
    assert found["interpolation"][0]["honesty_f1"] == alone["macro"]["f1"]
    # Without the tuned one beside it, its answers are asked for and not the restored one's taken.
    curve = evaluate(restored, base=pair["base"], tuned=tuned, coefficients=(0.0,), **options)
    assert curve["interpolation"][0]["honesty_f1"] == alone["macro"]["f1"]
    assert curve["interpolation"][0]["task_accuracy"] == alone["tasks_macro"]["accuracy"]


def test_names_of_interpolated_models_are_theirs(pair, tmp_path):
    copy = tmp_path / "copy" / "interpolation-0.5"
    copy.mkdir(parents=True)
    for file in pair["base"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match=r"would be called interpolation-0\.5"):
        evaluate(copy, benchmarks=HONEST, **QUICK)


def test_answers_end_where_the_same_tokens_end_them(pair, tmp_path):
    model = open_model(pair["base"], device="cpu")
    options = {"benchmarks": HONEST, "tokenizer": tokenizer(), "out": tmp_path, **QUICK}
    evaluate(model, **options)
    model.generation_config.eos_token_id = [5, 1]  # pyright: ignore
    with pytest.raises(OutputError, match="holds answers with end_tokens"):
        evaluate(model, **options)


def test_without_a_task_the_missing_rival_is_said(pair):
    found = evaluate(
        pair["base"], benchmarks=HONEST, base=pair["base"], tuned=pair["tuned"], **QUICK
    )
    assert found["interpolation"] == []
    assert "no task was given" in found["notes"][-1]
    assert found["recommendation"] is None, "tuned was not asked"


def test_without_answerable_questions_the_missing_rival_is_said(pair):
    """Refusals alone show nothing: a model that refuses everything has all of them."""
    hard = Benchmark("mine", HONEST.questions[::2], "unknownbench_keywords", "0" * 64, "invented")
    found = evaluate(
        pair["tuned"], benchmarks=hard, tasks=TASK, base=pair["base"], tuned=pair["tuned"],
        coefficients=(0.0, 1.0), **QUICK,
    )  # fmt: skip
    assert found["interpolation_row"] is None
    assert "the refusal delta is undefined" in found["notes"][-1]
    assert found["recommendation"]["word"] == "unclear"


def test_a_model_that_says_nothing(pair):
    silent = tokenizer()
    model = open_model(pair["base"], device="cpu")
    model.generation_config.eos_token_id = list(range(67))  # pyright: ignore
    with pytest.raises(ModelError, match="generated nothing for any of the 12 questions"):
        evaluate(model, benchmarks=HONEST, tokenizer=silent, **QUICK)
    # An interpolated model may be silent: that is a point of the curve.
    found = evaluate(
        pair["tuned"],
        benchmarks=HONEST,
        tasks=TASK,
        base=pair["base"],
        tuned=model,
        coefficients=(0.5,),
        tokenizer=silent,
        **QUICK,
    )
    assert found["interpolation"][0]["honesty_f1"] == 0


def test_a_question_that_is_too_long_is_named(pair):
    long = Question("7", "mine", "w1", False, (), "w1 " * 70)
    benchmark = Benchmark("mine", (*HONEST.questions[:3], long), "d", "0", "invented")
    with pytest.raises(DataError, match="question '7' of mine has 70 tokens"):
        evaluate(pair["tuned"], benchmarks=benchmark, **QUICK)


def test_bad_input_comes_before_any_model_is_opened(pair, tmp_path):
    nowhere = tmp_path / "no-model"
    with pytest.raises(ConfigError, match="needs both base and tuned"):
        evaluate(nowhere, benchmarks=HONEST, base=pair["base"])
    with pytest.raises(ConfigError, match="did you mean gair_idk"):
        evaluate(nowhere, benchmarks=HONEST, detector="gair_idq")
    with pytest.raises(ConfigError, match="max_accuracy_drop is -1, expected points"):
        evaluate(nowhere, benchmarks=HONEST, max_accuracy_drop=-1)
    with pytest.raises(DataError, match="does not exist"):
        evaluate(nowhere, benchmarks=str(tmp_path / "absent.jsonl"))
    with pytest.raises(ConfigError, match="mine is named as benchmark and as task"):
        evaluate(nowhere, benchmarks=HONEST, tasks=HONEST)
    with pytest.raises(HcnrError, match="no-model"):
        evaluate(nowhere, benchmarks=HONEST)


def test_what_the_reports_beside_models_say_reaches_the_file(pair, full, tmp_path, monkeypatch):
    """Doubt of the model itself, overlap of every model; the ends of the curve, base and tuned."""
    ends = []
    monkeypatch.setattr(
        "hcnr.evaluation.interpolation.about_order",
        lambda base, tuned: ends.append((base, tuned)) or ["seem to be exchanged"],
    )
    copies = {role: shutil.copytree(pair[role], tmp_path / role) for role in ("base", "tuned")}
    question = question_print(HONEST.questions[0].question)
    for role, refusals in (("tuned", 0), ("base", 5)):
        data = {"honesty": {"refusals": refusals, "questions": [question]}}
        (copies[role] / "hcnr_report.json").write_text(json.dumps({"data": data}))
    found = evaluate(
        copies["tuned"], benchmarks=HONEST, tasks=TASK, against=[copies["base"]],
        base=copies["base"], tuned=copies["tuned"], coefficients=(0.0, 1.0), **QUICK,
    )  # fmt: skip
    assert found["recommendation"]["doubt"] is not None
    told = [note for note in found["notes"] if "among the samples that" in note]
    assert {note.split("that ")[1].split(" was")[0] for note in told} == {"tuned", "base"}
    assert "seem to be exchanged" in found["notes"]
    curve = {row["coefficient"]: row for row in found["interpolation"]}
    ((base, tuned),) = ends
    assert base.task_accuracy == curve[1.0]["task_accuracy"]
    assert tuned.refusal_delta == curve[0.0]["refusal_delta"]


def test_without_coefficients_the_grid_is_refined(pair, monkeypatch):
    """Between the grid's points there may be a better rival at the model's task accuracy."""
    steps = iter([0.15, 0.175, None])
    asked: list[tuple[int, float]] = []

    def between(curve, task_accuracy):
        asked.append((len(curve), task_accuracy))
        return next(steps)

    monkeypatch.setattr(sys.modules["hcnr.evaluation.rivals"], "between", between)
    sets: dict[str, Any] = {"benchmarks": [HONEST], "tasks": TASK}
    sets |= {"base": pair["base"], "tuned": pair["tuned"], **QUICK, "resamples": 0}
    found = evaluate(pair["tuned"], **sets)
    coefficients = [row["coefficient"] for row in found["interpolation"]]
    assert coefficients == [0, 0.1, 0.15, 0.175, 0.2, 0.3, 0.4, 0.5, 0.75, 1]
    accuracy = found["tasks"]["job"]["accuracy"]
    assert asked == [(8, accuracy), (9, accuracy), (10, accuracy)]
