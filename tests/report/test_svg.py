import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from hcnr.record.tables import Table
from hcnr.report.drawing.charts import (
    Cell,
    ChartRow,
    Curve,
    CurvePoint,
    HeatMap,
    Mark,
    PlaneChart,
    Role,
    RowChart,
)
from hcnr.report.drawing.elements import element
from hcnr.report.drawing.svg import draw

EMPTY = Table((), ())
WIDTHS = (736, 344)


def test_text_and_attributes_are_escaped_and_markup_is_not():
    inner = element("b", '1 < 2 & "3"')
    assert inner == "<b>1 &lt; 2 &amp; &#34;3&#34;</b>"
    made = element("path", inner, "<", None, class_="line", fill_opacity=0.125, x=2.0, id=None,
                   d='"><script>')  # fmt: skip
    assert made == (
        '<path class="line" fill-opacity="0.12" x="2" d="&#34;&gt;&lt;script&gt;">'
        f"{inner}&lt;</path>"
    )


def parsed(chart, width=736):
    return ET.fromstring(draw(chart, width))


def classes(root, name):
    return [e for e in root.iter() if name in (e.get("class") or "").split()]


def marks(root):
    """Marks, of the groups that have their class."""
    return [mark for group in classes(root, "mark") for mark in group]


def cells_of(root):
    """Edges of the cells, and how full their groups are, by note; the legend has none."""
    found = {}
    for group in classes(root, "cell"):
        for cell in group.findall("path"):
            (note,) = (title.text for title in cell)
            x, width = re.findall(r"^M(\S+) \S+?h(\S+?)v", cell.get("d"))[0]
            found[note] = float(x), float(width), at(group, "fill-opacity")
    return found


def dots(root):
    return [dot for path in classes(root, "dot") for dot in re.findall("M", path.get("d"))]


def at(element, name):
    return float(element.get(name) or "nan")


def tick_map(root):
    """Values of an axis as places, from two labels that were drawn."""
    places = [(float(t.text), at(t, "x")) for t in classes(root, "tick")
              if t.get("text-anchor") == "middle"]  # fmt: skip
    (v0, x0), (v1, x1) = places[0], places[-1]
    return lambda x: v0 + (x - x0) * (v1 - v0) / (x1 - x0)


@pytest.mark.parametrize("width", WIDTHS)
def test_marks_and_intervals_stand_at_their_values(width):
    values = [(30.0, (25.0, 36.0)), (71.5, (70.0, 73.0)), (52.25, (50.0, 60.0))]
    rows = [
        ChartRow(f"set {i}", [Mark("after", v, "", span)]) for i, (v, span) in enumerate(values)
    ]
    chart = RowChart("k", "t", "d", EMPTY, rows, "%", numbers=".1f")
    root = parsed(chart, width)
    value_at = tick_map(root)
    assert [value_at(at(m, "cx")) for m in marks(root)] == pytest.approx(
        [v for v, _ in values], abs=0.15
    )
    for line, (_, span) in zip(classes(root, "thin"), values, strict=True):
        start, end = str(line.get("d"))[1:].split("H")
        assert value_at(float(start.split()[0])) == pytest.approx(span[0], abs=0.2)
        assert value_at(float(end)) == pytest.approx(span[1], abs=0.2)
    assert [t.text for t in classes(root, "number")] == ["30.0", "71.5", "52.2"]


def test_bars_reach_from_zero_to_their_values():
    rows = [ChartRow("a", [Mark("after", 4.0, "")]), ChartRow("b", [Mark("after", 8.0, "")])]
    root = parsed(RowChart("k", "t", "d", EMPTY, rows, "s", bars=True))
    value_at = tick_map(root)
    bars = classes(root, "bar")
    assert [value_at(at(b, "x")) for b in bars] == pytest.approx([0, 0], abs=0.02)
    ends = [value_at(at(b, "x") + at(b, "width")) for b in bars]
    assert ends == pytest.approx([4, 8], abs=0.02)


def test_heat_map_cells_are_as_full_as_their_values():
    cells = {(0, 0): Cell(0.0, "zero"), (0, 1): Cell(0.5, "half", True), (1, 1): Cell(1.0, "full")}
    root = parsed(HeatMap("k", "t", "d", EMPTY, ["q", "k"], ["0", "1"], cells, "v", "block", "dot"))
    drawn = {note: full for note, (_, _, full) in cells_of(root).items()}
    assert drawn["zero"] == pytest.approx(0.05)
    assert drawn["half"] == pytest.approx(0.525, abs=0.01)
    assert drawn["full"] == pytest.approx(1.0)
    assert len(dots(root)) == 2, "one marked cell, one in the legend"


@pytest.mark.parametrize("width", WIDTHS)
def test_eighty_blocks_fit(width):
    cells = {(r, c): Cell(r + c, f"{r} {c}", True) for r in range(7) for c in range(80)}
    labels = [str(c) for c in range(80)]
    chart = HeatMap("k", "t", "d", EMPTY, list("qkvogud"), labels, cells, "v", "b", "m")
    root = parsed(chart, width)
    drawn = cells_of(root)
    assert len(drawn) == 560 and len(dots(root)) == 561
    assert all(x + across <= width for x, across, _ in drawn.values())
    numbers = [at(t, "x") for t in classes(root, "tick") if t.get("text-anchor") == "middle"]
    assert all(b - a > 12 for a, b in itertools.pairwise(numbers))


