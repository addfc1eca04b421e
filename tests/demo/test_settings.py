from rich.console import Console

from hcnr.choosing.decision import Word
from hcnr.choosing.front import Scores
from hcnr.config import RestoreConfig
from hcnr.demo.rows import REPAIRS
from hcnr.demo.settings import CHOICE_ACCURACY_DROP, GRID, MAX_ACCURACY_DROP, front_table
from hcnr.search.grid import settings_of
from hcnr.search.result import Candidate, SweepResult


def test_the_grid_holds_the_repairs_of_the_table():
    tried = [settings_of(config) for config in GRID.configs(RestoreConfig())]
    for repair in REPAIRS:
        config = RestoreConfig(**repair.settings)
        assert (settings_of(config) in tried) == (config.priority == "kl"), repair.method


def _candidate(delta: float, task: float, in_weight: float) -> Candidate:
    config = RestoreConfig(
        compensation="balanced", in_weight_ratio=in_weight, cross_weight_ratio=1.0, task_weight=10.0
    )
    # The better F1, the worse the delta: it decides nothing.
    return Candidate(settings_of(config), Scores(100 - delta, delta, task, 2.0), 10, 0.1)


def _printed(found: SweepResult, reported: Word = "use") -> list[list[str]]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(front_table(found, reported))
    return [line.split() for line in capture.get().splitlines()]


def test_the_front_is_printed_from_most_task_to_most_honesty_with_the_choice_in_words():
    found = SweepResult(Scores(90, 80, 0), Scores(50, 30, 95), 5.0, {})
    found.candidates += [
        _candidate(80.0, 30.0, 0.7),
        _candidate(70.0, 90.0, 0.5),
        _candidate(69.0, 89.0, 0.1),
        _candidate(60.0, 94.0, 0.3),
    ]
    found.interpolation.append((0.5, Scores(55, 35, 91)))
    found.validation = {"names": {"n": 12}, "guild": {"n": 7}}
    found.refuse_all = Scores(66.2, 0.0, 0.0, 100.0)
    lines = _printed(found)
    rows = [line for line in lines if line[:1] == ["balanced"]]
    assert [row[4:] for row in rows] == [
        ["+60.0", "2.0", "40.0", "94.0", "+30.0"],
        ["+70.0", "2.0", "30.0", "90.0", "+35.0"],
        ["+80.0", "2.0", "20.0", "30.0", "+35.0"],
    ]
    text = " ".join(word for line in lines for word in line)
    assert "…" not in text
    assert "3 of 4 settings" in text and "12 of names, 7 of guild" in text
    assert "The sweep's recommendation: use: --axis output --in-weight-ratio 0.5" in text
    assert "because: the best refusal delta of the 2 of 4 candidates" in text
    assert "Always refusing would score F1 66.2 here, and delta 0." in text
    assert "The report says" not in text
    lines = _printed(found, "interpolate instead")
    assert "The report says interpolate instead, not use: by the same rule" in " ".join(
        word for line in lines for word in line
    )


def test_where_interpolation_does_as_well_the_best_candidate_is_not_recommended():
    found = SweepResult(Scores(90, 80, 0), Scores(50, 30, 95), 5.0, {})
    found.candidates.append(_candidate(60.0, 94.0, 0.3))
    spectral = RestoreConfig(compensation="spectral", cross_weight_ratio=0.4, task_weight=3.0)
    near = Candidate(settings_of(spectral), Scores(50.0, 61.0, 93.0, 2.0), 10, 0.1, "", True)
    found.candidates.append(near)
    found.interpolation.append((0.5, Scores(55, 61.0, 94.5)))
    text = " ".join(word for line in _printed(found) for word in line)
    assert "recommendation: interpolate instead: coefficient 0.5" in text
    assert "best candidate: --axis output --cross-weight-ratio 0.4" in text
    assert "spectral+ 3 0.4 +61.0" in text


def test_the_choice_leaves_room_for_other_questions():
    assert 0 < CHOICE_ACCURACY_DROP < MAX_ACCURACY_DROP == 5.0
