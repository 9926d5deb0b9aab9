"""The recorder: what the gateway saw becomes a trace, with the graph, the counts and the gaps, and without text."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import CallContext, CallId, ProgramId, check_program_id
from autellix_server.traces.jsonl import program_to_json
from autellix_server.traces.model import check_program
from autellix_server.traces.recorder import RecorderLimits, TraceRecorder

PROGRAM = ProgramId("p1")


def context(
    call: str,
    *parents: str,
    salt: str = "s",
    thread: int = 0,
    joins_all: bool = False,
    program: ProgramId = PROGRAM,
    name: str | None = None,
    retry: int = 0,
) -> CallContext:
    """Return the identity of a call."""
    waited_for = None if joins_all else tuple(map(CallId, parents))
    return CallContext(program, salt, thread, CallId(call), waited_for, retry, name)


@dataclass(slots=True)
class Gateway:
    """Feeds a recorder as a gateway does."""

    recorder: TraceRecorder

    def run(
        self, call: CallContext, start: float, end: float, prompt: int = 100, cached: int = 0, output: int = 10
    ) -> None:
        """Let a call arrive and complete."""
        self.recorder.arrived(call, start)
        self.complete(call, end, prompt, cached, output)

    def complete(self, call: CallContext, end: float, prompt: int = 100, cached: int = 0, output: int = 10) -> None:
        """Let a call complete."""
        bill = CallBill(
            call.program,
            call.call,
            "engine-0",
            TimeSplit(),
            prompt_tokens=prompt,
            cached_tokens=cached,
            output_tokens=output,
        )
        self.recorder.completed(call, bill, end)


def test_a_chain_has_counts_sharing_and_gaps() -> None:
    """The gap after a call is the time until its child came; after the last call it is unknown."""
    recorder = TraceRecorder()
    gateway = Gateway(recorder)
    gateway.run(context("a", name="my agent"), 50.0, 52.0, prompt=100, cached=64, output=20)
    gateway.run(context("b", "a"), 55.5, 56.0, prompt=130, cached=112, output=5)
    program = recorder.ended(PROGRAM)
    assert program is not None
    check_program(program)
    assert (program.kind, program.source, program.arrival_seconds, program.system_tokens) == (
        "my agent",
        "recorded",
        0.0,
        64,
    )
    first, second = program.calls
    assert (first.id, first.parents, first.prompt_tokens, first.shared_prefix_tokens) == ("0", (), 100, 0)
    assert (second.id, second.parents, second.shared_prefix_tokens, second.output_tokens) == ("1", ("0",), 112, 5)
    assert (first.tool_seconds, second.tool_seconds) == (3.5, None)
    assert (first.t, second.t) == (0.0, 5.5)


def test_a_join_waits_for_the_last_parent() -> None:
    """The gap is counted from the end of the slowest branch, so that a replay starts the join when it started."""
    recorder = TraceRecorder()
    gateway = Gateway(recorder)
    gateway.run(context("a", thread=0), 0.0, 1.0)
    gateway.run(context("b", thread=1), 0.0, 5.0)
    gateway.run(context("c", "a", "b"), 7.0, 8.0)
    program = recorder.ended(PROGRAM)
    assert program is not None
    assert [call.thread for call in program.calls] == [0, 1, 0]
    assert program.calls[2].parents == ("0", "1")
    assert [call.tool_seconds for call in program.calls] == [2.0, 2.0, None]


def test_joining_all_means_every_completed_call_without_a_child() -> None:
    """What is still running was not waited for."""
    recorder = TraceRecorder()
    gateway = Gateway(recorder)
    gateway.run(context("a"), 0.0, 1.0)
    gateway.run(context("b", "a"), 1.0, 2.0)
    gateway.run(context("c"), 0.0, 2.0)
    running = context("d")
    recorder.arrived(running, 0.0)
    gateway.run(context("e", joins_all=True), 3.0, 4.0)
    gateway.complete(running, 9.0)
    program = recorder.ended(PROGRAM)
    assert program is not None
    assert program.calls[4].parents == ("1", "2")


def test_processes_of_one_program_keep_their_calls_apart() -> None:
    """Equal IDs under two salts are two calls, and a parent may be another process's."""
    recorder = TraceRecorder()
    gateway = Gateway(recorder)
    gateway.run(context("a", salt="x"), 0.0, 1.0)
    gateway.run(context("a", "x.a", salt="y"), 1.0, 2.0)
    gateway.run(context("b", "a", salt="y"), 2.0, 3.0)
    program = recorder.ended(PROGRAM)
    assert program is not None
    assert [call.parents for call in program.calls] == [(), ("0",), ("1",)]
    assert [call.thread for call in program.calls] == [0, 1, 1]


