"""The guard of these tests, in each environment: nobody gets past loopback, and who tries is remembered."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.frameworks import conftest


@pytest.fixture
def reached_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is remembered; forgotten after the test."""
    fresh: list[str] = []
    monkeypatch.setattr(conftest, "_reached_for", fresh)
    return fresh


async def test_other_hosts_are_refused_and_remembered(reached_for: list[str]) -> None:
    """By name and by address, from plain sockets and from event loops."""
    with pytest.raises(PermissionError, match="loopback only"):
        socket.create_connection(("192.0.2.1", 443))
    with pytest.raises(PermissionError, match="loopback only"):
        await asyncio.open_connection("telemetry.invalid", 443)
    assert reached_for == ["socket.getaddrinfo 192.0.2.1", "socket.getaddrinfo telemetry.invalid"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, pytest.raises(PermissionError):
        sender.sendto(b"", ("192.0.2.1", 53))
    assert reached_for[2:] == ["socket.sendto 192.0.2.1"]


async def test_loopback_is_allowed(reached_for: list[str]) -> None:
    """By its names and addresses."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        for host in ("localhost", "127.0.0.1"):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            await writer.wait_closed()
    assert reached_for == []
