"""The picture of a program: slices that nest, add up and never overlap on a track."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from telemetry_records import arrived, context, ended

from autellix_sdk.bill import TimeSplit
from autellix_sdk.wire import CallId
from autellix_server.gateway.telemetry.events import CallRecord, Outcome, Stage
from autellix_server.gateway.telemetry.trace_events import trace_events

NOW = 1000.0
SECOND = 1_000_000


def drawn(*calls: CallRecord, now: float = NOW) -> list[dict[str, Any]]:
    """Return the events, which have to be JSON."""
    return [json.loads(json.dumps(event)) for event in trace_events(calls, now, "agent")]


def of(events: list[dict[str, Any]], phase: str, category: str | None = None) -> list[dict[str, Any]]:
    """Return the events of a phase, and of a category if one is given."""
    return [each for each in events if each["ph"] == phase and category in (None, each.get("cat"))]


def check(events: list[dict[str, Any]]) -> None:
    """Check what a viewer relies on, for every track."""
    tracks = defaultdict(list)
    for each in of(events, "X"):
        assert type(each["ts"]) is type(each["dur"]) is int
        assert each["dur"] >= 0
        tracks[each["pid"], each["tid"]].append(each)
    named = {(each["pid"], each["tid"]) for each in of(events, "M") if each["name"] == "thread_name"}
    assert named == tracks.keys()
    for slices in tracks.values():
        calls = sorted((each for each in slices if each["cat"] == "call"), key=lambda each: each["ts"])
        for one, two in pairwise(calls):
            assert one["ts"] + one["dur"] <= two["ts"]
        rest = [each for each in slices if each["cat"] == "part"]
        for call in calls:
            at_us, length_us = call["ts"], call["dur"]
            while length_us:  # The parts lie end to end, from the call's first microsecond to its last.
                part = next(each for each in rest if each["ts"] == at_us)
                rest.remove(part)
                assert 0 < part["dur"] <= length_us
                at_us, length_us = at_us + part["dur"], length_us - part["dur"]
        assert rest == []
    check_arrows(events, tracks)


def check_arrows(events: list[dict[str, Any]], tracks: dict[tuple[int, int], list[dict[str, Any]]]) -> None:
    """Check that each arrow begins and ends in a call's slice, and does not go back in time."""
    ends = {each["id"]: each for each in of(events, "f")}
    starts = of(events, "s")
    assert len(starts) == len(ends)
    for start in starts:
        end = ends[start["id"]]
        assert end["bp"] == "e"
        assert start["ts"] <= end["ts"]
        assert any(
            each["ts"] <= start["ts"] < each["ts"] + max(1, each["dur"]) for each in tracks[start["pid"], start["tid"]]
        )
        assert end["ts"] in starts_of(tracks, end)


def starts_of(tracks: dict[tuple[int, int], list[dict[str, Any]]], event: dict[str, Any]) -> set[int]:
    """Return when the slices on an event's track begin."""
    return {each["ts"] for each in tracks[event["pid"], event["tid"]]}


def test_the_parts_of_a_call_are_those_of_its_bill() -> None:
    """In a fixed order, waiting by cause first; together the wall time."""
    events = drawn(ended(10.0))
    check(events)
    (call,) = of(events, "X", "call")
    assert (call["name"], call["ts"], call["dur"]) == ("call 0.0", 10 * SECOND, SECOND)
    assert [(each["name"], each["dur"]) for each in of(events, "X", "part")] == [
        ("queued: admission", 100_000),
        ("queued: batch", 50_000),
        ("prefill", 200_000),
        ("decode", 500_000),
        ("other", 150_000),
    ]
    assert call["args"]["outcome"] == "ok"
    assert (call["args"]["prompt_tokens"], call["args"]["level"]) == (30, [0, 0])


def test_moments_are_instants_at_their_time() -> None:
    """What the gateway saw, beside what the bill says."""
    instants = [(each["name"], each["ts"], each["args"]) for each in of(drawn(ended(10.0)), "i")]
    assert instants[:3] == [
        ("held", 10_000_000, {"engine": "e0"}),
        ("sent", 10_250_000, {"engine": "e0"}),
        ("first_byte", 10_500_000, {"engine": "e0"}),
    ]


def test_a_call_without_a_bill_is_what_the_gateway_saw() -> None:
    """Held, failed, sent again, answered; these parts add up as well."""
    call = arrived(10.0)
    for stage, at_s in (
        (Stage.HELD, 10.1),
        (Stage.SENT, 10.3),
        (Stage.FAILED, 10.6),
        (Stage.SENT, 10.7),
        (Stage.FIRST_BYTE, 11.2),
    ):
        call.note(stage, at_s, "e0")
    call.end(Outcome.OK, 12.0)
    events = drawn(call)
    check(events)
    assert [(each["name"], each["dur"]) for each in of(events, "X", "part")] == [
        ("gateway", 100_000),
        ("held", 200_000),
        ("engine", 300_000),
        ("gateway", 100_000),
        ("engine", 500_000),
        ("answer", 800_000),
    ]


