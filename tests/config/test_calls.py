"""Configurations of commands: what Python calls, type checkers and help make of them."""

import inspect
import typing
from typing import Any

import pytest

import hcnr
from hcnr.config import EvaluateConfig, ProbeConfig, SweepConfig, evaluate, probe, sweep
from hcnr.config.loading import load_with
from hcnr.config.shared import JUDGING
from hcnr.detectors.traits import HONESTY
from hcnr.errors import ConfigError
from hcnr.settings import declared, of_group

CALLS = {
    hcnr.evaluate: (EvaluateConfig, evaluate.EvaluateSettings),
    hcnr.sweep: (SweepConfig, sweep.SweepSettings),
    hcnr.probe: (ProbeConfig, probe.ProbeSettings),
}
LOOSER = ("data_root", "dtype", "coefficients")
"""Where a call takes more than the configuration holds: texts, and any list of numbers."""


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_call_shows_every_setting_with_its_default_and_its_words(call):
    kind, _ = CALLS[call]
    parameters = inspect.signature(call).parameters
    text = " ".join((inspect.getdoc(call) or "").split())
    for name, field in kind.model_fields.items():
        assert parameters[name].default == field.default
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert f"{name}: {' '.join(str(field.description).split())}" in text
    assert not any(one.kind is one.VAR_KEYWORD for one in parameters.values())


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_type_checkers_see_the_same_settings(call):
    kind, typed = CALLS[call]
    hints = typing.get_type_hints(typed)
    assert list(hints) == list(kind.model_fields)
    for name, field in kind.model_fields.items():
        if name not in LOOSER:
            assert hints[name] == field.annotation, name


@pytest.mark.parametrize("kind", [EvaluateConfig, SweepConfig, ProbeConfig])
def test_every_setting_is_explained(kind):
    for name, field in kind.model_fields.items():
        assert field.description and field.description.endswith("."), name
        assert declared(field, "group"), name


def test_what_answers_from_elsewhere_are_judged_by_is_what_scoring_them_takes():
    taken = set(inspect.signature(hcnr.score_responses).parameters)
    assert set(of_group(EvaluateConfig, JUDGING)) == taken - {"responses", "out", "against"}


def test_single_settings_win_over_those_given_whole():
    whole = EvaluateConfig(limit=3, seed=4)
    assert EvaluateConfig.of(whole, {"limit": None}) == EvaluateConfig(seed=4)
    assert EvaluateConfig.of(None, {"limit": 5}) == EvaluateConfig(limit=5)


def test_what_is_no_plain_value_stays_what_it_is():
    trait = HONESTY
    encoder = [lambda texts: texts]
    kept = EvaluateConfig(trait=trait, encoder=encoder).replace(limit=2)
    assert kept.trait is trait and kept.encoder is encoder


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_bad_settings_are_refused_before_anything_is_opened(call):
    nowhere = ["nowhere"] * len([
        one for one in inspect.signature(call).parameters.values() if one.default is one.empty
    ])  # fmt: skip
    with pytest.raises(ConfigError, match="unknown configuration key 'limt'"):
        call(*nowhere, limt=3)


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        (EvaluateConfig, {"limit": 0}, "limit is 0, expected a whole number, at least 1, or null"),
        (EvaluateConfig, {"pooling": "sum"}, "pooling is 'sum', expected one of auto, pooler, cls"),
        (EvaluateConfig, {"coefficients": ()}, "expected at least one coefficient from 0 (tuned)"),
        (EvaluateConfig, {"coefficients": (0.5, 1.5)}, "coefficients is (0.5, 1.5), expected at"),
        (EvaluateConfig, {"batch_size": True}, "batch_size is True, expected a whole number"),
        (SweepConfig, {"coefficients": "0.3;0.5"}, "coefficients is '0.3;0.5', expected coeff"),
        (SweepConfig, {"max_new_tokens": 0}, "max_new_tokens is 0, expected a whole number"),
        (ProbeConfig, {"resamples": 99}, "resamples is 99, expected a whole number, at least 100"),
        (ProbeConfig, {"require": 1.5}, "require is 1.5, expected a finite number, at least 0"),
    ],
)
def test_refused_in_a_sentence(kind, values, sentence):
    with pytest.raises(ConfigError) as caught:
        kind(**values)
    assert sentence in str(caught.value)


def test_numbers_from_text_lists_and_arrays():
    import numpy as np

    given: Any
    for given in ("0.25, 0.5", [0.25, 0.5], np.array([0.25, 0.5]), iter((0.25, 0.5))):
        assert SweepConfig(coefficients=given).coefficients == (0.25, 0.5)
    given = {"coefficients": ""}
    assert SweepConfig(**given).coefficients == ()
    given = {"limit": np.int64(3)}
    assert EvaluateConfig(**given).limit == 3


def test_one_file_holds_the_settings_of_both(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("axis: input\nlimit: 20\nrefine: false\n")
    own, shared = load_with(SweepConfig, path, {"limit": "30"}, {"seed": 3})
    assert own == SweepConfig(limit=30, refine=False)
    assert shared == hcnr.RestoreConfig(axis="input", seed=3)
    path.write_text("limit: 0\n")
    with pytest.raises(ConfigError, match=r"sweep\.yaml: limit is 0"):
        load_with(SweepConfig, path, {}, {})
    path.write_text("axsi: input\n")
    with pytest.raises(ConfigError, match=r"'axsi'; did you mean 'axis'"):
        load_with(SweepConfig, path, {}, {})
