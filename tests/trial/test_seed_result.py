import json

import pytest

from experiments.trial.metrics import Metrics
from experiments.trial.seed_result import MethodResult, SeedResult, at_edge
from experiments.trial.selection import Scored, Selected


def metrics(delta: float, retention: float) -> Metrics:
    return Metrics(99.0 - delta, delta, 2.0, 80.0, retention, {})


LINE = [
    Scored({"made": "x", "coefficient": c}, metrics(100 * c, 100 - 50 * c), 0.5)
    for c in (0.1, 0.2, 0.3)
]


def method_result(*places: int | None) -> MethodResult:
    """What is selected at 95, 90 and 75 %, by place on the line."""
    selections = [
        None if place is None else Selected(LINE[place], metrics(5.0, 90.0)) for place in places
    ]
    return MethodResult(LINE, dict(zip((95.0, 90.0, 75.0), selections, strict=True)))


@pytest.mark.parametrize(
    ("places", "repeats"),
    [
        ((0, 1, 2), [False, False, False]),
        ((1, 1, 1), [False, True, True]),
        ((0, 1, 1), [False, False, True]),
        ((None, 1, 1), [False, False, True]),
        ((None, None, 1), [False, False, False]),
    ],
)
def test_what_was_sent_in_at_a_higher_level_is_marked(places, repeats: list[bool]):
    found = method_result(*places)
    assert [found.repeats(level) for level in found.selections] == repeats
    assert [found.settings(level) == "as above" for level in found.selections] == repeats


def test_a_lower_level_repeats_nothing_upwards():
    """The order in which levels were given does not matter."""
    one = Selected(LINE[1], metrics(5.0, 90.0))
    found = MethodResult(LINE, {75.0: one, 95.0: one})
    assert (found.repeats(75.0), found.repeats(95.0)) == (True, False)


def test_settings_in_words():
    found = method_result(None, 1, 2)
    assert [found.settings(level) for level in found.selections] == [
        "none qualified",
        "c 0.2",
        "c 0.3 (at the edge: c)",
    ]


def test_the_edge_is_of_at_least_three_values():
    tried = [{"mu": mu, "steps": steps, "kind": "a", "after": {"c": mu}} for mu in (1, 2, 3)
             for steps in (1, 9)]  # fmt: skip
    assert at_edge({"mu": 2, "steps": 9, "kind": "a", "after": {"c": 2}}, tried) == []
    assert at_edge({"mu": 3, "steps": 1, "kind": "a", "after": {"c": 1}}, tried) == ["mu", "c"]


def test_a_seed_comes_back_from_json():
    baselines = {"interpolation": Selected(LINE[0], metrics(6.0, 97.0))}
    shown = MethodResult(LINE, {95.0: None, 90.0: Selected(LINE[1], metrics(7.0, 91.0), baselines)})
    references = {"tuned": {"validation": metrics(1.0, 100.0), "evaluated": metrics(2.0, 100.0)}}
    result = SeedResult("key", "tiny", 3, references, {"sum": shown}, {"seconds": 1.0})  # pyright: ignore
    written = json.loads(json.dumps(result.as_dict()))
    assert SeedResult.from_dict(written) == result
    assert [one["front"] for one in written["ways"]["sum"]["candidates"]] == [True] * 3


def test_the_front_in_the_file_is_of_delta_and_retention():
    """The beaten one has the best F1."""
    beaten = Scored({"made": "x"}, Metrics(100.0, 15.0, 2.0, 80.0, 80.0, {}), 0.5)
    found = MethodResult([*LINE, beaten], {}).as_dict()["candidates"]
    assert [one["front"] for one in found] == [True, True, True, False]