def test_a_call_in_flight_is_drawn_until_now() -> None:
    """And says so."""
    (call,) = of(drawn(arrived(10.0), now=12.5), "X", "call")
    assert (call["dur"], call["args"]["outcome"]) == (2_500_000, "in flight")


def test_calls_of_one_thread_that_overlap_get_tracks_of_their_own() -> None:
    """The third fits behind the first; another process's thread of the same number is another thread."""
    calls = [
        ended(10.0, context(call="0.0")),
        ended(10.5, context(call="0.1")),
        ended(11.0, context(call="0.2")),
        ended(10.0, context(call="0.0", salt="b")),
    ]
    events = drawn(*reversed(calls))
    check(events)
    titles = {each["tid"]: each["args"]["name"] for each in of(events, "M") if each["name"] == "thread_name"}
    places = [(titles[each["tid"]], each["name"], each["ts"]) for each in of(events, "X", "call")]
    assert sorted(places) == [
        ("thread 0 of client a", "call 0.0", 10_000_000),
        ("thread 0 of client a", "call 0.2", 11_000_000),
        ("thread 0 of client a #2", "call 0.1", 10_500_000),
        ("thread 0 of client b", "call 0.0", 10_000_000),
    ]


def arrows(*calls: CallRecord) -> list[tuple[int, int]]:
    """Return when each arrow starts and ends."""
    events = drawn(*calls)
    check(events)
    return [(start["ts"], end["ts"]) for start, end in zip(of(events, "s"), of(events, "f"), strict=True)]


def test_arrows_lead_from_parents_to_children() -> None:
    """Parents of the same process are named by their ID, others with their salt; who is not there has no arrow."""
    parents = (CallId("0.0"), CallId("b.0.5"), CallId("0.77"))
    calls = [
        ended(10.0, context(call="0.0")),
        ended(10.5, context(call="0.5", salt="b")),
        ended(12.0, context(call="0.1", parents=parents)),
    ]
    assert arrows(*calls) == [(11 * SECOND - 1, 12 * SECOND), (11_500_000 - 1, 12 * SECOND)]


def test_a_call_that_joins_all_is_after_the_last_one() -> None:
    """As calls without our SDK are: a chain."""
    calls = [ended(at_s, context(call=f"0.{number}", parents=None)) for number, at_s in enumerate((10.0, 12.0, 14.0))]
    assert arrows(*calls) == [(11 * SECOND - 1, 12 * SECOND), (13 * SECOND - 1, 14 * SECOND)]


def test_a_parent_that_came_later_has_no_arrow() -> None:
    """Clients can claim anything."""
    assert arrows(ended(10.0, context(call="0.1", parents=(CallId("0.2"),))), ended(10.5, context(call="0.2"))) == []


def test_an_arrow_does_not_go_back_in_time() -> None:
    """The parent's last bytes are still on their way when the child arrives."""
    assert arrows(ended(10.0), ended(10.5, context(call="0.1", parents=(CallId("0.0"),)))) == [(10_500_000, 10_500_000)]


SPLITS = st.builds(
    TimeSplit,
    st.dictionaries(st.sampled_from(["admission", "retraction", "batch", "odd"]), st.integers(0, 10**6)),
    *[st.integers(0, 10**6)] * 4,
)


@st.composite
def some_calls(draw: st.DrawFn) -> list[CallRecord]:
    """Return calls of any length at any time in a few threads, billed or not, with any earlier or later parents."""
    calls = []
    for number in range(draw(st.integers(0, 12))):
        parents = draw(st.none() | st.lists(st.integers(0, 12), max_size=3, unique=True))
        names = None if parents is None else tuple(CallId(f"0.{parent}") for parent in parents)
        who = context(call=f"0.{number}", thread=draw(st.integers(0, 2)), parents=names)
        at_s = draw(st.floats(0, 5))
        if draw(st.booleans()):
            calls.append(ended(at_s, who, draw(SPLITS)))
            continue
        call = arrived(at_s, who)
        for stage in draw(st.lists(st.sampled_from([Stage.HELD, Stage.SENT, Stage.FAILED, Stage.FIRST_BYTE]))):
            call.note(stage, at_s + draw(st.floats(-1, 5)))
        if draw(st.booleans()):
            call.end(Outcome.OK, at_s + draw(st.floats(0, 5)))
        calls.append(call)
    return calls


@given(some_calls())
def test_any_program_is_a_picture(calls: list[CallRecord]) -> None:
    """Whatever its calls are: they nest, add up, and do not overlap."""
    events = drawn(*calls)
    check(events)
    assert len(of(events, "X", "call")) == len(calls)
    billed = sum(call.bill.time.wall_us for call in calls if call.bill is not None)
    assert sum(each["dur"] for each in of(events, "X", "call") if "level" in each["args"]) == billed
