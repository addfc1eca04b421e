import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import pytest

from experiments.trial import real_testbed
from experiments.trial.real_testbed import (
    admitted,
    answer_real,
    chosen_option,
    make_real_questions,
    task_figure,
    token_f1,
)
from experiments.trial.testbed import TestBed
from experiments.trial.text_data import SplitQuestions
from hcnr.benchmarks.questions import Question
from hcnr.errors import DataError


def ask(name: str, count: int = 20, task: bool = False) -> tuple[Question, ...]:
    """Unanswerable questions, then as many answerable ones; of a task answerable ones alone."""
    return tuple(
        Question(
            id=f"{name}-{i}",
            set=name,
            question=f"{name} {i}?",
            answerable=task or i >= count,
            answers=("Red",) if task or i >= count else (),
            prompt=f"{name} {i}?",
            task=task,
        )
        for i in range(2 * count)
    )


class FakeTestBed:
    """Base refuses, of each set, a number of the unanswerable and of the answerable questions."""

    def __init__(self, base: Path, refused: dict[str, tuple[int, int]]) -> None:
        self.base, self.asked, self._refused = base, 0, refused

    def load(self, path: Path) -> str:
        assert path == self.base
        return "base"

    def asking(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def answer(self, model: str, questions: Any) -> dict[str, list[str]]:
        self.asked += 1
        found = {}
        for name, many in questions.honesty.items():
            left = dict(zip((False, True), self._refused[name], strict=True))
            found[name] = []
            for one in many:
                left[one.answerable] -= 1
                found[name].append("I don't know." if left[one.answerable] >= 0 else "Red")
        return found


def admit(base: Path, **refused: tuple[int, int]) -> tuple[dict[str, Any], FakeTestBed]:
    base.mkdir(parents=True, exist_ok=True)
    testbed = FakeTestBed(base, refused)
    return admitted(cast(TestBed, testbed), {name: ask(name) for name in refused}), testbed


def test_a_set_whose_interval_reaches_zero_is_not_admitted(tmp_path: Path):
    found, _ = admit(
        tmp_path / "base",
        kuq=(18, 4),
        falseqa=(10, 8),
        nec=(0, 0),
        refunq=(4, 10),
        selfaware=(9, 2),
    )
    assert {name: one["admitted"] for name, one in found.items()} == {
        "kuq": True, "falseqa": False, "nec": False, "refunq": False, "selfaware": True,
    }  # fmt: skip
    for name, delta in {"kuq": 70, "falseqa": 10, "nec": 0, "refunq": -30, "selfaware": 35}.items():
        one = found[name]
        assert one["delta"] == pytest.approx(delta) and one["n"] == 40
        assert one["low"] <= delta <= one["high"]
        assert one["admitted"] is (one["low"] > 0)
    # Above zero and yet not told apart from it.
    assert found["falseqa"]["delta"] > 0 > found["falseqa"]["low"]


def test_base_is_asked_once(tmp_path: Path):
    first, testbed = admit(tmp_path / "base", kuq=(18, 4))
    again = admitted(cast(TestBed, testbed), {"kuq": ask("kuq")})
    assert testbed.asked == 1 and again == first
    (file,) = [path for path in tmp_path.iterdir() if path.is_file()]
    assert json.loads(file.read_text()) == first


def test_questions_of_one_class_are_refused(tmp_path: Path):
    (tmp_path / "base").mkdir()
    testbed = FakeTestBed(tmp_path / "base", {"kuq": (9, 0)})
    with pytest.raises(DataError, match=r"no refusal delta of kuq.*both classes"):
        admitted(cast(TestBed, testbed), {"kuq": ask("kuq")[:20]})
    assert not list(tmp_path.glob("admission-*"))


def test_a_panel_has_the_admitted_sets_alone_by_one_detector():
    asked = SplitQuestions(
        {name: ask(name) for name in ("kuq", "nec", "refunq")}, ask("nq", task=True)
    )
    questions = make_real_questions(asked, ["kuq", "refunq"])
    assert list(questions.honesty) == ["kuq", "refunq"] and list(questions.tasks) == ["nq"]
    for name, detect in questions.detectors.items():
        assert detect("I don't know.", "Who?") and not detect("Red", "Who?"), name


def test_models_are_asked_no_longer_than_figures_need(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def generate(model, tokenizer, prompts, *, batch_size, max_new_tokens):
        calls.append((len(prompts), max_new_tokens))
        return [f"to {prompt}" for prompt in prompts]

    monkeypatch.setattr(real_testbed, "generate", generate)
    asked = SplitQuestions(
        {name: ask(name, 2) for name in ("kuq", "nec")}, ask("medmcqa", 3, task=True)
    )
    questions = make_real_questions(asked, ["kuq", "nec"])
    found = answer_real(cast(Any, None), "medmcqa", cast(Any, None), questions)
    assert calls == [(8, 12), (6, 24)]
    assert found == {
        name: [f"to {one.prompt}" for one in many] for name, many in questions.sets.items()
    }


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        ("The Red Sea.", "red sea", 1.0),
        ("red", "Red Sea", 2 / 3),
        ("the big red sea", "Red Sea", 4 / 5),
        ("red red", "red", 2 / 3),
        ("blue", "red", 0.0),
        ("", "red", 0.0),
        ("the", "a", 0.0),
        ("red", "", 0.0),
    ],
)
def test_token_f1(response: str, answer: str, expected: float):
    assert token_f1(response, answer) == pytest.approx(expected)
    assert token_f1(answer, response) == pytest.approx(expected)


