"""Charts as pictures, drawn by matplotlib on white."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnr.errors import ConfigError, OutputError
from hcnr.report.drawing.charts import Chart, HeatMap, PlaneChart, Role, RowChart
from hcnr.report.drawing.scales import log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: dict[Role, str] = {
    "after": "#0072b2", "before": "#c65300", "base": "#00805c", "rival": "#a0527f",
    "quiet": "#8a9098", "alert": "#c65300", "chosen": "#b07900",
}  # fmt: skip
MARKERS: dict[Role, str] = {
    "after": "o", "before": "o", "base": "D", "rival": "s", "quiet": ".", "alert": "^",
    "chosen": "o",
}  # fmt: skip
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 9, "text.parse_math": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e5e2",
    "legend.frameon": False, "figure.dpi": 100, "savefig.dpi": 200, "axes.edgecolor": "#9aa0a6",
}  # fmt: skip


def save_chart(chart: Chart, path: Path) -> Path:
    """Draw one chart into a PNG file; the folder is made where it is missing.

    Raises:
        ConfigError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "pictures of the charts need matplotlib, which is not installed; run pip install "
            "'hcnr[plots]', or go without them (--no-png)"
        ) from None
    from hcnr.checkpoint import atomic_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path.parent} cannot be made ({error.strerror}); choose another place"
        ) from None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4, _height(chart)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(chart.title)
        if isinstance(chart, RowChart):
            _rows(chart, axes)
        elif isinstance(chart, PlaneChart):
            _plane(chart, axes)
        elif isinstance(chart, HeatMap):
            _heat(chart, axes)
        if len(axes.get_legend_handles_labels()[0]) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="png")
    return path


def _height(chart: Chart) -> float:
    if isinstance(chart, RowChart):
        lanes = 1 if chart.strip else max(len(chart.legend), 1)
        return 1.1 + len(chart.rows) * (0.14 + 0.2 * lanes)
    return 1.4 + 0.3 * len(chart.rows) if isinstance(chart, HeatMap) else 4.2


def _style(role: Role) -> dict[str, Any]:
    colour = COLOURS[role]
    hollow = role in ("before", "rival", "chosen")
    return {"color": colour, "marker": MARKERS[role], "markersize": 11 if role == "chosen" else 6,
            "markerfacecolor": "white" if hollow else colour, "linestyle": "none",
            "fillstyle": "none" if role == "chosen" else "full"}  # fmt: skip


def _rows(chart: RowChart, axes: "Axes") -> None:
    roles: list[Role] = [role for role, _ in chart.legend] or ["after"]
    names = dict(chart.legend)
    lanes = 1 if chart.strip else len(roles)
    if chart.log:
        axes.set_xscale("log")
        axes.minorticks_off()
    for index, row in enumerate(chart.rows):
        for mark in row.marks:
            lane = 0 if chart.strip else roles.index(mark.role) - (lanes - 1) / 2
            y = index + 0.8 * lane / lanes
            label = names.pop(mark.role, None)
            end = mark.value
            if chart.bars:
                axes.barh(y, mark.value, 0.6, color=COLOURS[mark.role], label=label)
            else:
                for span, width in ((mark.interval, 1.5), (mark.inner, 5.0)):
                    if span is not None:
                        axes.plot(span, (y, y), color=COLOURS[mark.role], linewidth=width,
                                  alpha=1.0 if width < 2 else 0.4,
                                  solid_capstyle="butt")  # fmt: skip
                        end = max(end, span[1])
                axes.plot([mark.value], [y], label=label, **_style(mark.role))
            if chart.numbers:
                axes.annotate(format(mark.value, chart.numbers), (end, y), (5, 0), va="center",
                              textcoords="offset points", fontsize=7.5, color="#5a6068",
                              annotation_clip=False)  # fmt: skip
    if chart.log:
        _label_powers(axes)
    if chart.reference is not None:
        axes.axvline(chart.reference, color="#5a6068", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(chart.rows)), [row.label for row in chart.rows])
    axes.set_ylim(len(chart.rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(chart.axis)


def _label_powers(axes: "Axes") -> None:
    """Label the horizontal axis as the page does, without mathematical text."""
    places = log_ticks(*axes.get_xlim(), most=8)
    axes.set_xticks([place for place, _ in places], [label for _, label in places])


def _plane(chart: PlaneChart, axes: "Axes") -> None:
    if chart.log_x:
        axes.set_xscale("log")
        axes.minorticks_off()
    for curve in chart.curves:
        x, y = [point.x for point in curve.points], [point.y for point in curve.points]
        style = _style(curve.role)
        if curve.line:
            style |= {"linestyle": "--" if curve.role == "rival" else "-", "markersize": 4}
        axes.plot(x, y, label=curve.label, **style)
        banded = [(p.x, *p.interval) for p in curve.points if p.interval is not None]
        if len(banded) > 1 and curve.line:
            places, low, high = zip(*banded, strict=True)
            axes.fill_between(places, low, high, color=COLOURS[curve.role], alpha=0.13, linewidth=0)
    if chart.reference is not None:
        axes.axvline(chart.reference, color="#5a6068", linestyle="--", linewidth=1)
    if chart.spanned:
        axes.update_datalim([(x, y) for x in axes.get_xlim() for y in chart.spanned])
        axes.autoscale_view(scalex=False)
    if chart.log_x:
        _label_powers(axes)
    axes.set_xlabel(chart.x_axis)
    axes.set_ylabel(chart.y_axis)
    if chart.whole_x:
        axes.locator_params(axis="x", integer=True)


def _heat(chart: HeatMap, axes: "Axes") -> None:
    import numpy as np

    values = np.full((len(chart.rows), len(chart.columns)), np.nan)
    for (row, column), cell in chart.cells.items():
        values[row, column] = cell.value
    largest = chart.full or float(np.nanmax(values))
    image = axes.imshow(values, cmap="Blues", aspect="auto", vmin=0.0, vmax=chart.full,
                        interpolation="nearest")  # fmt: skip
    middle = 0.55 * largest
    for (row, column), cell in chart.cells.items():
        if cell.marked:
            colour = "white" if cell.value > middle else "#1b1d20"
            axes.plot([column], [row], marker=".", markersize=4, color=colour)
    axes.set_yticks(range(len(chart.rows)), list(chart.rows))
    step = -(-len(chart.columns) // 20)
    axes.set_xticks(range(0, len(chart.columns), step), list(chart.columns[::step]))
    axes.grid(visible=False)
    axes.set_xlabel(f"{chart.columns_axis}{f' (a dot: {chart.mark})' if chart.mark else ''}")
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(image, ax=axes, label=chart.axis, fraction=0.04)
