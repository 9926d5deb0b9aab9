"""The line in front of an engine without our planner: order, bounds, leaving at any time, and what it is good for."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_engine import SIXTEEN, VirtualEngine

from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.gateway.fleet.holding import Holding
from autellix_server.gateway.fleet.window import Answered, Sent, Window
from autellix_server.scheduling.call import Call
from autellix_server.scheduling.levels import Levels, geometric_levels
from autellix_server.scheduling.planner import Planner, PlannerSettings
from autellix_server.scheduling.policies import SERVABLE, make_policy


def holding(policy: str = "plas", most: int = 100, settings: PlannerSettings | None = None) -> Holding:
    """A line with two levels, split at one second."""
    return Holding(Planner(make_policy(policy, Levels((1.0,))), settings), most)


def call(name: str, service_s: float = 0.0, program: str | None = None) -> Call:
    """A call of a program that was served so much."""
    context = CallContext(ProgramId(program or name), "s", 0, CallId(name))
    return Call(context, 0.0, prompt_tokens=10, base_service_s=service_s)


def names(calls: tuple[Call, ...]) -> list[str]:
    """Which calls they are."""
    return [one.context.call for one in calls]


def test_calls_leave_in_the_order_of_their_programs() -> None:
    """Who was served less goes first, who came first among equals; no more than there are places."""
    line = holding()
    for one in (call("old1", 5.0), call("new1"), call("old2", 5.0), call("new2")):
        assert line.arrive(one, 0.0)
    assert names(line.release(1.0, 3)) == ["new1", "new2", "old1"]
    assert (line.held, names(line.release(1.0, 0)), names(line.release(1.0, 9))) == (1, [], ["old2"])


def test_engine_keeps_what_it_has() -> None:
    """A better call waits for a place: nothing is taken back from an engine that would lose it."""
    line = holding()
    worse, better = call("worse", 5.0), call("better")
    line.arrive(worse, 0.0)
    line.release(0.0, 1)
    line.arrive(better, 1.0)
    assert line.release(1.0, 0) == ()
    assert worse.running
    line.finished(worse, 2.0, 3.0)
    assert names(line.release(3.0, 1)) == ["better"]


def test_window_that_shrinks_takes_nothing_back() -> None:
    """More calls than places is what the window's owner sees; here it only means that nobody else leaves."""
    line = holding()
    for index in range(4):
        line.arrive(call(f"c{index}"), 0.0)
    assert len(line.release(0.0, 3)) == 3
    assert line.release(1.0, -2) == ()


def test_line_is_bounded() -> None:
    """Who comes when it is full is refused; those that were sent do not count."""
    line = holding(most=2)
    assert [line.arrive(call(f"c{index}"), 0.0) for index in range(3)] == [True, True, False]
    line.release(0.0, 1)
    assert line.arrive(call("c3"), 0.0)


def test_call_that_is_held_can_leave() -> None:
    """Its client went away before its turn; so can one that the engine has."""
    line = holding()
    held, sent = call("held"), call("sent")
    line.arrive(sent, 0.0)
    line.release(0.0, 1)
    line.arrive(held, 0.0)
    line.left(held, 1.0)
    line.left(sent, 1.0)
    assert (line.held, line.planner.running, line.release(2.0, 5)) == (0, 0, ())


def test_call_that_waits_for_long_is_promoted() -> None:
    """After `beta` times its program's service it goes before those that came lately with less."""
    line = holding(settings=PlannerSettings(beta=3.0))
    old, busy = call("old", program="p"), call("busy", program="p")
    line.arrive(busy, 0.0)
    line.release(0.0, 1)
    line.finished(busy, 2.0, 2.0)
    old.base_service_s = 2.0
    line.arrive(old, 2.0)
    assert line.release(8.5, 0) == ()
    line.arrive(call("new"), 9.0)
    assert names(line.release(9.0, 1)) == ["old"]


steps = st.lists(
    st.tuples(st.sampled_from(["arrive", "release", "finish", "leave"]), st.integers(0, 5), st.floats(0, 3)),
    max_size=60,
)


@pytest.mark.parametrize("policy", sorted(SERVABLE))
@given(taken=steps)
def test_nobody_is_lost_or_sent_twice(policy: str, taken: list[tuple[str, int, float]]) -> None:
    """Under every policy: each call is sent once at most, never more than there are places, and all in the end."""
    line, now, waiting, sent = holding(policy), 0.0, {}, {}
    for number, (step, which, wait_s) in enumerate(taken):
        now += wait_s
        if step == "arrive":
            waiting[number] = call(f"c{number}", float(which), program=f"p{which}")
            assert line.arrive(waiting[number], now)
        elif step == "release":
            released = line.release(now, which)
            assert len(released) == min(which, len(waiting))
            for one in released:
                number = next(key for key, value in waiting.items() if value is one)
                sent[number] = waiting.pop(number)
        elif sent and (step == "finish" or not waiting):
            line.finished(sent.pop(sorted(sent)[which % len(sent)]), wait_s, now)
        elif waiting:
            line.left(waiting.pop(sorted(waiting)[which % len(waiting)]), now)
        assert (line.held, line.planner.running) == (len(waiting), len(sent))
        assert all(one.running for one in sent.values())
    assert {id(one) for one in line.release(now, 1000)} == {id(one) for one in waiting.values()}


@dataclass
class Account:
    """A program that makes calls one after the other, and how it fared."""

    calls: int
    begins_s: float
    service_s: float = 0.0
    done: int = 0
    ended_s: float = 0.0


def slowness(policy: str) -> float:
    """Return the seconds that programs take for a call, on average over programs.

    They are held in front of an engine with sixteen slots that knows no programs; its window is learned. Every fourth
    of them makes forty calls, the others make two; all calls are alike.
    """
    random, engine, levels = Random(3), VirtualEngine(SIXTEEN), geometric_levels(first_bound_s=2.0)
    line, window = Holding(Planner(make_policy(policy, levels))), Window()
    programs = {f"p{index}": Account(2 if index % 4 else 40, random.uniform(0, 40)) for index in range(200)}
    begins = deque(sorted(programs, key=lambda name: programs[name].begins_s))
    sent: dict[int, tuple[Call, Sent]] = {}
    while begins or line.held or sent:
        now = min(engine.next_s, programs[begins[0]].begins_s if begins else inf)
        calling = []
        if begins and now == programs[begins[0]].begins_s:
            calling.append(begins.popleft())
        else:
            for flight in engine.proceed():
                ended, token = sent.pop(id(flight))
                window.answered(token, Answered(now - flight.sent_s, flight.first_byte_s, 200))
                line.finished(ended, now - flight.sent_s, now)
                program = programs[ended.context.program]
                program.service_s += now - flight.sent_s
                program.done += 1
                program.ended_s = now
                if program.done < program.calls:
                    calling.append(ended.context.program)
                else:
                    line.program_ended(ended.context.program, str(program.calls), program.service_s, now)
        for name in calling:
            line.arrive(call(f"{programs[name].done}", programs[name].service_s, program=name), now)
        for one in line.release(now, window.free):
            sent[id(engine.send(200, 60, now))] = one, window.sent()
    return fmean((program.ended_s - program.begins_s) / program.calls for program in programs.values())


def test_programs_are_served_sooner_than_first_come_first_served() -> None:
    """The engine knows nothing of programs, and yet short ones do not wait for long ones: 1.9 s a call, not 3.1 s."""
    assert slowness("plas") < 0.67 * slowness("fcfs")
