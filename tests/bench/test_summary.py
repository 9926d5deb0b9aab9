"""Rounds summed up: by the definitions of the simulator, and nothing silently left out."""

from __future__ import annotations

import pytest
from bench_world import B, answered, bill, ran, round_of

from autellix_server.bench.plan import ALONE
from autellix_server.bench.records import ProgramRecord
from autellix_server.bench.summary import by_arm_and_pace, causes_of, sum_up


def test_token_latency_is_response_time_by_tokens() -> None:
    """Tools are in completion, not in response; repetitions are pooled."""
    calls = (answered(1.0), answered(2.0, tokens=20, asked=20))
    one = ProgramRecord(0, "chat", 0.0, 5.0, 3.0, calls)
    result = sum_up([round_of(one), round_of(ran(0, 2.0), repeat=1)], seed=0)
    assert result.everything is not None
    assert one.token_latency_s == pytest.approx(0.1)
    assert result.everything.token_latency_s.mean == pytest.approx((0.1 + 0.2) / 2)
    assert result.everything.completion_s.mean == pytest.approx((5.0 + 2.0) / 2)
    assert one.tool_s == 2.0
    assert (result.rounds, result.everything.programs, result.everything.calls) == (2, 2, 3)


def test_warm_up_runs_and_does_not_count() -> None:
    """Throughput has all programs, latency only those that count."""
    result = sum_up([round_of(ran(0, 9.0), ran(1, 1.0), counted=frozenset({1}), span_s=4.0)], seed=0)
    assert result.everything is not None
    assert result.everything.programs == 1
    assert result.everything.token_latency_s.mean == pytest.approx(0.1)
    assert result.programs_per_s == pytest.approx(0.5)
    assert result.tokens_per_s == pytest.approx(5.0)


def test_failures_are_counted_by_reason_and_their_times_left_out() -> None:
    """A server that drops work is not faster for it."""
    failed = [ran(number, 50.0, calls=(), failure="status 500: broken") for number in (1, 2)]
    result = sum_up([round_of(ran(0, 1.0), *failed, ran(3, calls=(), failure="cut off"))], seed=0)
    assert result.failures == {"status 500: broken": 2, "cut off": 1}
    assert result.failed == 3
    assert result.everything is not None
    assert result.everything.completion_s.p99 == 1.0


def test_when_everything_fails_there_is_still_a_result() -> None:
    """It says so."""
    result = sum_up([round_of(ran(0, calls=(), failure="x"))], seed=0)
    assert (result.everything, result.kinds, result.client, result.failed) == (None, {}, None, 1)


def test_kinds_are_told_apart_and_fairness_is_jains() -> None:
    """One program with all the latency makes the index 1/n."""
    result = sum_up([round_of(ran(0, 0.0, kind="chat"), ran(1, 8.0, kind="react"))], seed=0)
    assert list(result.kinds) == ["chat", "react"]
    assert result.everything is not None
    assert result.everything.fairness == pytest.approx(0.5)


def test_waiting_is_queueing_by_the_bill_or_time_to_the_first_token() -> None:
    """Whichever the server lets us know."""
    billed = ran(0, calls=(answered(4.0, first_s=3.0, bill=bill(500_000, 2_000_000)),))
    bare = ran(1, calls=(answered(4.0, first_s=3.0),))
    assert billed.longest_wait_s == pytest.approx(0.5)
    assert bare.longest_wait_s == pytest.approx(3.0)


def test_time_by_cause_adds_up_to_calls_and_tools() -> None:
    """What no bill explains has a name."""
    billed = ran(0, 4.0, tool_s=1.0, calls=(answered(4.0, bill=bill(500_000, 2_000_000)),))
    result = sum_up([round_of(billed, ran(1, 3.0))], seed=0)
    assert result.time_s["queued: admission"] == pytest.approx(0.5)
    assert result.time_s["decode"] == pytest.approx(2.0)
    assert result.time_s["network and client"] == pytest.approx(1.5)
    assert result.time_s["without a bill"] == pytest.approx(3.0)
    assert sum(result.time_s.values()) == pytest.approx(4.0 + 3.0 + 1.0)
    assert (result.billed_calls, result.calls) == (1, 2)
    assert causes_of([result]) == ["queued: admission", "decode", "without a bill", "network and client", "tool"]


def test_lengths_are_verified() -> None:
    """Too short, just right, unknown."""
    calls = (answered(tokens=9, asked=10), answered(), answered(tokens=None))
    result = sum_up([round_of(ran(0, calls=calls))], seed=0)
    assert (result.lengths_off, result.lengths_unknown) == (1, 1)
    assert ran(0, calls=calls).tokens == 29
    assert result.prompt_ratio == pytest.approx(1.0)


@pytest.mark.parametrize(("lag_s", "cpu_s", "distorts"), [(0.001, 1.0, False), (0.1, 1.0, True), (0.001, 9.0, True)])
def test_a_client_that_is_late_or_busy_is_noticed(lag_s: float, cpu_s: float, distorts: bool) -> None:
    """Lag by the latency of calls, processor time by the time of the round."""
    result = sum_up([round_of(ran(0, calls=(answered(1.0, lag_s=lag_s),)), cpu_s=cpu_s, span_s=10.0)], seed=0)
    assert result.client is not None
    assert result.client.lag_max_s == lag_s
    assert result.client.cpu_share == pytest.approx(cpu_s / 10)
    assert result.client.distorts is distorts


def test_interrupted_rounds_are_told_from_whole_ones() -> None:
    """By the programs that are missing."""
    result = sum_up([round_of(ran(0)), round_of(ran(0), repeat=1, planned=5)], seed=0)
    assert (result.rounds, result.interrupted) == (2, 1)


def test_rounds_are_grouped_by_arm_and_pace() -> None:
    """Repetitions together, the unloaded run by itself."""
    rounds = [round_of(ran(0)), round_of(ran(0), arm=B), round_of(ran(0), repeat=1), round_of(ran(0), pace=ALONE)]
    assert [len(found) for found in by_arm_and_pace(rounds).values()] == [2, 1, 1]
