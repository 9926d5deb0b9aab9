"""The window against the simulator's engine: where it settles, what it follows, what does not move it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from math import inf
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_engine import SIXTEEN, Traffic, VirtualEngine

from autellix_sdk.errors import ConfigurationError
from autellix_server.gateway.fleet.window import Answered, Sent, Window, WindowSettings
from autellix_server.simulator.model import EngineModel, make_model

CPU = replace(make_model("cpu-smollm2"), slots=16)


def sizes(
    traffic: Traffic, calls: int, model: EngineModel = SIXTEEN, settings: WindowSettings | None = None
) -> list[int]:
    """Return the window after each of so many answers, but for those when it looked back."""
    window = Window(settings)
    return [size for size, _ in traffic.run(VirtualEngine(model), window, calls) if not window.looking_back]


def rate(settings: WindowSettings | None, model: EngineModel, streamed: float) -> float:
    """Return answers per second once things have settled."""
    ends = [now for _, now in Traffic(Random(5), streamed).run(VirtualEngine(model), Window(settings), 3000)]
    return (len(ends) - 500) / (ends[-1] - ends[499])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("model", [SIXTEEN, CPU], ids=["gpu", "cpu"])
@pytest.mark.parametrize("streamed", [1.0, 0.5, 0.0])
def test_window_settles_a_little_above_what_saturates_the_engine(
    streamed: float, model: EngineModel, seed: int
) -> None:
    """Sixteen slots: from the 300th answer on 16 to 20 calls on average, however answers come."""
    assert 16 <= fmean(sizes(Traffic(Random(seed), streamed), 1500, model)[300:]) <= 20


@pytest.mark.parametrize("model", [SIXTEEN, CPU], ids=["gpu", "cpu"])
@pytest.mark.parametrize("streamed", [1.0, 0.0])
def test_learning_costs_little(streamed: float, model: EngineModel) -> None:
    """Within 5 % of the rate of an engine that always has far more calls than it can run, looking back included."""
    assert rate(None, model, streamed) >= 0.95 * rate(WindowSettings(fixed=256), model, streamed)


@pytest.mark.parametrize("slots", [4, 64])
def test_window_follows_the_slots(slots: int) -> None:
    """Four or sixty-four, and a few calls more: less than one would hardly keep the engine busy."""
    assert (
        slots
        <= fmean(sizes(Traffic(Random(1)), 1500, replace(SIXTEEN, slots=slots))[500:])
        <= slots + max(3, slots / 4)
    )


def test_room_may_be_memory() -> None:
    """Slots enough, but memory for about sixteen calls: the window finds that as well."""
    model = replace(SIXTEEN, slots=256, kv_tokens=8 * 257 + 6000)
    traffic = Traffic(Random(1), prompts=lambda random: random.randint(100, 400))
    traffic.outputs = lambda random: random.randint(20, 280)
    assert 16 <= fmean(sizes(traffic, 1500, model)[300:]) <= 21


def test_window_comes_down_from_too_many() -> None:
    """Started at 64, which is four times too much: down within some hundred answers."""
    assert fmean(sizes(Traffic(Random(1)), 1500, settings=WindowSettings(initial=64))[600:]) <= 20


@pytest.mark.parametrize("noise", [0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_noise_does_not_make_it_collapse(noise: float, seed: int) -> None:
    """First bytes off by a factor of 1.6 or 2.7: the window stays over ten."""
    assert min(sizes(Traffic(Random(seed), noise=noise), 2000)[300:]) > 10


@pytest.mark.parametrize("factor", [0.1, 0.3, 3.0, 10.0])
@pytest.mark.parametrize("streamed", [1.0, 0.0])
def test_window_stands_a_change_of_speed(streamed: float, factor: float) -> None:
    """An engine that is suddenly much slower or faster still has sixteen slots."""
    engine, window, seen = VirtualEngine(SIXTEEN), Window(), []
    for size, now in Traffic(Random(2), streamed).run(engine, window, 2000):
        if not window.looking_back:
            seen.append(size)
        if len(seen) == 600:
            engine.slower(factor, now)
    assert min(seen[600:]) > 10
    assert max(seen[600:]) <= 32
    assert 16 <= fmean(seen[-500:]) <= 21


def test_window_does_not_grow_when_nobody_needs_it() -> None:
    """Six calls at a time fit into the eight that it begins with; nothing says that more would."""
    assert set(sizes(Traffic(Random(1), most=6), 500)) == {8}


def response_s(settings: WindowSettings | None, rate: float) -> float:
    """Return the seconds from arrival to answer when calls arrive at random, so many a second, and wait their turn."""
    random, engine, window = Random(1), VirtualEngine(SIXTEEN), Window(settings)
    traffic, now = Traffic(random), 0.0
    to_come = deque(accumulate(random.expovariate(rate) for _ in range(2000)))
    held: deque[float] = deque()
    sent: dict[int, tuple[Sent, float]] = {}
    took = []
    while to_come or held or sent:
        now = min(engine.next_s, to_come[0] if to_come else inf)
        if to_come and now == to_come[0]:
            held.append(to_come.popleft())
        else:
            for flight in engine.proceed():
                token, arrived_s = sent.pop(id(flight))
                took.append(now - arrived_s)
                tokens = flight.call.prompt_tokens, flight.call.generated
                window.answered(token, Answered(now - flight.sent_s, flight.first_byte_s, *tokens))
        while held and window.free:
            flight = engine.send(traffic.prompts(random), traffic.outputs(random), now)
            sent[id(flight)] = window.sent(), held.popleft()
    return fmean(took)


def test_window_does_not_hold_calls_that_the_engine_has_room_for() -> None:
    """At half of what the engine can take, random arrivals take 5 % longer at most than without a window."""
    assert response_s(None, 3.5) <= 1.05 * response_s(WindowSettings(fixed=10_000), 3.5)


def test_answers_in_one_piece_that_are_all_alike_teach_nothing() -> None:
    """Wait and work cannot be told apart: it stays where it began."""
    assert set(sizes(Traffic(Random(1), streamed=0.0, outputs=lambda random: 100), 500)) == {8}


def test_fixed_window_learns_nothing() -> None:
    """Whoever knows better has the last word."""
    assert set(sizes(Traffic(Random(1)), 300, settings=WindowSettings(fixed=5))) == {5}


def test_free_places_are_what_is_left_of_the_window() -> None:
    """Calls that leave without an answer make room as well."""
    window = Window(WindowSettings(initial=4))
    sent = [window.sent() for _ in range(5)]
    assert (window.in_flight, window.free) == (5, 0)
    window.left()
    window.answered(sent[0], Answered(1.0, 0.1, 100))
    assert (window.in_flight, window.free) == (3, 1)


times = st.floats(0, 1e4)
answers = st.builds(Answered, times, st.none() | times, st.integers(0, 10**6), st.integers(0, 10**5))


@given(answers=st.lists(answers, max_size=300), together=st.integers(1, 40))
def test_window_stays_within_its_bounds(answers: list[Answered], together: int) -> None:
    """Whatever is measured."""
    window = Window(WindowSettings(initial=8, least=4, most=24, memory=64))
    for batch in _batches(answers, together):
        sent = [window.sent() for _ in batch]
        for one, answer in zip(sent, batch, strict=True):
            window.answered(one, answer)
            assert 2 <= window.slots <= 24
            assert window.looking_back or window.slots >= 4
    assert window.in_flight == 0


def _batches(answers: list[Answered], together: int) -> Iterator[list[Answered]]:
    for at in range(0, len(answers), together):
        yield answers[at : at + together]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fixed": 0}, "fixed must be at least 1, got 0"),
        ({"least": 1}, "least, initial and most must be ascending from 2, got 1, 8 and 512"),
        ({"low": 0.3}, "low and high must be between 0 and 1, got 0.3 and 0.2"),
        ({"memory": 5}, "memory must be at least 16, got 5"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    """The message names the setting."""
    with pytest.raises(ConfigurationError, match=message):
        WindowSettings(**wrong)  # type: ignore[arg-type]
