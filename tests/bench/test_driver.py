"""The open loop, in virtual time: arrivals by the clock, parents before children, times from when they were due."""

from __future__ import annotations

import asyncio

import pytest
from bench_world import FakeServer, Silent, call, in_virtual_time, program

from autellix_sdk.wire import CallContext, check_program_id
from autellix_server.bench.driver import Driver
from autellix_server.traces.model import TraceProgram


def drive(server: FakeServer, *programs: TraceProgram, alone: bool = False) -> Driver:
    """Run the programs and return the driver."""
    driver = Driver(server, Silent(), "s1")
    in_virtual_time(driver.run_alone(programs) if alone else driver.run(programs))
    return driver


def test_a_call_starts_when_all_parents_are_done_and_their_tools_have_run() -> None:
    """Siblings run side by side, and a join waits for the latest of them."""
    server = FakeServer(lambda context: {"a": 1.0, "b": 2.0, "c": 4.0, "d": 1.0}[context.call])
    fork = program(call("a", gap_s=0.5), call("b", "a", gap_s=3.0), call("c", "a"), call("d", "b", "c"), at_s=0.0)
    driver = drive(server, fork)
    assert server.starts_s() == {"a": 0.0, "b": 1.5, "c": 1.5, "d": 6.5}
    assert driver.records[0].completion_s == pytest.approx(7.5)
    assert driver.records[0].response_s == pytest.approx(1 + 2 + 1)  # by way of b, whose tool is the last to end
    assert driver.records[0].tool_s == pytest.approx(3.5)


def test_a_stalled_server_delays_no_arrival() -> None:
    """The loop is open: calls are sent when they are due, however many are under way."""
    server = FakeServer(lambda context: 100.0)
    drive(server, *(program(call(str(number)), at_s=float(number), name=str(number)) for number in range(5)))
    assert server.starts_s() == {str(number): float(number) for number in range(5)}


def test_times_count_from_when_a_call_was_due() -> None:
    """A client that is late does not flatter the server, and its lag is known."""

    class LateClient(FakeServer):
        async def send(self, context: CallContext, prompt: str, tokens: int) -> object:  # type: ignore[override]
            answer = await super().send(context, prompt, tokens)
            if context.call == "0":
                # The loop is busy with something else when the next call should leave.
                asyncio.get_running_loop().clock.now_s += 3.0  # type: ignore[attr-defined]
            return answer

    driver = drive(LateClient(), program(call("0", gap_s=2.0), call("1", "0"), at_s=0.0))
    first, second = driver.records[0].calls
    assert (first.lag_s, second.lag_s) == (0.0, pytest.approx(1.0))
    assert second.latency_s == pytest.approx(2.0)
    assert second.latency_s - second.lag_s == pytest.approx(1.0)


def test_one_failed_call_fails_its_program_and_no_other() -> None:
    """Its siblings are given up, its children never start, and the failure is kept."""
    server = FakeServer(lambda context: 9.0 if context.call == "slow" else 1.0, frozenset({"bad"}))
    failing = program(call("bad"), call("slow"), call("child", "bad"), at_s=0.0, name="one")
    driver = drive(server, failing, program(at_s=0.0, name="two"))
    by_number = {record.number: record for record in driver.records}
    assert by_number[0].failure == "status 500: broken"
    assert by_number[1].failure is None
    assert server.left == ["slow"]
    assert "child" not in server.starts_s()
    assert sorted(server.ended) == [("one.s1.0", True), ("two.s1.1", False)]


def test_outputs_are_as_long_as_in_the_trace_and_answers_come_back_in_later_prompts() -> None:
    """What the server really said is what a conversation repeats."""
    server = FakeServer()
    drive(server, program(call("0", output=7), call("1", "0", prompt=40, shared=27), at_s=0.0))
    assert [sent.tokens for sent in server.sent] == [7, 4]
    assert server.sent[1].prompt.startswith(server.sent[0].prompt + " answer 0")


def test_every_call_says_who_it_is() -> None:
    """Program, call, true parents and kind; IDs of one round are not those of another, and keep to the limit."""
    server = FakeServer()
    drive(server, program(call("0"), call("1", "0"), at_s=0.0, name="x" * 64, kind="react"))
    contexts = [sent.context for sent in server.sent]
    assert [(context.call, context.parents) for context in contexts] == [("0", ()), ("1", ("0",))]
    assert {context.name for context in contexts} == {"react"}
    assert check_program_id(contexts[0].program).endswith(".s1.0")


def test_alone_means_one_after_the_other() -> None:
    """The next program arrives when the one before has ended."""
    server = FakeServer(lambda context: 5.0)
    driver = drive(server, *(program(call(str(number)), name=str(number)) for number in range(3)), alone=True)
    assert [record.response_s for record in driver.records] == [pytest.approx(5.0)] * 3
    assert [sent.context.call for sent in server.sent] == ["0", "1", "2"]


def test_what_had_ended_is_kept_when_it_is_cancelled() -> None:
    """Calls under way are given up."""
    server = FakeServer(lambda context: 100.0 if context.call == "long" else 1.0)
    driver = Driver(server, Silent(), "s1")

    async def cut_short() -> None:
        work = asyncio.create_task(driver.run([program(at_s=0.0), program(call("long"), at_s=0.0, name="q")]))
        await asyncio.sleep(10)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    in_virtual_time(cut_short())
    assert [record.number for record in driver.records] == [0]
    assert driver.arrived == 2
    assert server.left == ["long"]