def test_a_retry_is_the_same_call() -> None:
    """Its first arrival counts."""
    recorder = TraceRecorder()
    gateway = Gateway(recorder)
    recorder.arrived(context("a"), 0.0)
    gateway.run(context("a", retry=1), 4.0, 5.0)
    program = recorder.ended(PROGRAM)
    assert program is not None
    assert [call.t for call in program.calls] == [0.0]


def test_calls_that_never_completed_are_left_out() -> None:
    """Their children lose that parent; a program without a completed call leaves no row."""
    recorder = TraceRecorder()
    gateway = Gateway(recorder)
    recorder.arrived(context("a"), 0.0)
    assert recorder.ended(PROGRAM) is None
    recorder.arrived(context("a"), 1.0)
    gateway.run(context("b", "a"), 2.0, 3.0)
    program = recorder.ended(PROGRAM)
    assert program is not None
    assert [(call.id, call.parents) for call in program.calls] == [("0", ())]
    assert recorder.ended(PROGRAM) is None


def test_a_program_that_comes_back_is_another_row() -> None:
    """Its ID is another one, and says whose it is."""
    assert row_ids(TraceRecorder(), PROGRAM, PROGRAM, PROGRAM) == ["p1.1", "p1.2", "p1.3"]


@given(st.lists(st.sampled_from(["p", "p.1", "p.2", "p.2.2", "2", "q" * 62, "q" * 63, "q" * 64, "q" * 63 + "."])))
def test_no_two_rows_share_an_id(programs: list[str]) -> None:
    """Whatever clients call their programs, and however little the recorder remembers."""
    found = row_ids(TraceRecorder(RecorderLimits(programs=1)), *map(ProgramId, programs))
    assert len(set(found)) == len(programs)
    for row_id in found:
        check_program_id(row_id)


def row_ids(recorder: TraceRecorder, *programs: ProgramId) -> list[str]:
    """Let programs of one call run one after another, and return the IDs of their rows."""
    rows = []
    for program in programs:
        Gateway(recorder).run(context("a", program=program), 0.0, 1.0)
        rows.append(recorder.ended(program))
    return [row.program_id for row in rows if row]


def test_what_a_call_shares_is_bounded_by_what_its_program_had() -> None:
    """More than that in the cache is another program's, and would be no valid trace."""
    recorder = TraceRecorder()
    gateway = Gateway(recorder)
    gateway.run(context("a"), 0.0, 1.0, prompt=50, output=10)
    gateway.run(context("b"), 0.0, 1.0, prompt=900, cached=800)
    program = recorder.ended(PROGRAM)
    assert program is not None
    check_program(program)
    assert program.calls[1].shared_prefix_tokens == 60


def test_beyond_its_limits_it_counts_what_it_drops() -> None:
    """Programs and calls of one program; late completions of what was dropped are passed over."""
    recorder = TraceRecorder(RecorderLimits(programs=1, calls=1))
    gateway = Gateway(recorder)
    gateway.run(context("a"), 0.0, 1.0)
    gateway.run(context("b"), 0.0, 1.0)
    gateway.run(context("a", program=ProgramId("p2")), 0.0, 1.0)
    assert recorder.dropped == 2
    program = recorder.ended(PROGRAM)
    assert program is not None
    assert len(program.calls) == 1
    assert recorder.ended(ProgramId("p2")) is None


def test_a_row_has_no_room_for_text() -> None:
    """Every value of a call is a number, an ID or null."""
    recorder = TraceRecorder()
    Gateway(recorder).run(context("secret"), 0.0, 1.0)
    program = recorder.ended(PROGRAM)
    assert program is not None
    assert "secret" not in json.dumps(program_to_json(program))
