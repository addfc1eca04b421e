import dataclasses

import pytest

from experiments.trial.candidate_specs import (
    FineTuned,
    Interpolated,
    Masked,
    Restored,
    Samples,
    brief,
    candidate_key,
)
from experiments.trial.methods import FINE_TUNING, INTERPOLATION, METHODS, SAMPLES, find_methods
from hcnr.errors import ConfigError


def test_every_promised_method_takes_part():
    assert [method.name for method in METHODS] == [
        INTERPOLATION,
        *("none, random neurons", "sum, random neurons"),
        *("none", "sum", "joint", "balanced", "spectral", "natural", "spectral, natural"),
        *FINE_TUNING,
        *("spectral, fine-tuning", "interpolation, fine-tuning"),
    ]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_method_tries_what_its_name_says(method):
    """Kind, neurons, what it trains on and from; and the ends of what it varies."""
    kinds = {one.as_dict().get("compensation") for one in method.grid}
    first, _, rest = method.name.partition(", ")
    if "fine-tuning" in method.name:
        assert all(isinstance(one, FineTuned) for one in method.grid)
        starts = {type(one.after) for one in method.grid}
        wanted = {"spectral": Restored, "interpolation": Interpolated}.get(first, type(None))
        assert starts == {wanted}
        on = {one.on for one in method.grid}
        assert on == ({rest} if first == "fine-tuning" else {"honesty", "both"})
        rates = {one.rate for one in method.grid}
        assert min(rates) == 1e-5 and max(rates) == (3e-4 if first == "fine-tuning" else 1e-4)
        return
    if method.name == INTERPOLATION:
        shares = [one.coefficient for one in method.grid]
        assert shares == sorted(shares) and shares[0] == 0.05 and shares[-1] == 0.95
        return
    name = "spectral+natural" if method.name == "spectral, natural" else first
    assert kinds == {name}
    priorities = {one.priority for one in method.grid}
    assert priorities == {"random" if "random" in method.name else "kl"}
    weights = {one.task_weight for one in method.grid}
    ends = {"balanced": (0.3, 30), "spectral": (0.1, 30), "natural": (1, 100),
            "spectral+natural": (3, 30)}.get(name, (1, 1))  # fmt: skip
    assert (min(weights), max(weights)) == ends
    # Also the paper's control: it differs from the method itself in the neurons alone.
    if "random" in method.name:
        own = next(one for one in METHODS if one.name == first)
        assert [dataclasses.replace(one, priority="kl") for one in method.grid] == list(own.grid)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_method_has_many_more_tries_and_none_is_tried_twice(method):
    keys = {candidate_key(one, method.samples) for one in method.grid}
    assert len(keys) == len(method.grid)
    assert 12 <= len(keys) <= 16
    assert method.samples == Samples(128, "mixed")


def test_the_papers_setting_is_among_the_tries():
    paper = Restored("sum", "output", 0.5, 0.4)
    config = paper.config(128, 0)
    assert paper in next(method for method in METHODS if method.name == "sum").grid
    assert (config.in_weight_ratio, config.cross_weight_ratio) == (0.5, 0.4)
    assert (config.compensation, config.axis, config.device) == ("sum", "output", "cpu")


def test_methods_are_found_by_name_in_the_order_of_the_table():
    assert find_methods() == METHODS
    found = find_methods(["spectral-natural", "sum", "fine-tuning-both", "Sum-Random-Neurons"])
    assert [method.name for method in found] == [
        *("sum, random neurons", "sum", "spectral, natural", "fine-tuning, both")
    ]


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match="'spektral'; did you mean 'spectral'"):
        find_methods(["sum", "spektral"])


def test_keys_tell_everything_apart_that_decides_and_nothing_else():
    specs = [
        Interpolated(0.1),
        Interpolated(0.2),
        Restored("none"),
        Restored("sum"),
        Restored("sum", "input"),
        Restored("sum", fisher_at="base"),
        Restored("sum", priority="honesty"),
        Restored("spectral"),
        Restored("spectral", task_weight=2.0),
        Restored("natural"),
        Restored("natural", step_size=0.2),
        Masked(1.0, "kl"),
        Masked(1.0, "random"),
        Masked(1.0, "honesty"),
        FineTuned("honesty", 1e-4, 3),
        FineTuned("both", 1e-4, 3),
        FineTuned("honesty", 1e-4, 3, Restored("spectral")),
        FineTuned("honesty", 1e-4, 3, Interpolated(0.1)),
    ]
    keys = {candidate_key(one, samples) for one in specs for samples in (SAMPLES, Samples(64))}
    assert len(keys) == 2 * len(specs)
    # What a kind ignores does not make another candidate of it.
    assert candidate_key(Restored("sum", task_weight=9.0), SAMPLES) == candidate_key(
        specs[3], SAMPLES
    )
    ignoring = Restored("spectral", "input", 0.1, priority="random", fisher_at="base", steps=9)
    assert candidate_key(ignoring, SAMPLES) == candidate_key(specs[7], SAMPLES)


def test_settings_in_words():
    after = FineTuned("honesty", 3e-5, 5, Restored("spectral", task_weight=10.0))
    assert brief(after.as_dict()) == (
        "after spectral (R_CW 1, mu 10), on honesty, rate 3e-05, epochs 5"
    )
    assert brief(Interpolated(0.25).as_dict()) == "c 0.25"
    assert brief(Restored("none", priority="random", fisher_at="base").as_dict()) == (
        "R_CW 1, axis output, R_IW 0.5, priority random, fisher_at base"
    )
