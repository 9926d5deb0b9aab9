"""Makes the fakes beside these tests importable, and starts gateways in front of them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parents[1] / "engine")])

from fake_engine import FakeEngine, Gateway, running_engine, running_gateway


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    """An engine of ours that answers."""
    async with running_engine() as fake:
        yield fake


@pytest.fixture
async def gateway(engine: FakeEngine) -> AsyncIterator[Gateway]:
    """A gateway in front of `engine`."""
    async with running_gateway(engine, policy="plas") as running:
        yield running
