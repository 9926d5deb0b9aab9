"""The pytest fixture: each test that asks for it is a program of its own."""

from __future__ import annotations

import asyncio
import threading

import pytest

import autellix_sdk as autellix
from autellix_sdk.wire import CallContext
from tests.sdk.conftest import WAIT_S, call_here

pytest_plugins = ["autellix_sdk.pytest_plugin"]

pytestmark = pytest.mark.usefixtures("offline_explicit")

seen: set[str] = set()


@pytest.mark.parametrize("run", [1, 2])
def test_a_test_is_a_program_with_its_name(autellix_program: autellix.Program, run: int) -> None:
    """Each run is another one; threads belong to it."""
    calls = [call_here()]
    thread = threading.Thread(target=lambda: calls.append(call_here()))
    thread.start()
    thread.join(WAIT_S)
    assert [call.program for call in calls] == [autellix_program.id] * 2
    assert calls[0].name == f"test_a_test_is_a_program_with_its_name[{run}]"
    assert autellix_program.id not in seen
    seen.add(autellix_program.id)


async def test_an_async_test_is_a_program(autellix_program: autellix.Program) -> None:
    """The task that runs the test, and its children."""

    async def child() -> CallContext:
        return call_here()

    calls = [call_here(), *await asyncio.gather(child(), child())]
    assert {call.program for call in calls} == {autellix_program.id}


@pytest.mark.parametrize("long", ["x" * 300, "é" * 100], ids=lambda text: text)
def test_long_names_are_cut(autellix_program: autellix.Program, long: str) -> None:
    """They still begin like the test."""
    assert str(call_here().name).startswith("test_long_names_are_cut[")
    assert len(autellix_program.name_field) <= len(";n=") + 128


def test_a_test_that_does_not_ask_is_left_alone() -> None:
    """Loading the plugin opens no scope."""
    assert autellix.current() is None
    assert autellix.headers() == {}
