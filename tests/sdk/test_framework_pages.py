"""The pages about agent frameworks name the versions that their tests run: see `make test-frameworks`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "frameworks"


def test_the_versions_are_those_of_the_environments() -> None:
    """On every page, and in the table of all."""
    pins = {
        tuple(line.split("=="))
        for name in ("openai2", "openai3")
        for line in (ROOT / "constraints" / f"frameworks-{name}.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    for page in PAGES.glob("*.md"):
        said = set(re.findall(r"([a-z][a-z-]+) (\d+\.\d+\.\d+)", page.read_text()))
        assert said, page.name
        assert said <= pins, f"{page.name}: {said - pins} is not what the tests run"


def test_each_page_is_in_the_table() -> None:
    """And each framework has its page, and its test."""
    linked = set(re.findall(r"\]\(([a-z-]+)\.md\)", (PAGES / "README.md").read_text()))
    assert linked == {page.stem for page in PAGES.glob("*.md")} - {"README"}
    tests = {path.stem.removeprefix("test_").replace("_", "-") for path in ROOT.glob("tests/frameworks/*/test_*.py")}
    assert linked == tests
