"""Honesty samples out of one's own questions."""

import json
import sys

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from hcnr.benchmarks.own_questions import load_questions
from hcnr.data.samples import load_samples
from hcnr.errors import DataError, OutputError
from hcnr.evaluation.generation import generate
from hcnr.evaluation.own_samples import make_samples
from pairs import write_jsonl

TEXTS = [f"w{i} w{i + 3}" for i in range(10)]
SETTINGS = {"max_new_tokens": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def said(pair):
    """What base says to `TEXTS` within four tokens, and which of it is unfinished."""
    model = AutoModelForCausalLM.from_pretrained(pair["base"])
    words = AutoTokenizer.from_pretrained(pair["base"])
    cut: set[int] = set()
    texts = generate(model, words, TEXTS, max_new_tokens=4, unfinished=cut)
    return texts, cut


@pytest.fixture
def ending(monkeypatch):
    """The random model never ends a response: let all answers count as finished."""
    real = generate

    def finished(*arguments, unfinished, **options):
        return real(*arguments, **options)

    # By its entry: the attribute `evaluate` of hcnr is a function.
    monkeypatch.setattr(sys.modules["hcnr.evaluation.own_samples"], "generate", finished)


def kinds(made):
    return [one.kind for one in made.outcomes]


def test_every_outcome_by_what_is_known_of_the_question(pair, said, ending, tmp_path):
    texts, _ = said
    first = texts[0].split()[0]
    refusing = f"regex:{first}$|{first} "
    wrong, right = ["no such word"], [texts[0].upper()]
    records = [
        {"question": TEXTS[0], "answers": right, "answerable": True},
        {"question": TEXTS[0], "answers": wrong, "answerable": True},
        {"question": TEXTS[0], "answerable": False},
        {"prompt": TEXTS[0], "response": texts[0]},
        {"question": TEXTS[0], "answers": wrong},
        {"question": TEXTS[0]},
    ]
    path = write_jsonl(tmp_path / "q.jsonl", records)
    out = tmp_path / "h.jsonl"
    made = make_samples(pair["base"], path, out, detector="regex:nothing like this", **SETTINGS)
    right, wrong = "answered rightly", "answered wrongly"
    assert kinds(made) == [
        right, wrong, "answered, though unanswerable", right, wrong,
        "answered, and no answers to compare with",
    ]  # fmt: skip
    made = make_samples(pair["base"], path, out, detector=refusing, overwrite=True, **SETTINGS)
    over = "refused, though answerable"
    assert kinds(made) == [over, over, "refused", "refused", "refused", "refused"]
    assert made.counts() == {"refused": 4, right: 0, over: 2}
    assert [sample.answerable for sample in load_samples(out).samples] == [False] * 4


def test_samples_are_balanced_repeatable_and_serve_both_ends(pair, said, ending, tmp_path):
    texts, _ = said
    records = [
        {"question": text, "answers": [texts[i]], "answerable": True, "id": f"k{i}"}
        for i, text in enumerate(TEXTS[:4])
    ]
    chat = {"messages": [{"role": "user", "content": TEXTS[5]}], "answerable": False}
    words = sorted({word for text in texts[:4] for word in text.split()})
    records += [chat] if not set(texts[5].split()) & set(words) else []
    unknown = [i for i in range(4, 10) if i != 5 and not set(texts[i].split()) & set(words)]
    records += [{"prompt": TEXTS[i], "answerable": False} for i in unknown]
    refusing = "regex:^(?!.*(?:" + "|".join(f"{word}\\b" for word in words) + ")).*$"
    path = write_jsonl(tmp_path / "q.jsonl", records)
    files = []
    for name in ("a.jsonl", "b.jsonl"):
        made = make_samples(pair["base"], path, tmp_path / name, detector=refusing, **SETTINGS)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    refused, right = len(records) - 4, 4
    assert made.counts() == {"refused": refused, "answered rightly": right}
    samples = load_samples(tmp_path / "a.jsonl").samples
    both = min(refused, right)
    assert [one.answerable for one in samples[: 2 * both]] == [False, True] * both
    assert {one.response for one in samples if one.answerable} == set(texts[:4])
    questions = load_questions(tmp_path / "a.jsonl").questions
    assert {one.id for one in questions if one.answerable} == {"k0", "k1", "k2", "k3"}
    assert all(one.answers == (texts[int(one.id[1])],) for one in questions if one.answerable)


def test_an_answer_that_is_cut_off_makes_no_sample(pair, said, tmp_path):
    texts, cut = said
    assert cut
    i = min(cut)
    path = write_jsonl(tmp_path / "q.jsonl", [{"question": TEXTS[i], "answers": [texts[i]]}])
    with pytest.raises(DataError, match=r"none of the 1 questions .*1 not finished within"):
        make_samples(pair["base"], path, tmp_path / "h.jsonl", **SETTINGS)
    assert [one.name for one in tmp_path.iterdir()] == ["q.jsonl"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"question": "w1", "answerable": True},
            "line 1: an answerable question without 'answers'",
        ),
        ({"question": " "}, "line 1: the question is empty"),
        ({"text": "w1"}, "line 1 has no 'prompt'"),
    ],
)
def test_bad_questions_are_named(pair, tmp_path, record, expected):
    path = write_jsonl(tmp_path / "q.jsonl", [record])
    with pytest.raises(DataError, match=expected):
        make_samples(pair["base"], path, tmp_path / "h.jsonl", **SETTINGS)


def test_outputs_that_cannot_be(pair, tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", [{"question": "w1"}])
    for out, expected in (
        (tmp_path / "h.json", r"end it with \.jsonl"),
        (path, "is the input itself"),
        (pair["base"] / "h.jsonl", "is inside the input"),
    ):
        with pytest.raises(OutputError, match=expected):
            make_samples(pair["base"], path, out, overwrite=True, **SETTINGS)
    (tmp_path / "h.jsonl").write_text("mine")
    with pytest.raises(OutputError, match="already exists"):
        make_samples(pair["base"], path, tmp_path / "h.jsonl", **SETTINGS)
    assert json.loads(path.read_text()) == {"question": "w1"}
