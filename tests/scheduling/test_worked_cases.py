"""Cases small enough to be worked out by hand."""

from __future__ import annotations

import pytest
from small_engine import SmallEngine

from autellix_server.scheduling.levels import Levels
from autellix_server.scheduling.policies import POLICIES, make_policy

FIGURE_2 = {"a": (4, 3, 1, 1), "b": (3, 3, 4), "c": (1, 2), "d": (4,)}
"""Autellix, Figure 2: batch of two, all programs there at time 0."""

LEVELS = Levels((1.0, 2.0, 4.0, 8.0))


def run(policy: str) -> SmallEngine:
    """Figure 2 under a policy."""
    engine = SmallEngine(make_policy(policy, LEVELS), FIGURE_2, slots=2)
    engine.run()
    return engine


def test_figure_2_under_fcfs_waits_18() -> None:
    """The schedule, two slots: a1 0-4, b1 0-3, c1 3-4, d1 4-8, b2 4-7, a2 7-10, c2 8-10, b3 10-14, a3 10-11, a4 11-12.

    Waits: c1 3, d1 4, b2 1, a2 3, c2 4, b3 3.
    """
    engine = run("fcfs")
    assert engine.waited_s == {"a": 3.0, "b": 4.0, "c": 7.0, "d": 4.0}
    assert sum(engine.waited_s.values()) == 18.0
    assert engine.finished_s == {"a": 12, "b": 14, "c": 10, "d": 8}


@pytest.mark.parametrize("policy", ["plas", "atlas", "atlas-dag"])
def test_figure_2_by_attained_service_waits_14(policy: str) -> None:
    """In the paper PLAS waits 12, with levels and quanta that it does not give; here bounds are 1, 2, 4 and 8 s.

    The schedule: a1 b1 0-1, c1 d1 1-2, a1 b1 2-3, d1 c2 3-4, a1 b1 4-5, a1 d1 5-6, d1 c2 6-7, b2 a2 7-10, a3 10-11,
    b3 10-14, a4 11-12. Waits: a 1 + 1 and, before a2, 1; b 1 + 1 and, before b2, 2; c 1 and then 1 + 2; d 1 + 1 + 1.
    """
    engine = run(policy)
    assert engine.waited_s == {"a": 3.0, "b": 4.0, "c": 4.0, "d": 3.0}
    assert engine.finished_s == {"a": 12, "b": 14, "c": 7, "d": 7}


def test_figure_2_waits_least_when_the_future_is_known() -> None:
    """Mean completion under SRPT is at most that of any policy."""
    completion = {name: sum(run(name).finished_s.values()) for name in POLICIES}
    assert completion["srpt"] == min(completion.values())


def test_a_long_call_does_not_block_short_ones_under_mlfq() -> None:
    """One slot, one call of 8 s and, behind it, one of 1 s: the long one leaves its level after 1 s.

    MLFQ: long 0-1, short 1-2, long 2-9. FCFS: long 0-8, short 8-9.
    """
    programs = {"long": (8,), "short": (1,)}
    mlfq = SmallEngine(make_policy("mlfq", LEVELS), programs, slots=1)
    fcfs = SmallEngine(make_policy("fcfs", LEVELS), programs, slots=1)
    assert (mlfq.run(), fcfs.run()) == (2.0, 8.0)
    assert mlfq.finished_s == {"long": 9, "short": 2}


def test_a_long_program_does_not_come_back_ahead_of_a_new_one_under_plas() -> None:
    """One slot; a program of many short calls, and one of a single call of 2 s.

    MLFQ starts each short call at the top: many 0-1, one 1-2 (its quantum), many 2-6, one 6-7. PLAS sends the second
    short call to the level of its program: many 0-1, one 1-2, many 2-3 (quantum of the second level is 1 s), then one
    has come first in that level: 3-4.
    """
    programs = {"many": (1, 1, 1, 1, 1), "one": (2,)}
    mlfq = SmallEngine(make_policy("mlfq", LEVELS), programs, slots=1)
    plas = SmallEngine(make_policy("plas", LEVELS), programs, slots=1)
    mlfq.run()
    plas.run()
    assert mlfq.finished_s == {"many": 6, "one": 7}
    assert plas.finished_s["one"] < mlfq.finished_s["one"]


def test_program_fcfs_finishes_what_it_began() -> None:
    """One slot, two programs of two calls: the first one's second call goes before the second one's first."""
    engine = SmallEngine(make_policy("program-fcfs", LEVELS), {"a": (2, 2), "b": (2, 2)}, slots=1)
    engine.run()
    assert engine.finished_s == {"a": 4, "b": 8}
