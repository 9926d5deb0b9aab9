"""Programs for the tests of this folder: one by hand, and any that the format allows."""

from __future__ import annotations

from hypothesis import strategies as st

from autellix_server.traces.model import END_TURN, TraceCall, TraceProgram, followed_by

NAMES = st.text("abcdefghij_", min_size=1, max_size=8)
SECONDS = st.none() | st.floats(0, 1e6)


def two_calls(program_id: str = "p1", **fields: object) -> TraceProgram:
    """Return a chat of two calls: 100 + 20 tokens, then 10 new ones and 5."""
    first = followed_by(None, call_id="0", new_tokens=100, output_tokens=20, tool_seconds=1.5)
    second = followed_by(first, call_id="1", new_tokens=10, output_tokens=5)
    return TraceProgram(program_id, "chat", "by hand", (first, second), **fields)  # type: ignore[arg-type]


@st.composite
def programs(draw: st.DrawFn) -> TraceProgram:
    """Draw any program: a random graph in which every call shares at most what a call before it had."""
    calls: list[TraceCall] = []
    for index in range(draw(st.integers(1, 8))):
        history = max((call.history_tokens for call in calls), default=0)
        shared = draw(st.integers(0, history))
        parents = draw(st.lists(st.sampled_from([call.id for call in calls]), unique=True)) if calls else []
        call = TraceCall(
            id=str(index),
            parents=tuple(parents),
            thread=draw(st.integers(0, 3)),
            prompt_tokens=draw(st.integers(max(1, shared), shared + 300)),
            shared_prefix_tokens=shared,
            output_tokens=draw(st.integers(0, 200)),
            tool_seconds=draw(SECONDS),
            stop=draw(st.sampled_from((None, END_TURN))),
            tool_name=draw(st.none() | NAMES),
            role=draw(st.none() | NAMES),
            synthetic_output=draw(st.booleans()),
            t=draw(SECONDS),
        )
        calls.append(call)
    return TraceProgram(
        program_id=draw(NAMES),
        kind=draw(NAMES),
        source=draw(NAMES),
        calls=tuple(calls),
        arrival_seconds=draw(SECONDS),
        opening=draw(st.none() | NAMES),
        tool_tokens=draw(st.integers(0, 50)),
        system_tokens=draw(st.integers(0, 50)),
        scaled=draw(st.none() | NAMES),
        facts=draw(st.sampled_from(({}, {"turns": 3}, {"solved": True, "models": ["a", "b"]}))),
    )
