"""The page in a real browser: it loads without complaint, and nothing overlaps or is cut off."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from hcnr.report.page import write_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")

# Looks at the page from outside, since the page itself allows no script.
INSPECTOR = """<!DOCTYPE html><body style="margin:0"><pre id="found">nothing</pre><script>
const widths = [360, 700, 1280];
const found = {};
function inspect(page, width) {
  const root = page.documentElement, texts = [], outside = [], overlapping = [];
  for (const svg of page.querySelectorAll("figure svg[role=img]")) {
    const frame = svg.getBoundingClientRect();
    if (!frame.width) continue;
    const boxes = [];
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      const scale = frame.width / svg.viewBox.baseVal.width;
      texts.push(parseFloat(getComputedStyle(text).fontSize) * scale);
      if (box.left < frame.left - 3 || box.right > frame.right + 3 || box.top < frame.top - 3
          || box.bottom > frame.bottom + 3) outside.push(text.textContent);
      if (!text.matches(".tag, .number")) boxes.push([text.textContent, box]);
    }
    boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
      const beside = p.left >= q.right - 1 || q.left >= p.right - 1;
      if (!beside && p.top < q.bottom - 4 && q.top < p.bottom - 4)
        overlapping.push(a + " | " + b);
    }));
  }
  found[width] = {scroll: root.scrollWidth, client: root.clientWidth, smallest: Math.min(...texts),
                  charts: page.querySelectorAll("figure").length, outside, overlapping,
                  ink: getComputedStyle(page.body).color};
}
(async () => {
  for (const width of widths) {
    const frame = document.createElement("iframe");
    frame.style = `border:0;height:900px;width:${width}px`;
    frame.src = "report.html";
    document.body.append(frame);
    await new Promise(done => frame.onload = done);
    inspect(frame.contentDocument, width);
    frame.remove();
  }
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script>"""


def browse(url, home, *options):
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
            f"--user-data-dir={home / 'profile'}", "--enable-logging=stderr",
            "--virtual-time-budget=5000", *options, "--dump-dom", url,
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(params=["usual", "long", "spectral", "spectral+natural"])
def place(request, full_run, invented):
    """A usual run, one of 560 matrices with everything going wrong, and two-sided repairs."""
    if request.param.startswith("spectral"):
        report = invented.two_sided(request.param)
        report["matrices"][0]["two_sided"]["damping"] = [0.01, 0.1]
        (full_run / "hcnr_report.json").write_text(json.dumps(report))
    if request.param == "long":
        report = invented.report(80)
        for record in report["matrices"][::17]:
            record.update(damping=0.1, damping_raised=True, condition=3e6, rank_deficient=True)
        (full_run / "hcnr_report.json").write_text(json.dumps(report))
        (full_run / "probe.json").write_text(json.dumps(invented.probe(80)))
    write_html(full_run)
    return full_run


def test_the_browser_has_no_complaints(full_run, tmp_path):
    dom, complaints = browse(f"file://{write_html(full_run)}", tmp_path)
    assert complaints == []
    assert "Use</span>: the refusal delta rose from +12.2 to +42.6" in dom
    assert dom.count("<figure") == 10


@pytest.mark.parametrize(("scheme", "dark"), [(1, False), (0, True)], ids=["light", "dark"])
def test_nothing_overlaps_or_is_cut_off_at_any_width(place, tmp_path, scheme, dark):
    (place / "inspector.html").write_text(INSPECTOR)
    dom, complaints = browse(
        f"file://{place / 'inspector.html'}", tmp_path, "--allow-file-access-from-files",
        f"--blink-settings=preferredColorScheme={scheme}",
    )  # fmt: skip
    assert complaints == []
    match = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert match is not None
    found = json.loads(unescape(match.group(1)))
    assert list(found) == ["360", "700", "1280"]
    for width, seen in found.items():
        assert seen["charts"] >= 10
        assert seen["scroll"] <= seen["client"], f"the page is wider than {width} pixels"
        assert (seen["outside"], seen["overlapping"]) == ([], []), width
        assert seen["smallest"] >= 9, "legible text"
        light_ink = int(re.findall(r"\d+", seen["ink"])[0]) > 127
        assert light_ink == dark