def test_a_plane_turns_up_and_right():
    points = [CurvePoint(1.0, 2.0, "low"), CurvePoint(3.0, 9.0, "high", (8.0, 10.0))]
    curves = [Curve("after", "one", points, line=True), Curve("base", "two", points[:1], tag="<b>")]
    root = parsed(PlaneChart("k", "t", "d", EMPTY, curves, "x", "y"))
    low, high = classes(root, "after")[1]
    assert at(low, "cx") < at(high, "cx")
    assert at(low, "cy") > at(high, "cy")
    assert [t.text for t in classes(root, "tag")] == ["<b>"]


def test_an_axis_of_counts_has_whole_numbers():
    points = [CurvePoint(float(x), 0.5 + x / 10, "") for x in range(3)]
    chart = PlaneChart("k", "t", "d", EMPTY, [Curve("after", "a", points)], "x", "y", whole_x=True)
    ticks = [t for t in classes(parsed(chart), "tick") if t.get("text-anchor") == "middle"]
    assert [t.text for t in ticks] == ["0", "1", "2"]


def test_a_drawing_names_and_describes_itself():
    root = parsed(RowChart("key", "the title", "how to read", EMPTY, [], "x"))
    title, desc = root[0], root[1]
    assert (title.text, desc.text) == ("the title", "how to read")
    assert root.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"
    assert root.get("role") == "img"


@pytest.mark.parametrize("width", WIDTHS)
def test_a_logarithmic_plane_has_its_line_of_reference_in_place(width):
    points = [CurvePoint(10.0**place, 0.5, "") for place in (-3, -1, 3)]
    chart = PlaneChart("k", "t", "d", EMPTY, [Curve("after", "kept", points)], "g a", "share",
                       log_x=True, spanned=(0.0, 1.0), reference=0.1)  # fmt: skip
    root = parsed(chart, width)
    left, middle, right = (at(mark, "cx") for mark in marks(root))
    assert (middle - left) / (right - left) == pytest.approx(2 / 6, abs=1e-3)
    (line,) = classes(root, "reference")
    assert line.get("d", "").startswith(f"M{middle:.1f} ")
    labels = [text.text for text in classes(root, "tick")]
    assert {"0.0", "1.0"} <= set(labels), "the axis spans what it was told to"


def test_a_full_colour_may_be_given_and_dots_left_out():
    cells = {(0, i): Cell(value, f"{value:g}") for i, value in enumerate((0.5, 1.0, 7.0))}
    chart = HeatMap("k", "t", "d", EMPTY, ["x"], ["a", "b", "c"], cells, "kept", "bin", full=1.0)
    root = parsed(chart)
    half, whole, more = (full for _, _, full in cells_of(root).values())
    assert half == pytest.approx(0.525, abs=0.01) and whole == more == 1.0
    assert not classes(root, "dot")


def test_without_notes_the_same_is_drawn_in_fewer_elements():
    cells = {(r, c): Cell(c % 3, f"{r} {c}", True) for r in range(7) for c in range(80)}
    heat = HeatMap("k", "t", "d", EMPTY, list("qkvogud"), [""] * 80, cells, "v", "b", "m")
    noted, bare = parsed(heat), ET.fromstring(draw(heat, 736, notes=False))
    outlines = [
        sorted(
            "".join(path.get("d", "") for group in classes(root, "cell") for path in group).split(
                "M"
            )
        )
        for root in (noted, bare)
    ]
    assert outlines[0] == outlines[1] and len(outlines[0]) == 561
    assert len(list(bare.iter())) < len(list(noted.iter())) / 10
    rows = [ChartRow("a", [Mark("after", 1.0, "one"), Mark("alert", 2.0, "two")])]
    strip = RowChart("k", "t", "d", EMPTY, rows, "x", strip=True)
    noted, bare = parsed(strip), ET.fromstring(draw(strip, 736, notes=False))
    assert [[note.text for note in mark] for mark in marks(noted)] == [["one"], ["two"]]
    assert [mark.attrib for mark in marks(bare)] == [mark.attrib for mark in marks(noted)]
    assert not any(len(mark) for mark in marks(bare))


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_marks_stand_beside_the_name_of_their_row(width, strip):
    both: list[tuple[Role, str]] = [("after", "one"), ("alert", "two")]
    rows = [ChartRow(name, [Mark(role, 1.0, "") for role, _ in both]) for name in "abc"]
    root = parsed(RowChart("k", "t", "d", EMPTY, rows, "x", legend=both, strip=strip), width)
    names = [at(text, "y") for text in classes(root, "label")]
    lanes = [float(re.findall(r" (\S+)\)", group.get("transform", ""))[0])
             for group in classes(root, "mark")]  # fmt: skip
    pairs = list(zip(lanes[::2], lanes[1::2], strict=True))
    assert len(pairs) == len(names) == 3
    for y, (first, second) in zip(names, pairs, strict=True):
        assert (first + second) / 2 == pytest.approx(y - 4, abs=0.1)
        assert (first == second) == strip
