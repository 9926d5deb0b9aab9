"""A table with a state file, on clocks that stand still."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from state_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A gateway's table whose state file is new."""
    made = World(tmp_path / "state" / "gateway.db")
    yield made
    made.state.close()
