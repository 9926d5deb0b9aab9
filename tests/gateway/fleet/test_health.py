"""The circuit breaker: what opens it, how long, and what closes it."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.errors import ConfigurationError
from autellix_server.gateway.fleet.health import Breaker, BreakerSettings, BreakerState, back_off_s

PLAIN = BreakerSettings(jitter=0.0)


def fail(breaker: Breaker, now: float, times: int = 1) -> None:
    """So many calls are sent and fail."""
    for _ in range(times):
        breaker.failed(breaker.sent(now), "it did not answer", now)


def answer(breaker: Breaker, now: float, first_byte_s: float = 0.1) -> None:
    """A call is sent and answered."""
    breaker.answered(breaker.sent(now), first_byte_s, now)


def opened(settings: BreakerSettings = PLAIN) -> Breaker:
    """A breaker that opened at 100 s."""
    breaker = Breaker("e0", settings)
    fail(breaker, 100.0, settings.consecutive)
    assert breaker.state(100.0) is BreakerState.OPEN
    return breaker


def test_three_failures_in_a_row_open_it() -> None:
    """Not two, and an answer between them starts the count again."""
    breaker = Breaker("e0", PLAIN)
    fail(breaker, 0.0, 2)
    answer(breaker, 0.0)
    fail(breaker, 0.0, 2)
    assert breaker.admits(0.0)
    fail(breaker, 0.0)
    assert (breaker.state(0.0), breaker.admits(0.0)) == (BreakerState.OPEN, False)
    assert breaker.reason == "it did not answer"


def test_every_other_call_that_fails_opens_it() -> None:
    """Half of at least ten calls in the last 30 seconds."""
    breaker = Breaker("e0", PLAIN)
    for second in range(5):
        assert breaker.state(second) is BreakerState.CLOSED
        answer(breaker, second)
        fail(breaker, second)
    assert breaker.state(4) is BreakerState.OPEN


def test_failures_are_forgotten_after_the_window() -> None:
    """A failure every 20 seconds among answers never opens it."""
    breaker = Breaker("e0", PLAIN)
    for second in range(0, 2000, 10):
        answer(breaker, second)
        answer(breaker, second)
        if second % 20 == 0:
            fail(breaker, second)
        assert breaker.state(second) is BreakerState.CLOSED


def test_slow_answers_fail_by_a_stated_limit_only() -> None:
    """Without one an hour is not too long: prompts may wait."""
    patient, strict = Breaker("e0", PLAIN), Breaker("e0", BreakerSettings(slow_s=5.0))
    for _ in range(3):
        answer(patient, 0.0, first_byte_s=3600.0)
        answer(strict, 0.0, first_byte_s=5.1)
    assert patient.state(0.0) is BreakerState.CLOSED
    assert strict.state(0.0) is BreakerState.OPEN
    assert strict.reason == "a first byte took 5.1 s"


def test_half_open_lets_one_call_try() -> None:
    """Its answer closes the breaker for all."""
    breaker = opened()
    assert not breaker.admits(100.9)
    assert breaker.state(101.0) is BreakerState.HALF_OPEN
    era = breaker.sent(101.0)
    assert not breaker.admits(101.5)
    breaker.answered(era, 0.1, 101.6)
    assert (breaker.state(101.6), breaker.admits(101.6)) == (BreakerState.CLOSED, True)


def test_back_off_doubles_up_to_the_cap() -> None:
    """One second, two, four, ... a minute; ready again after a whole window without trouble."""
    breaker, now, waits = opened(), 100.0, []
    for _ in range(8):
        waits.append(breaker.back_off_ends_s(now) - now)
        now = breaker.back_off_ends_s(now)
        fail(breaker, now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    now = breaker.back_off_ends_s(now)
    answer(breaker, now)
    fail(breaker, now + 29, 3)
    assert breaker.back_off_ends_s(now + 29) == now + 29 + 60
    now = breaker.back_off_ends_s(now + 29)
    answer(breaker, now)
    fail(breaker, now + 30, 3)
    assert breaker.back_off_ends_s(now + 30) == now + 30 + 1


def test_call_on_trial_whose_client_leaves_makes_way() -> None:
    """It says nothing about the engine; so does one that hangs, after a while."""
    breaker = opened()
    breaker.left(breaker.sent(101.0))
    assert breaker.admits(101.0)
    breaker.sent(101.0)
    assert not breaker.admits(130.9)
    assert breaker.admits(131.0)


def test_calls_from_before_say_nothing_afterwards() -> None:
    """A stream that breaks off late does not open again what a trial has closed, nor does an old answer close it."""
    breaker = Breaker("e0", PLAIN)
    old = [breaker.sent(99.0) for _ in range(4)]
    fail(breaker, 100.0, 3)
    breaker.answered(old[0], 2.0, 101.0)
    assert breaker.state(101.0) is BreakerState.HALF_OPEN
    answer(breaker, 101.0)
    for era in old[1:]:
        breaker.failed(era, "cut short", 102.0)
    assert breaker.state(102.0) is BreakerState.CLOSED


def test_probes_open_and_close_it() -> None:
    """Three that fail in a row; after the back-off one that is good."""
    breaker = Breaker("e0", PLAIN)
    for _ in range(3):
        breaker.probed("status 503", 0.0)
    assert breaker.reason == "probe: status 503"
    breaker.probed(None, 0.5)
    assert breaker.state(0.5) is BreakerState.OPEN
    breaker.probed(None, 1.0)
    assert breaker.state(1.0) is BreakerState.CLOSED


def test_good_probes_do_not_make_up_for_calls_that_fail() -> None:
    """An engine whose health endpoint answers may still fail every call."""
    breaker = Breaker("e0", PLAIN)
    for _ in range(3):
        breaker.probed(None, 0.0)
        fail(breaker, 0.0)
    assert breaker.state(0.0) is BreakerState.OPEN


def test_probe_that_fails_at_half_open_opens_again() -> None:
    """For longer."""
    breaker = opened()
    breaker.probed("no connection", 101.0)
    assert breaker.back_off_ends_s(101.0) == 103.0


@given(engine=st.text(max_size=8), openings=st.integers(1, 2000))
def test_jitter_is_the_engines_own_and_only_shortens(engine: str, openings: int) -> None:
    """By a fifth at most, and the same each time."""
    settings = BreakerSettings()
    full = min(60.0, 2.0 ** min(openings - 1, 60))
    assert 0.8 * full <= back_off_s(settings, engine, openings) <= full
    assert back_off_s(settings, engine, openings) == back_off_s(settings, engine, openings)


def test_engines_come_back_at_different_times() -> None:
    """Ten that failed together."""
    assert len({back_off_s(BreakerSettings(), f"e{index}", 3) for index in range(10)}) == 10


happenings = ["sent", "answered", "failed", "left", "good", "bad"]
events = st.lists(
    st.tuples(
        st.sampled_from(["sent", "answered", "failed", "left", "good", "bad"]), st.floats(0, 20), st.integers(0, 9)
    ),
    max_size=80,
)


@given(seen=events)
def test_it_always_comes_back(seen: list[tuple[str, float, int]]) -> None:
    """Whatever happens: open means nothing goes there, and after the longest back-off somebody may try."""
    breaker, now, eras = Breaker("e0"), 0.0, [0]
    for event, wait_s, which in seen:
        now += wait_s
        era = eras[which % len(eras)]
        if event == "sent":
            eras.append(breaker.sent(now))
        elif event == "answered":
            breaker.answered(era, 0.1, now)
        elif event == "failed":
            breaker.failed(era, "no answer", now)
        elif event == "left":
            breaker.left(era)
        else:
            breaker.probed(None if event == "good" else "no answer", now)
        assert breaker.admits(now) <= (breaker.state(now) is not BreakerState.OPEN)
        assert breaker.back_off_ends_s(now) - now <= 60.0
        assert breaker.admits(now + 61.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"consecutive": 0}, "consecutive must be positive, got 0"),
        ({"back_off_s": 90.0}, "back_off_cap_s must be at least back_off_s, got 60.0 and 90.0"),
        ({"jitter": 1.5}, "jitter must be at most 1, got 1.5"),
        ({"slow_s": -inf}, "slow_s must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    """The message names the setting."""
    with pytest.raises(ConfigurationError, match=message):
        BreakerSettings(**wrong)  # type: ignore[arg-type]
