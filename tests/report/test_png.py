import sys

import pytest

from hcnr.errors import ConfigError, OutputError
from hcnr.report.figures.models import all_charts
from hcnr.report.gather import gather
from hcnr.report.page import write_pngs


def test_every_chart_becomes_a_picture(make_run, invented):
    pytest.importorskip("matplotlib")
    report = invented.report()
    report["matrices"][0].update(damping=0.1, damping_raised=True)
    metrics = invented.metrics()
    metrics["sets"]["$a_set$"] = metrics["sets"]["nec"]
    run = gather(make_run(report=report, metrics=metrics, sweep=invented.sweep(),
                          probe=invented.probe()))  # fmt: skip
    found = write_pngs(run)
    assert [path.stem for path in found] == list(all_charts(run))
    assert {path.parent for path in found} == {run.directory / "report"}
    for path in found:
        head = path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(head[16:20], "big") >= 1400


def test_without_matplotlib_it_is_said_how_to_get_it(make_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'hcnr\[plots\]'"):
        write_pngs(make_run())


def test_a_folder_that_cannot_be_made(make_run):
    pytest.importorskip("matplotlib")
    place = make_run()
    (place / "report").write_text("a file")
    with pytest.raises(OutputError, match="cannot be made"):
        write_pngs(place)
