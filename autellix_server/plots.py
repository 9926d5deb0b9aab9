"""Plots as SVG text: lines with intervals, cumulative distributions, bars side by side and bars in parts.

The same input gives the same bytes. A plot draws on whatever is behind it, takes dark or light ink as the reader's
system asks for, keeps its text as text, and needs nothing from outside, so that it can stand in a page or in a file
of its own. Matplotlib is imported when the first plot is drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f7fc1", "#d9722e", "#2f9e6e", "#a864c4", "#b8901f", "#c9504f", "#2a9fb0", "#8a8a8a")
"""Told apart by most people, on white and on black alike."""

_MARKERS = "osD^vP*X"
_WIDTH_INCHES = 6.4
_HEIGHT_INCHES = 3.4
_INK = "#012345"
"""Stands for the reader's ink until the drawing is done; no plot uses this colour."""

_STYLE = (
    "<style>.autellix-plot{color:#222}@media (prefers-color-scheme:dark){.autellix-plot{color:#ddd}}"
    ".autellix-plot{max-width:100%;height:auto}</style>"
)
# Newer Matplotlibs list the names of all settings in a type; older ones do not have it.
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "autellix",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "grid.color": _INK,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points, or a sample of bars.

    Attributes:
        label: its name in the legend.
        x, y: as long as each other; at least one point.
        low, high: ends of an interval at each point; both or neither.
        band: draw the intervals as a band instead of bars.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    band: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar.

    Attributes:
        height: its value.
        low, high: ends of an interval around it; both or neither.
    """

    height: float
    low: float | None = None
    high: float | None = None


def line_plot(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    limit: float | None = None,
) -> str:
    """Return lines with markers and their intervals.

    Args:
        lines: at least one, drawn in order.
        x_label, y_label: what the axes show, with the unit.
        title: what the picture shows; also its text for those who cannot see it.
        log_x, log_y: logarithmic axes.
        limit: height of a dashed level line, if there is one.
    """
    with _drawing(title or f"{y_label} by {x_label}") as (axes, result):
        for number, line in enumerate(lines):
            colour, marker = _look(number)
            axes.plot(line.x, line.y, marker=marker, markersize=5, color=colour, label=line.label)
            if line.low is not None and line.high is not None:
                if line.band:
                    axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
                else:
                    axes.vlines(line.x, line.low, line.high, color=colour, linewidth=1.5)
        if limit is not None:
            axes.axhline(limit, color=_INK, linestyle="--", linewidth=1)
        _label(axes, x_label, y_label, title)
        if log_x:
            _make_logarithmic(axes, "x")
        if log_y:
            _make_logarithmic(axes, "y")
        else:
            axes.set_ylim(bottom=0)
        _add_legend(axes)
    return result[0]


def cdf_plot(
    samples: Mapping[str, Sequence[float]], x_label: str, *, title: str = "", log_x: bool = True, y_label: str = "share"
) -> str:
    """Return the cumulative distribution of every sample: the share of values up to x.

    Args:
        samples: by label; none empty.
        x_label: what the values are, with the unit.
        title: as in `line_plot`.
        log_x: logarithmic values, which must then be above 0; smaller ones are left of the picture.
        y_label: what it is a share of.
    """
    with _drawing(title or f"{y_label} by {x_label}") as (axes, result):
        for number, (label, sample) in enumerate(samples.items()):
            ordered = sorted(sample)
            shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
            axes.step(ordered, shares, where="post", color=_look(number)[0], label=label)
        _label(axes, x_label, y_label, title)
        if log_x:
            _make_logarithmic(axes, "x")
        axes.set_ylim(0, 1.02)
        axes.legend(loc="lower right")
    return result[0]


def bar_plot(groups: Sequence[str], bars: Mapping[str, Sequence[Bar]], y_label: str, *, title: str = "") -> str:
    """Return bars side by side in groups, with error bars.

    Args:
        groups: names below the groups.
        bars: by label, for each as many as there are groups.
        y_label: what the heights are, with the unit.
        title: as in `line_plot`.
    """
    with _drawing(title or f"{y_label} by group") as (axes, result):
        width = 0.8 / max(1, len(bars))
        for number, (label, row) in enumerate(bars.items()):
            places = [group + (number - (len(bars) - 1) / 2) * width for group in range(len(groups))]
            axes.bar(places, [bar.height for bar in row], width * 0.92, color=_look(number)[0], label=label)
            for place, bar in zip(places, row, strict=True):
                if bar.low is not None and bar.high is not None:
                    axes.vlines(place, bar.low, bar.high, color=_INK, linewidth=1.5)
        axes.set_xticks(range(len(groups)), groups)
        axes.grid(visible=False, axis="x")
        _label(axes, "", y_label, title)
        _add_legend(axes)
    return result[0]


def parts_plot(rows: Sequence[str], parts: Mapping[str, Sequence[float]], x_label: str, *, title: str = "") -> str:
    """Return horizontal bars, each made of parts that follow each other.

    Args:
        rows: names of the bars, from above.
        parts: by label, the length of the part in each bar; parts that are 0 everywhere are left out.
        x_label: what the lengths are, with the unit.
        title: as in `line_plot`.
    """
    with _drawing(title or f"{x_label} in parts") as (axes, result):
        ends = [0.0] * len(rows)
        shown = {label: lengths for label, lengths in parts.items() if any(lengths)}
        for number, (label, lengths) in enumerate(shown.items()):
            axes.barh(range(len(rows)), lengths, 0.6, left=ends, color=_look(number)[0], label=label)
            ends = [end + length for end, length in zip(ends, lengths, strict=True)]
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        _label(axes, x_label, "", title)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=4)
    return result[0]


@contextmanager
def _drawing(alternative: str) -> Iterator[tuple[Axes, list[str]]]:
    """Yield axes to draw on, and a list that has the SVG text in it afterwards."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    result: list[str] = []
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES))
        yield figure.add_subplot(), result
        drawn = io.BytesIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(drawn, format="svg", metadata=no_metadata, transparent=True, bbox_inches="tight")
    result.append(_clean(drawn.getvalue().decode(), alternative))


def _clean(svg: str, alternative: str) -> str:
    """Return the `svg` element alone, in the reader's ink, with a text for those who cannot see it.

    Groups lose their IDs, which are the same in every plot, so that several fit into one page.
    """
    svg = svg[svg.index("<svg ") :].replace(_INK, "currentColor")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    head, _, body = svg.partition(">")
    head = head.replace("<svg ", '<svg class="autellix-plot" role="img" ', 1)
    return f"{head}>{_STYLE}<title>{escape(alternative)}</title>{body}"


def _label(axes: Axes, x_label: str, y_label: str, title: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if title:
        axes.set_title(title, fontsize=11, loc="left")


def _add_legend(axes: Axes) -> None:
    """Add the legend beside the plot, where it hides nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))


def _make_logarithmic(axes: Axes, name: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain numbers instead of powers."""
    if name == "x":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")


def _look(number: int) -> tuple[str, str]:
    """Return colour and marker of the n-th thing in a plot."""
    return COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