CHOICES = Question(
    id="1",
    set="medmcqa",
    question="Which?",
    answerable=True,
    answers=("Vitamin  B12",),
    prompt="Which?\n- Vitamin B12\n- Vitamin C\n- Iron\n- Iron salts of acids",
    task=True,
)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        # An answer is kept with the file's own spaces.
        ("vitamin b12", "Vitamin  B12"),
        ("It is vitamin B12.", "Vitamin  B12"),
        ("Vitamin C", "Vitamin C"),
        ("iron", "Iron"),
        ("salts of iron", "Iron salts of acids"),
        # As near to one as to another, or near to none.
        ("vitamin", ""),
        ("copper", ""),
        ("", ""),
    ],
)
def test_the_nearest_option_is_chosen(response: str, expected: str):
    assert chosen_option(CHOICES, response) == expected


def test_a_question_without_choices_has_none():
    assert chosen_option(dataclasses.replace(CHOICES, prompt="Which?"), "Iron") == ""


def figure(task: Any, said: dict[str, tuple[str, ...]], *answers: tuple[str, ...]) -> float:
    """The figure of responses to questions with these answers."""
    (name,) = said
    questions = tuple(
        dataclasses.replace(CHOICES, id=str(i), set=name, answers=one)
        for i, one in enumerate(answers)
    )
    questions = make_real_questions(SplitQuestions({"kuq": ask("kuq")}, questions), ["kuq"])
    responses = {"kuq": ["Red"] * 40, **{name: list(many) for name, many in said.items()}}
    return task_figure(task, questions, responses)


def test_task_figures():
    assert figure("nq", {"nq": ("red sea", "x")}, ("Blue", "the Red"), ("y",)) == pytest.approx(
        100 * (2 / 3) / 2
    )
    assert figure("medmcqa", {"medmcqa": ("vitamin B12", "iron")}, *[CHOICES.answers] * 2) == 50.0
    # Questions that no yes or no answers do not count.
    said = {"bioasq": ("Yes, it is.", "no", "The yes", "Yes", "maybe")}
    answers = (("yes",), ("Yes",), ("yes",), ("insulin",), ("no",))
    assert figure("bioasq", said, *answers) == 50.0
    assert figure("bioasq", {"bioasq": ("x",)}, ("insulin",)) == 0.0
