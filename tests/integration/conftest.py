"""Fixtures of the integration tests: the real engine and the bundled model, started once for most of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from autellix_server.engine.environment import EngineEnvironment
from autellix_server.engine.home import Home
from tests.integration.server import SLOTS, Server, serve


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """The interpreter of the engine environment; the tests do not build it."""
    environment = EngineEnvironment(Home.from_environment(), "cpu")
    if environment.status().state != "ready":
        pytest.fail("the engine environment is not there; run: autellix engine install --device cpu")
    return environment.python


@pytest.fixture(scope="session")
def server(engine_python: Path) -> Iterator[Server]:
    """The server that most tests share: PLAS, calibrated bounds, few slots, so that calls queue, and metrics."""
    with serve("--policy", "plas", "--", "--max-running-requests", str(SLOTS), "--enable-metrics") as running:
        yield running
