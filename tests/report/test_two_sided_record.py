from typing import Any

import pytest

from hcnr.errors import DataError
from hcnr.record.files.matrix_record import MatrixRecord
from hcnr.record.files.restoration import AGAIN, RestorationRecord
from hcnr.record.files.two_sided import Spectrum, WholeMatrixRecord, together
from hcnr.record.two_sided_text import key_facts, search_sentence, search_table, steps_sentence

NUMBERS: dict[str, Any] = {
    "name": "x", "neurons": 4, "restored": 4, "parameters": 16, "perturbation": 0.1,
}  # fmt: skip


def spectrum_of(*columns):
    names = ("edges", "directions", "energy", "kept")
    return Spectrum(**{name: list(one) for name, one in zip(names, columns, strict=True)})


def read(report):
    found = RestorationRecord.of(report, "the report", AGAIN).repair
    assert found is not None
    return found


def test_other_kinds_say_nothing_of_it(invented):
    assert RestorationRecord.of(invented.report(), "the report", AGAIN).repair is None


def test_what_a_report_says_is_read(invented):
    two = read(invented.two_sided("spectral+natural"))
    assert (two.kind, two.whole, two.task_weight, two.held_back) == (
        "spectral+natural", True, 3.16228, 64,
    )  # fmt: skip
    assert [(t.task_weight, t.retention, t.kept) for t in two.search[:2]] == [
        (1.0, 95.2, False), (10.0, 99.4, True),
    ]  # fmt: skip
    assert two.chosen is two.search[2]
    assert [(s.step, s.honesty_loss, s.after) for s in two.steps] == [
        (1, 2.412, 1.873), (2, 1.873, 1.541), (3, 1.541, 1.402),
    ]  # fmt: skip
    assert two.restored_share is None


def test_matrices_come_in_the_models_order(invented):
    report = invented.two_sided()
    report["matrices"].reverse()
    names = [name for name in report["perturbation"] if name in read(report).matrices]
    assert list(read(report).matrices) == names
    assert len(names) == 22


def test_a_searched_weight_alone_repairs_no_whole_matrices(invented):
    report = invented.report()
    search = [{"task_weight": 1.0, "retention": 99.0, "kept": True}]
    report["two_sided"] = {"kind": "balanced", "task_weight": 1.0, "search": search}
    two = read(report)
    assert not two.whole and two.matrices == {}
    assert key_facts(two) == {"task weight mu": "1 (found by a search, 1 tried)"}


@pytest.mark.parametrize(("used", "raised"), [(0.01, False), (0.0100000001, False), (0.02, True)])
def test_damping_is_raised_on_either_axis(used, raised):
    for pair in ((used, 0.01), (0.01, used)):
        both = WholeMatrixRecord(damping=pair)
        assert MatrixRecord(**NUMBERS, two_sided=both).raised(0.01) == raised


@pytest.mark.parametrize(
    "change",
    [
        {"edges": None}, {"edges": [0.1]}, {"edges": [1, 0.1]}, {"edges": [0, 1]}, {"energy": [1]},
        {"kept": [0, None, 1]}, {"kept": "abc"}, {"directions": [1, 2, 3, 4]},
    ],
)  # fmt: skip
def test_an_odd_spectrum_is_refused(change):
    whole = {"edges": [0.1, 1], "directions": [1, 2, 3], "energy": [0, 0, 1], "kept": [0, 0, 1]}
    assert Spectrum.of(whole, "x.json", "y").as_dict() == whole
    with pytest.raises(DataError, match=r"^x\.json holds a .*; y$"):
        Spectrum.of(whole | change, "x.json", "y")


def test_bins_are_centred_between_their_edges():
    spectrum = spectrum_of((10**-0.5, 10**0.5, 10**1.5), (1,) * 4, (0.25,) * 4, (0,) * 4)
    assert spectrum.centres == pytest.approx((0.1, 1, 10, 100))


def test_spectra_together_by_hand():
    one = spectrum_of((0.1, 1.0), (1, 2, 3), (0.5, 0.5, 0.0), (0.2, 0.4, 0.0))
    two = spectrum_of((0.1, 1.0), (10, 20, 30), (0.1, 0.0, 0.9), (0.8, 0.0, 1.0))
    silent = spectrum_of((0.1, 1.0), (100, 200, 300), (0.0,) * 3, (0.0,) * 3)
    other = spectrum_of((0.1, 2.0), (7, 7, 7), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    found = together([one, None, silent, two, other])
    assert found is not None
    assert found.directions == [11, 22, 33]
    assert found.energy == pytest.approx((0.3, 0.25, 0.45))
    assert found.kept == pytest.approx(((0.5 * 0.2 + 0.1 * 0.8) / 0.6, 0.4, 1.0))
    assert together([None, silent]) is None


def test_the_search_in_words(invented):
    two = read(invented.two_sided())
    assert search_sentence(two) == (
        "mu = 3.16 is the smallest of 5 task weights that keeps 98% of what fine-tuning had gained "
        "in likelihood on 64 task samples that were held back from measuring."
    )
    table = search_table(two)
    assert table is not None
    assert [row[0] for row in table.rows] == ["1", "1.78", "2.37", "3.16", "10"]
    assert [row[2:] for row in table.rows if row[3]] == [["yes", "yes"]]


def test_a_search_that_found_nothing_in_words(invented):
    report = invented.two_sided()
    for trial in report["two_sided"]["search"]:
        trial["kept"] = False
    assert search_sentence(read(report)).startswith("None of 5 task weights keeps 98%")
    report["two_sided"]["search"][1]["kept"] = True
    assert search_sentence(read(report)).startswith("Of 5 task weights mu = 3.16 was used")
    assert search_sentence(read(invented.two_sided(searched=False))) == ""


@pytest.mark.parametrize(
    ("before", "last", "sentence"),
    [
        ([2.0], 1.5, "The natural step lowered the mean honesty loss from 2 to 1.5."),
        ([2.0, 1.0], 1.5, "2 natural steps lowered the mean honesty loss from 2 to 1.5; it rose in "
         "step 2."),
        ([2.0, 2.5], 2.6, "2 natural steps raised the mean honesty loss from 2 to 2.6; it rose in "
         "steps 1, 2."),
        ([2.0], 2.0, "The natural step left the mean honesty loss at 2."),
        ([2.0], None, "The natural step ran; the honesty loss after the last is not known."),
        ([], 2.0, "No natural step was made: the honesty loss has no gradient."),
    ],
)  # fmt: skip
def test_the_steps_in_words(invented, before, last, sentence):
    report = invented.two_sided("natural")
    report["two_sided"] |= {
        "steps": [{"step": i, "honesty_loss": loss} for i, loss in enumerate(before, 1)],
        "honesty_loss": last,
    }
    assert steps_sentence(read(report)) == sentence


def test_a_record_knows_both_axes():
    both = WholeMatrixRecord(damping=(0.01, 0.1), condition=(5.0, 3.0))
    record = MatrixRecord(**NUMBERS, two_sided=both)
    assert (record.dampings, record.conditions) == ([0.01, 0.1], [5.0, 3.0])
    assert record.raised(0.01) and not record.raised(0.1)
    assert record.as_dict()["two_sided"] == {"damping": [0.01, 0.1], "condition": [5.0, 3.0]}
    one = MatrixRecord(**NUMBERS, damping=0.5, damping_raised=False, condition=9.0)
    assert (one.dampings, one.conditions, one.raised(0.01)) == ([0.5], [9.0], False)
    assert "two_sided" not in one.as_dict() and one.as_dict()["dead"] is None
