"""What is remembered of programs, and the endpoint that shows it."""

from __future__ import annotations

import asyncio
import json
import tracemalloc

import aiohttp
from aiohttp import web
from telemetry_records import arrived, context, ended

from autellix_sdk.wire import CallId, ProgramId
from autellix_server.gateway.telemetry.events import Outcome
from autellix_server.gateway.telemetry.timeline import TimelineApi, TimelineLimits, Timelines, pieces

PATH = "/autellix/v1/programs/{id}/timeline"


def names(timelines: Timelines, program: str) -> list[str]:
    """Return the IDs of the calls remembered of a program."""
    return [call.context.call for call in timelines.calls(ProgramId(program))]


def test_a_program_keeps_its_latest_calls() -> None:
    """Earlier ones are forgotten and counted; calls without a program are never kept."""
    timelines = Timelines(TimelineLimits(calls=100, calls_per_program=3, programs=10))
    for number in range(5):
        timelines.call_arrived(arrived(who=context(call=f"0.{number}")))
        timelines.call_arrived(arrived(who=context(f"anonymous{number}"), single_call=True))
    assert names(timelines, "p1") == ["0.2", "0.3", "0.4"]
    assert (timelines.forgotten(ProgramId("p1")), len(timelines)) == (2, 3)
    assert (names(timelines, "anonymous0"), timelines.forgotten(ProgramId("unknown"))) == ([], 0)


def test_the_quietest_program_is_forgotten_first() -> None:
    """For want of room for programs, and for want of room for calls."""
    for limits in (TimelineLimits(calls=100, programs=2), TimelineLimits(calls=3, calls_per_program=3)):
        timelines = Timelines(limits)
        for program in ("p1", "p2", "p1", "p3"):
            timelines.call_arrived(arrived(who=context(program)))
        assert [len(names(timelines, program)) for program in ("p1", "p2", "p3")] == [2, 0, 1]
        assert len(timelines) == 3


def test_memory_is_what_the_limits_say() -> None:
    """Calls with the longest headers, billed and complete; three times as many as are kept."""
    limits = TimelineLimits(calls=1000, calls_per_program=100)
    timelines = Timelines(limits)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(3000):
            parents = tuple(CallId(f"abcdefgh.{number:04}.{parent:05}") for parent in range(26))
            who = context(f"{number // 100:064}", f"{number:020}", parents=parents, name=f"{number:0128}")
            timelines.call_arrived(ended(who=who, traceparent=f"{number:0512}"))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(timelines) == limits.calls
    assert (after - before) / len(timelines) < 4500


async def test_others_have_their_turn_while_a_timeline_is_written() -> None:
    """Even if nothing ever waits for the client: as often as there are 200 events."""
    turns, events = 0, [{"ph": "i", "ts": number} for number in range(2000)]

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    text = b"".join([piece async for piece in pieces(events, 3)])
    task.cancel()
    assert json.loads(text) == {"displayTimeUnit": "ms", "otherData": {"calls_forgotten": 3}, "traceEvents": events}
    assert turns == 10


async def test_a_timeline_is_trace_event_json() -> None:
    """With its calls, those in flight too; an unknown program is a 404."""
    timelines = Timelines(TimelineLimits(calls_per_program=600))
    for number in range(700):
        call = arrived(10.0 + number, context(call=f"0.{number}", name="agent"))
        if number < 699:
            call.end(Outcome.OK, 10.5 + number)
        timelines.call_arrived(call)
    api = TimelineApi(timelines, lambda: 720.0)
    app = web.Application()
    app.router.add_get(PATH, api.get)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}" + PATH
    async with aiohttp.ClientSession() as client:
        async with client.get(url.format(id="p1")) as reply:
            assert (reply.status, reply.content_type) == (200, "application/json")
            trace = json.loads(await reply.read())
        async with client.get(url.format(id="other")) as reply:
            assert (reply.status, (await reply.json())["error"]["code"]) == (404, "unknown_program")
    await runner.cleanup()
    assert (trace["displayTimeUnit"], trace["otherData"]) == ("ms", {"calls_forgotten": 100})
    calls = [event for event in trace["traceEvents"] if event.get("cat") == "call"]
    assert [calls[0]["name"], calls[-1]["name"], len(calls)] == ["call 0.100", "call 0.699", 600]
    assert (calls[-1]["dur"], calls[-1]["args"]["outcome"]) == (11_000_000, "in flight")
    assert trace["traceEvents"][0]["args"] == {"name": "agent"}
