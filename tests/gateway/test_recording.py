"""Recording: what a gateway sees becomes a trace that validates, simulates and holds no text."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path
from typing import Any

import pytest
from fake_engine import CHAT, FakeEngine, Gateway, identity, running_gateway

from autellix_sdk.errors import ConfigurationError
from autellix_server import cli
from autellix_server.gateway.recording import open_trace
from autellix_server.traces.jsonl import read_programs

END = "/autellix/v1/programs/end"


async def call(gateway: Gateway, program: str, number: str, **fields: str) -> None:
    """Complete one call of a program."""
    headers = identity(program, number, **fields)
    async with gateway.client.post(f"{gateway.url}/v1/chat/completions", json=CHAT, headers=headers) as reply:
        assert reply.status == 200
        await reply.read()


async def end(gateway: Gateway, *programs: str) -> None:
    """Say that programs have ended."""
    await gateway.json("POST", END, json={"programs": [{"id": program} for program in programs]})


async def recording(gateway: Gateway) -> Any:
    """Return what ``/health`` says of the recording."""
    return (await gateway.json("GET", "/health"))[1]["recording"]


async def test_programs_become_rows_as_they_end(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parents and tool gaps are there, no text is, and the file is one that other commands take."""
    trace = tmp_path / "seen.jsonl"
    async with running_gateway(engine, record_trace=str(trace)) as gateway:
        await call(gateway, "chain", "0", n="my%20agent")
        gateway.clock.now_s += 2.5
        await call(gateway, "fork", "a")
        await call(gateway, "fork", "b", p="a")
        await call(gateway, "fork", "c", p="a")
        gateway.clock.now_s += 4.0
        await call(gateway, "chain", "1", p="0")
        await call(gateway, "fork", "d", p="b,c")
        await end(gateway, "fork")
        assert [program.program_id for program in read_programs(trace)] == ["fork.1"]
        await end(gateway, "chain")
        assert await recording(gateway) == {"programs": 2, "unrecorded_programs": 0, "dropped_calls": 0}
    fork, chain = read_programs(trace)
    assert (chain.kind, chain.arrival_seconds, fork.arrival_seconds) == ("my agent", 0.0, 2.5)
    assert [(one.parents, one.tool_seconds) for one in chain.calls] == [((), 6.5), (("0",), None)]
    assert [one.parents for one in fork.calls] == [(), ("0",), ("0",), ("1", "2")]
    assert [one.tool_seconds for one in fork.calls] == [0.0, 4.0, 4.0, None]
    assert [(one.prompt_tokens, one.output_tokens) for one in chain.calls] == [(7, 4), (7, 4)]
    assert "to be" not in trace.read_text()
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600
    assert cli.main(["trace", "validate", str(trace)]) == 0
    assert cli.main(["simulate", "--trace", str(trace), "--rates", "1", "--policies", "fcfs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["programs"] == 2


async def test_programs_end_by_lease_with_their_only_call_and_with_the_server(
    engine: FakeEngine, tmp_path: Path
) -> None:
    """None of them waits for a message; what never completed a call leaves no row."""
    trace = tmp_path / "seen.jsonl"
    async with running_gateway(engine, record_trace=str(trace), lease_s=60) as gateway:
        await call(gateway, "left", "0")
        gateway.clock.now_s += 61
        gateway.ledger.expire()
        async with gateway.client.post(f"{gateway.url}/v1/chat/completions", json=CHAT) as anonymous:
            await anonymous.read()
        assert [program.program_id for program in read_programs(trace)][:1] == ["left.1"]
        assert (await recording(gateway))["programs"] == 2
        await gateway.json("POST", "/autellix/v1/programs", json={"id": "unused"})
        await call(gateway, "open", "0")
    assert [program.program_id for program in read_programs(trace)][2:] == ["open.3"]


async def test_without_the_option_nothing_is_recorded(gateway: Gateway) -> None:
    """And ``/health`` says so."""
    await call(gateway, "a", "0")
    assert await recording(gateway) is None


async def test_an_error_of_the_disk_ends_the_recording_and_no_call(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log, and a count of what is missing."""
    async with running_gateway(engine, record_trace="/dev/full") as gateway:
        with caplog.at_level(logging.WARNING, logger="autellix_server.gateway.recording"):
            for program in ("a", "b"):
                await call(gateway, program, "0")
                await end(gateway, program)
        assert await recording(gateway) == {"programs": 0, "unrecorded_programs": 2, "dropped_calls": 0}
        await call(gateway, "c", "0")
    assert [record.getMessage() for record in caplog.records] == [
        "recording to /dev/full has stopped: [Errno 28] No space left on device"
    ]


def test_a_file_with_rows_is_not_touched(tmp_path: Path) -> None:
    """Each run of a server has its own clock, so it has its own file; an empty one may be there."""
    used = tmp_path / "used.jsonl"
    used.write_text("{}\n")
    with pytest.raises(ConfigurationError, match=r"used\.jsonl'?: the file is not empty; name a new one"):
        open_trace(used)
    assert used.read_text() == "{}\n"
    used.write_text("")
    open_trace(used).close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--record-trace", "no/such/folder/trace.jsonl"], "the file cannot be written: No such file or directory"),
        (["--record-trace", "trace.jsonl.gz"], "leave out .gz"),
        (["--record-trace", "trace.jsonl", "--policy", "off"], "--policy off leaves it out"),
    ],
)
def test_what_cannot_be_recorded_to_is_said_before_anything_starts(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one sentence that names the flag."""
    assert cli.main(["serve", *arguments]) == 1
    err = capsys.readouterr().err
    assert "--record-trace" in err
    assert said in err
    assert err.count("\n") == 1
