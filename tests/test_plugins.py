"""Detectors and readers of other packages, found by entry points of a package on the path."""

import importlib
import json
import sys

import pytest

from commands import run
from hcnr import plugins
from hcnr.data.samples import load_samples
from hcnr.detectors import open_detector
from hcnr.errors import ConfigError, DataError

CODE = """
def shrug(responses, questions):
    return ["dunno" in text for text in responses]

def short(responses, questions):
    return [True]

def numbers(responses, questions):
    return [1 for _ in responses]

def broken(responses, questions):
    raise RuntimeError("no network")

def read_tsv(path):
    for line in path.read_text().splitlines():
        prompt, response = line.split("\\t")
        yield {"prompt": prompt, "response": response}

constant = 3
"""
POINTS = """
[hcnr.detectors]
shrug = other_kinds:shrug
short = other_kinds:short
numbers = other_kinds:numbers
broken = other_kinds:broken
constant = other_kinds:constant
gone = other_kinds:gone
gair_idk = other_kinds:short

[hcnr.readers]
tsv = other_kinds:read_tsv
"""


def install(folder, name, points):
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "other_kinds.py").write_text(CODE)
    install(folder, "other-kinds", POINTS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "other_kinds", raising=False)
    importlib.invalidate_caches()
    yield folder
    sys.modules.pop("other_kinds", None)


def test_a_registered_detector_decides(installed):
    detector = open_detector("shrug")
    assert detector.name == "shrug"
    assert detector.many(["I dunno", "Paris", " "], ["Why?"] * 3).tolist() == [True, False, False]
    assert "shrug" in plugins.names("hcnr.detectors")


def test_ours_come_first(installed):
    assert not open_detector("gair_idk")("Paris.", "Where?")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("short", "gave 1 answers for 2 responses"),
        ("numbers", "gave int 1 for 2 responses, expected a truth value each"),
        ("broken", "failed on 2 responses: RuntimeError: no network"),
    ],
)
def test_what_a_detector_gives_is_checked(installed, name, sentence):
    detector = open_detector(name)
    with pytest.raises(ConfigError, match=sentence):
        detector.many(["a", "b"], ["", ""])


def test_what_cannot_be_imported_is_one_sentence(installed):
    with pytest.raises(
        ConfigError, match=r"cannot be imported from other-kinds \(other_kinds:gone"
    ):
        open_detector("gone")
    with pytest.raises(ConfigError, match="is a int in other-kinds"):
        open_detector("constant")
    with pytest.raises(ConfigError, match=r"'shrugs' is unknown.*shrug.*did you mean shrug\?"):
        open_detector("shrugs")
    install(installed, "third-kinds", "[hcnr.detectors]\nshrug = elsewhere:shrug\n")
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=r"more than once, by other-kinds.*third-kinds"):
        open_detector("shrug")


def test_a_registered_reader_reads(installed, tmp_path):
    path = tmp_path / "data.TSV"
    path.write_text("Why?\tI don't know.\nWhere?\tParis\n")
    found = load_samples(path)
    assert [sample.response for sample in found.samples] == ["I don't know.", "Paris"]
    path.write_text("Why?\tI don't know.\nno tab\n")
    with pytest.raises(DataError, match=r"data.TSV cannot be read after record 1 .*ValueError"):
        load_samples(path)
    path.write_text("Why?\t \n")
    with pytest.raises(DataError, match=r"data.TSV, record 1 has an empty response"):
        load_samples(path)


def test_an_unknown_extension_names_the_registered_ones(installed, tmp_path):
    (tmp_path / "data.xml").write_text("<a/>")
    with pytest.raises(DataError, match=r"expected \.jsonl, .* or \.tsv;"):
        load_samples(tmp_path / "data.xml")


def test_without_other_packages_nothing_changes(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"prompt": "Why?", "response": "Because."}))
    assert len(load_samples(path)) == 1
    assert plugins.load("hcnr.detectors", "nobody") is None


BROKEN = """
[hcnr.detectors]
leaves = leaving_kinds:nothing
odd = odd_kinds:nothing

[hcnr.readers]
csv = other_kinds:read_tsv
PSV = other_kinds:read_tsv

[hcnr.repairs]
raising = other_kinds:broken
short = other_kinds:short
"""


def test_info_says_of_each_whether_it_is_available_or_why_not(installed):
    """A plugin that is broken is shown with its reason, whatever it does when it is imported."""
    (installed / "leaving_kinds.py").write_text("raise SystemExit('not\\n on this machine')\n")
    (installed / "odd_kinds.py").write_text("raise RuntimeError('[/red] [bold]')\n")
    install(installed, "fourth-kinds", BROKEN)
    install(installed, "third-kinds", "[hcnr.detectors]\nshort = elsewhere:short\n")
    importlib.invalidate_caches()
    shown = json.loads(run("info", "--json").stdout)["plugins"]
    states = {(row["group"], row["name"], row["package"]): row["state"] for row in shown}
    ours, fourth = "other-kinds 1.0", "fourth-kinds 1.0"
    assert states["hcnr.detectors", "shrug", ours] == "available"
    assert states["hcnr.readers", "tsv", ours] == "available"
    assert states["hcnr.detectors", "gair_idk", ours].startswith("not used: hcnr has its own")
    assert states["hcnr.readers", "csv", fourth].startswith("not used: hcnr has its own")
    assert "lower case" in states["hcnr.readers", "PSV", fourth]
    for name, package, reason in (
        ("constant", ours, "is a int"),
        ("gone", ours, "AttributeError"),
        ("short", ours, "more than once, by other-kinds"),
        ("short", "third-kinds 1.0", "more than once, by other-kinds"),
        ("leaves", fourth, "SystemExit: not on this machine"),
        ("odd", fourth, "RuntimeError: [/red] [bold]"),
    ):
        state = states["hcnr.detectors", name, package]
        assert state.startswith("not available: ") and reason in state
    assert "TypeError" in states["hcnr.repairs", "raising", fourth]
    assert "TypeError" in states["hcnr.repairs", "short", fourth]
    text = run("info").stdout
    assert "fourth-kinds 1.0" in text and "[/red]" in text


def test_info_lists_the_detectors_and_that_there_is_no_plugin(monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", lambda **_: [])
    shown = json.loads(run("info", "--json").stdout)
    assert shown["plugins"] == []
    assert {"detector": "regex:PATTERN", "needs": "-"} in shown["refusal detectors"]
    assert {"detector": "safety_keywords", "needs": "-"} in shown["refusal detectors"]
    assert "Plugins: none, in hcnr.detectors, hcnr.readers, hcnr.repairs" in run("info").stdout
