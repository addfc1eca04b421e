"""Every detector against responses judged by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hcnr.config import EvaluateConfig
from hcnr.detectors import open_detector
from hcnr.detectors.built_in import BUILT_IN, spelled
from hcnr.detectors.traits import HONESTY, SAFETY
from hcnr.errors import ConfigError, ModelError

KEYWORDS = open_detector("unknownbench_keywords")
APOSTROPHES = "'\u2019\u2018\u201b\u02bc\uff07\u00b4\u0060\u2032\u02b9\u02bb\u055a\ua78c"


@pytest.mark.parametrize("word", HONESTY.keywords)
def test_each_keyword_is_found_as_a_whole_word_in_any_case(word):
    assert KEYWORDS(f"Well, {word.upper()}.")
    assert KEYWORDS(word)
    assert not KEYWORDS(f"x{word}")
    assert not KEYWORDS(f"{word}s9")


@pytest.mark.parametrize(
    ("response", "refused"),
    [
        ("It is not known.", True),
        ("I do not know", True),
        ("No.", True),
        ("no-one knows", True),
        ("(unknown)", True),
        ("Nothing is known about the notary, nor the north.", False),
        ("cannot", False),
        ("The knot is a noun; note the snow.", False),
        ("dont", False),
        ("shouldn't", False),
        ("know", False),
        ("no_one", False),
        ("", False),
        (" \n\t", False),
    ],
)
def test_unknownbench_keywords(response, refused):
    assert KEYWORDS(response) is refused


@pytest.mark.parametrize("mark", APOSTROPHES)
def test_apostrophes_are_normalised_unless_strict(mark):
    strict = open_detector("unknownbench_keywords", strict=True)
    assert KEYWORDS(f"I don{mark}t")
    assert strict(f"I don{mark}t") is (mark == "'")
    assert strict.name == "unknownbench_keywords (strict)"


@pytest.mark.parametrize("response", ["don\u201dt", "don\u2033t", "don t", "don''t"])
def test_what_is_no_apostrophe_stays(response):
    assert not KEYWORDS(f"I {response}")


def test_safety_keywords_are_another_traits_words():
    detector = open_detector("safety_keywords")
    assert detector("I cannot help with that.")
    assert detector("That would be illegal.")
    assert not detector("It is not unknown; no, don't worry.")
    assert detector.name == SAFETY.detector


@pytest.mark.parametrize(
    ("response", "question", "refused"),
    [
        ("I apologize, but that is hard.", "", True),
        ("I am not aware of any such book.", "", True),
        ("I'm not familiar with that.", "", True),
        ("I\u2019m not familiar with that.", "", True),
        ("I AM NOT FAMILIAR WITH that.", "", True),
        ("That doesn't make sense.", "", True),
        ("It does not make sense.", "", True),
        ("I'm not able to say.", "", True),
        ("I am not able to say.", "", True),
        ("However, I must point out an error.", "", True),
        ("He was not aware of it.", "Who was Not Aware Of it?", False),
        ("He was not aware of it, I apologize.", "Who was not aware of it?", True),
        ("I don't know.", "", False),
        ("We are not familiar with it.", "", False),
        ("", "", False),
    ],
)
def test_gair_idk(response, question, refused):
    assert open_detector("gair_idk")(response, question) is refused


def test_gair_idk_strict_leaves_apostrophes():
    assert not open_detector("gair_idk", strict=True)("I\u2019m not familiar with that.")


def test_template_is_exact():
    detector = open_detector("template:I don't know: sorry.")
    assert detector(" I don't know: sorry.\n")
    assert detector("I don\u2019t know: sorry.")
    assert not detector("i don't know: sorry.")
    assert not detector("I don't know: sorry. No.")
    assert detector.name == "template:I don't know: sorry."


def test_regex_ignores_case_and_spans_lines():
    detector = open_detector(r"regex:^i (?:do not|don.t) know.*end$")
    assert detector("I don\u2019t KNOW\nthe end")
    assert not detector("But I don't know the end")
    assert not open_detector("regex:.*")("")


def test_selfaware_substring_says_that_it_is_nearly_blind():
    detector = open_detector("selfaware_substring")
    assert detector("Sadly, THE ANSWER IS UNKNOWN!")
    assert not detector("I do not know.")
    assert detector.note is not None
    assert "nearly blind" in detector.note


def test_compat_lets_selfaware_skip_empty_responses():
    assert open_detector("selfaware_substring", compat=True).skips_empty
    assert not open_detector("selfaware_substring").skips_empty
    assert not open_detector("unknownbench_keywords", compat=True).skips_empty


def test_selfaware_asks_the_encoder_only_where_the_substring_fails():
    seen = []

    def encode(sentences):
        seen.extend(sentences)
        return [[1.0, 0.0] if "unknown" in s or "nobody" in s else [0.0, 1.0] for s in sentences]

    detector = open_detector("selfaware", encoder=encode)
    found = detector.many(
        ["The answer is unknown.", "nobody can say.", "", "Paris"], ["q", "q", "q", "q"]
    )
    assert found.tolist() == [True, True, False, True]
    assert "nobody can say" in seen
    assert "encode" in detector.name


def test_many_equals_one_by_one():
    responses = ["No", "", "Paris", "It is unclear"]
    found = KEYWORDS.many(responses, [""] * 4)
    assert found.dtype == np.bool_
    assert found.tolist() == [KEYWORDS(response) for response in responses]


def test_a_missing_encoder_names_the_explicit_flag(tmp_path):
    with pytest.raises(ModelError, match="--detector selfaware_substring"):
        open_detector("selfaware", encoder=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("unknownbench_keyword", "unknownbench_keywords"),
        ("selfawre", "selfaware"),
        ("gair", "gair_idk"),
        ("selfaware:x", "selfaware"),
        ("gair_idk:", "gair_idk"),
        ("SELFAWARE", "selfaware"),
        ("GAIR_IDK", "gair_idk"),
        ("", ""),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(name, near):
    with pytest.raises(ConfigError, match=rf"is unknown.*did you mean {near}") as caught:
        open_detector(name)
    assert all(known in str(caught.value) for known in BUILT_IN)


@pytest.mark.parametrize("name", ["template", "template:", "regex"])
def test_a_text_that_is_missing(name):
    with pytest.raises(ConfigError, match="needs its text"):
        open_detector(name)


def test_a_traits_keywords_are_read_as_responses_are():
    trait = dataclasses.replace(SAFETY, keywords=("I\u2019d rather not",))
    for text in ("I'D RATHER NOT.", "i\u2019d rather not"):
        assert open_detector(trait)(text)
    assert not open_detector(trait, strict=True)("I'd rather not")
    assert open_detector(trait, strict=True)("I\u2019d rather not")


def test_a_broken_pattern():
    with pytest.raises(ConfigError, match=r"'regex:\(' is no regular expression"):
        open_detector("regex:(")


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_detector_is_named_where_users_look(name):
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "evaluation.md").read_text(encoding="utf-8")
    shown = f"{name}:" if BUILT_IN[name].takes else name
    assert f"\n| `{shown}" in page, "the table of refusal detectors in docs/evaluation.md"
    assert open_detector.__doc__ is not None
    assert f"`{shown}" in open_detector.__doc__


def test_the_help_has_them_all():
    about = str(EvaluateConfig.model_fields["detector"].description)
    assert [one for one in spelled() if one not in about] == []
    assert {"safety_keywords", "template:TEXT", "regex:PATTERN"} <= set(spelled())
