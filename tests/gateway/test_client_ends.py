"""Whatever becomes of a client's process, its programs end: by its own word, or else by their lease."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from fake_engine import FakeEngine, Gateway, running_gateway

LEASE_S = 900.0
WAIT_S = 20.0
"""Longest wait for a process; only a failing test gets that far."""

_AGENT = """
import os, signal, sys
import httpx
import autellix_sdk as autellix
from autellix_sdk import _lifecycle, _programs

{before}
def call():
    question = {{"model": "tiny", "messages": []}}
    httpx.post(sys.argv[1] + "/v1/chat/completions", json=question).raise_for_status()

autellix.init(sys.argv[1] + "/v1")
with autellix.program(id="p"):
    call()
    print("called", flush=True)
    sys.stdin.readline()
    {then}
"""


@asynccontextmanager
async def _agent(gateway: Gateway, then: str, before: str = "") -> AsyncIterator[Process]:
    """A client that has made its first call, and goes on when it is sent a line."""
    code = _AGENT.format(then=then, before=before)
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, gateway.url, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        assert agent.stdout is not None
        assert await asyncio.wait_for(agent.stdout.readline(), WAIT_S) == b"called\n"
        yield agent
    finally:
        if agent.returncode is None:
            agent.kill()
            await agent.communicate()


def _state(gateway: Gateway, program: str = "p") -> str:
    row = gateway.program(program)
    return "ended" if row.ended_s is not None else "active" if row.calls else "idle"


def _let_the_lease_pass(gateway: Gateway) -> None:
    gateway.clock.now_s += LEASE_S + 1
    gateway.ledger.expire()


@pytest.mark.parametrize(
    ("then", "state", "status"),
    [
        pytest.param("pass", "ended", 0, id="a normal end"),
        pytest.param("raise LookupError", "ended", 1, id="an exception"),
        pytest.param("sys.exit(3)", "ended", 3, id="an exit"),
        pytest.param("os.kill(os.getpid(), signal.SIGINT)", "ended", -signal.SIGINT, id="SIGINT"),
        pytest.param("os.kill(os.getpid(), signal.SIGTERM)", "idle", -signal.SIGTERM, id="SIGTERM"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", "idle", -signal.SIGKILL, id="SIGKILL"),
        pytest.param("os._exit(4)", "idle", 4, id="os._exit"),
    ],
)
async def test_a_program_ends_with_its_client_or_by_its_lease(
    gateway: Gateway, then: str, state: str, status: int
) -> None:
    """What lets the process leave its scope is told at once; the lease takes care of the rest."""
    async with _agent(gateway, then) as agent:
        assert _state(gateway) == "idle"
        await asyncio.wait_for(agent.communicate(b"\n"), WAIT_S)
    assert (agent.returncode, _state(gateway)) == (status, state)
    _let_the_lease_pass(gateway)
    assert _state(gateway) == "ended"


async def test_a_forked_process_ends_its_own_programs_alone(gateway: Gateway) -> None:
    """It may leave the scope and exit as it likes: its parent goes on, and ends the program it began."""
    fork = """
    pid = os.fork()
    if pid == 0:
        with autellix.program(id="own"):
            call()
        call()
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    print("the child has left", flush=True)
    sys.stdin.readline()
    """
    async with _agent(gateway, fork) as agent:
        assert (agent.stdin, agent.stdout) != (None, None)
        agent.stdin.write(b"\n")  # type: ignore[union-attr]
        await asyncio.wait_for(agent.stdout.readline(), WAIT_S)  # type: ignore[union-attr]
        assert [_state(gateway), _state(gateway, "own")] == ["idle", "ended"]
        assert gateway.program("p").completed == 2
        await asyncio.wait_for(agent.communicate(b"\n"), WAIT_S)
    assert (agent.returncode, _state(gateway)) == (0, "ended")


async def test_a_long_tool_call_keeps_its_program_and_a_hanging_process_does_not(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that lives renews the lease of a program that idles in its scope; it opens what it finds ended."""
    hurry = "_lifecycle.IMPLICIT_IDLE_S = _lifecycle._LOOK_EVERY_S = _programs.RENEWAL_S = 0.05"
    async with running_gateway(engine) as gateway, _agent(gateway, "pass", before=hurry) as agent:
        renewed, table = asyncio.Event(), gateway.ledger.table
        open_as_ever = table.open

        def open_program(*args: object, **options: object) -> object:
            renewed.set()
            return open_as_ever(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(table, "open", open_program)
        for _ in range(3):
            gateway.clock.now_s += LEASE_S - 1
            renewed.clear()
            await asyncio.wait_for(renewed.wait(), WAIT_S)
            gateway.ledger.expire()
            assert _state(gateway) == "idle"
        agent.send_signal(signal.SIGSTOP)
        _let_the_lease_pass(gateway)
        assert _state(gateway) == "ended"
        agent.send_signal(signal.SIGCONT)
        renewed.clear()
        await asyncio.wait_for(renewed.wait(), WAIT_S)
        assert _state(gateway) == "idle"
        await asyncio.wait_for(agent.communicate(b"\n"), WAIT_S)
        assert (agent.returncode, _state(gateway)) == (0, "ended")
        assert gateway.program("p").completed == 1


async def test_a_gateway_that_is_gone_harms_nobody(engine: FakeEngine) -> None:
    """The client leaves its scope and exits as ever, with one line in its log."""
    async with AsyncExitStack() as stack:
        async with running_gateway(engine) as gateway:
            agent = await stack.enter_async_context(_agent(gateway, "pass"))
        _, errors = await asyncio.wait_for(agent.communicate(b"\n"), WAIT_S)
    assert agent.returncode == 0
    assert errors.decode().count("\n") == 1
    assert "the end of a program could not be posted" in errors.decode()
