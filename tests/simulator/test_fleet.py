"""Engines side by side: eight do the work of eight."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import islice
from random import Random

import pytest
from worlds import at_once

from autellix_server.simulator.model import make_model
from autellix_server.simulator.run import Simulation, SimulationSettings, levels_for
from autellix_server.traces.model import TraceProgram
from autellix_server.traces.workloads.registry import generate

MODEL = replace(make_model("a100-8b"), slots=32, kv_tokens=60_000, host_tokens=95_000)
"""An eighth of a GPU, so that an eighth of the programs keep it busy."""


@cache
def chats() -> tuple[TraceProgram, ...]:
    """Forty chats, what one engine gets."""
    return tuple(islice(generate("chat", 101), 40))


@cache
def tokens_per_s(engines: int, balancer: str) -> float:
    """Return what engines generate while all are busy: between a fifth and three fifths of the calls.

    The same programs run as many times as there are engines, all there from the start, in any order.
    """
    programs = list(chats() * engines)
    Random(1).shuffle(programs)
    settings = SimulationSettings(MODEL, "auto", levels_for(MODEL, chats()), engines, balancer)
    simulation, ends = Simulation(settings, at_once(*programs)), []
    for engine in simulation._engines.values():
        engine._on_complete = lambda call, now, done=engine._on_complete: (
            ends.append((now, call.output_tokens)),
            done(call, now),
        )
    simulation.run()
    ends.sort()
    busy = ends[len(ends) // 5 : 3 * len(ends) // 5]
    return sum(tokens for _, tokens in busy) / (busy[-1][0] - busy[0][0])


@pytest.mark.parametrize("engines", [2, 4, 8])
@pytest.mark.parametrize("balancer", ["affinity", "autellix", "prefix", "hash"])
def test_throughput_grows_with_the_engines(balancer: str, engines: int) -> None:
    """Linear within 10 %, under every balancer that keeps programs together."""
    assert tokens_per_s(engines, balancer) >= 0.9 * engines * tokens_per_s(1, balancer)


def test_engines_without_affinity_lose_histories() -> None:
    """What the others are good for: in turn, eight engines do the work of six."""
    assert tokens_per_s(8, "round-robin") < 0.8 * 8 * tokens_per_s(1, "round-robin")
