"""Plots: the same bytes for the same input, and nothing from outside."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.dom import minidom

import pytest

from autellix_server.plots import Bar, Line, bar_plot, cdf_plot, line_plot, parts_plot

PLOTS: dict[str, Callable[[], str]] = {
    "line": lambda: line_plot(
        [Line("a & <b>", [1, 2], [3, 4], [2, 3], [4, 5]), Line("c", [1, 2], [1, 1], [0.5, 0.5], [2, 2], band=True)],
        "programs/s",
        "ms/token",
        title="A & <B>",
        limit=3.5,
    ),
    "logarithmic line": lambda: line_plot([Line("a", [1, 10], [1, 100])], "x", "y", log_x=True, log_y=True),
    "distribution": lambda: cdf_plot({"a": [3, 1, 2], "b": [5]}, "ms"),
    "bars": lambda: bar_plot(["chat", "react"], {"a": [Bar(1, 0.5, 2), Bar(3)], "b": [Bar(2), Bar(1)]}, "ms"),
    "parts": lambda: parts_plot(["a", "b"], {"queued": [1, 2], "decode": [3, 0], "never": [0, 0]}, "% of time"),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_one_svg_that_is_the_same_each_time(name: str) -> None:
    """No date, no random names: results can be kept under version control."""
    svg = PLOTS[name]()
    assert svg == PLOTS[name]()
    assert minidom.parseString(svg).documentElement.tagName == "svg"


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_needs_nothing_from_outside_and_takes_the_readers_ink(name: str) -> None:
    """Links inside the picture are all there are."""
    svg = PLOTS[name]()
    assert all(link.startswith("#") for link in re.findall(r'(?:href|src)="([^"]*)"', svg))
    assert "url(http" not in svg
    assert "currentColor" in svg
    assert "#000000" not in svg


def test_words_stay_words() -> None:
    """They can be searched for, are escaped, and say what the picture shows."""
    svg = PLOTS["line"]()
    assert "<title>A &amp; &lt;B&gt;</title>" in svg
    assert "a &amp; &lt;b&gt;</text>" in svg


def test_parts_that_are_nowhere_are_left_out() -> None:
    """A legend of nothing helps nobody."""
    assert "never" not in PLOTS["parts"]()
