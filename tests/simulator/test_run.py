"""Whole runs: nothing is lost, the same seed gives the same result, and known answers come out."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import MODEL, FakeProgram, at_once, chain, largest_context, random_model, random_program

from autellix_sdk.errors import ConfigurationError
from autellix_server.scheduling.levels import Levels
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.scheduling.policies import POLICIES
from autellix_server.simulator.programs import SimCall, SimProgram, poisson_arrivals
from autellix_server.simulator.run import Simulation, SimulationSettings, bill_of, levels_for

EVERY_STEP = PlannerSettings(steps_between_plans=1, spares=0, max_overtakes=None)


class CallLog:
    """Notes every call that a simulation finishes, before it does."""

    def __init__(self, simulation: Simulation) -> None:
        self.calls: list[tuple[SimCall, float]] = []
        for engine in simulation._engines.values():
            self._inner, engine._on_complete = engine._on_complete, self

    def __call__(self, call: SimCall, now: float) -> None:
        """Note, then do."""
        self.calls.append((call, now))
        self._inner(call, now)


def random_simulation(seed: int, policy: str) -> tuple[Simulation, list[FakeProgram]]:
    """A small random run under pressure."""
    random = Random(seed)
    traces = [random_program(f"p{index}", random) for index in range(random.randint(1, 12))]
    model = random_model(random, largest_context(traces))
    simulated = SimulationSettings(
        model, policy, levels_for(model, traces), engines=random.randint(1, 3), planner=PlannerSettings(beta=1.0)
    )
    return Simulation(simulated, poisson_arrivals(traces, random.uniform(0.2, 20), random)), traces


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nothing_is_lost(policy: str, seed: int) -> None:
    """Every call is done exactly once with all its tokens, its time adds up, and children start after their parents."""
    simulation, traces = random_simulation(seed, policy)
    log = CallLog(simulation)
    programs = simulation.run()
    done = {(call.program.id, call.trace.id): (call, now) for call, now in log.calls}
    assert len(done) == len(log.calls) == sum(len(trace.calls) for trace in traces)
    assert sum(program.tokens for program in programs) == sum(
        call.output_tokens for trace in traces for call in trace.calls
    )
    for call, now in log.calls:
        assert call.generated == call.output_tokens
        assert call.times.total_s == pytest.approx(now - call.arrived_s, abs=1e-9)
        assert min(getattr(call.times, part) for part in call.times.__slots__) > -1e-9
        for parent in call.trace.parents:
            before, ended_s = done[call.program.id, parent]
            assert call.arrived_s >= ended_s + (before.trace.tool_seconds or 0.0) - 1e-12
    for program in programs:
        assert program.response_s <= program.completion_s + 1e-9


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_memory_is_conserved(policy: str, seed: int) -> None:
    """When all is done nothing is pinned, parked or on the host, and never was there more than the pool holds."""
    simulation, _ = random_simulation(seed, policy)
    simulation.run()
    for engine in simulation._engines.values():
        kv = engine.kv
        assert (kv.pinned, kv.shared, kv.held, kv.parked, kv.host.calls_tokens) == (0, 0, 0, 0, 0)
        assert kv.cached == sum(kv._cached.values()) <= kv.tokens
        assert engine.calls == 0
    assert len(simulation._table) == 0


def fingerprint(programs: list[SimProgram]) -> list[tuple[str, float, float, int]]:
    """What a run ended with."""
    return [(program.id, program.ended_s, program.response_s, program.counts.preemptions) for program in programs]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_same_seed_same_result(policy: str) -> None:
    """Bit by bit."""
    first, second = (random_simulation(5, policy)[0].run() for _ in range(2))
    assert fingerprint(first) == fingerprint(second)


def test_same_seed_gives_the_same_arrivals_stretched() -> None:
    """Rates can be compared in pairs: at twice the rate everything arrives in half the time."""
    traces = [chain(f"p{index}", 1) for index in range(50)]
    slow, fast = (poisson_arrivals(traces, rate, Random(3)) for rate in (1.0, 2.0))
    assert [arrival.at_s for arrival in slow] == pytest.approx([2 * arrival.at_s for arrival in fast])


def test_single_server_waits_as_queueing_theory_says() -> None:
    """M/D/1 at load 0.8: the mean wait is load / (2 (1 - load)) services, and waiting for the step's end adds none.

    One slot and calls of one step of one second: a server with fixed service. 10,000 calls put the mean within 10 %.
    """
    load = 0.8
    traces = [chain(f"p{index}", 1) for index in range(10_000)]
    settings_ = SimulationSettings(replace(MODEL, slots=1), "fcfs", Levels(()), planner=EVERY_STEP)
    programs = Simulation(settings_, poisson_arrivals(traces, load, Random(1))).run()
    mean_wait_s = sum(program.times.queued_s for program in programs) / len(programs)
    assert mean_wait_s == pytest.approx(load / (2 * (1 - load)), rel=0.1)


def figure_2(policy: str) -> float:
    """Return the total wait of the paper's programs A{4,3,1,1} B{3,3,4} C{1,2} D{4} on two slots, all at time 0."""
    programs = at_once(chain("a", 4, 3, 1, 1), chain("b", 3, 3, 4), chain("c", 1, 2), chain("d", 4))
    # A chunk for all prompts and no cost for them: a call of n tokens takes n steps of one second when alone.
    simulated = SimulationSettings(MODEL, policy, Levels((1.5, 3.5, 6.5)), planner=EVERY_STEP)
    return sum(program.times.queued_s for program in Simulation(simulated, programs).run())


def test_plas_waits_less_than_fcfs_in_the_papers_example() -> None:
    """Figure 2, with the prompt steps of a real engine in between: what matters is the order of the policies."""
    assert figure_2("plas") < figure_2("fcfs")


def test_programs_keep_to_their_engine_only_when_calls_are_long() -> None:
    """Algorithm 2: prompts over 2048 tokens pin and find their history; with round robin half of it is elsewhere."""
    traces = [chain(f"p{index}", 5, 5, 5, 5, prompt=2100) for index in range(9)]
    model = replace(MODEL, slots=8, kv_tokens=100_000, chunk_tokens=8192)

    def cached(balancer: str) -> int:
        simulated = SimulationSettings(model, "fcfs", engines=2, balancer=balancer)
        return sum(program.counts.cached_tokens for program in Simulation(simulated, at_once(*traces)).run())

    everything = sum(call.shared_prefix_tokens for trace in traces for call in trace.calls)
    assert cached("autellix") == cached("hash") == cached("prefix") == everything
    assert cached("round-robin") < everything


def test_moved_program_is_billed_for_what_is_computed_again() -> None:
    """One of two engines is soon done: some programs of the other one move there and leave their histories behind."""
    traces = [chain(f"p{index}", *(3 * [1 if index % 2 else 40]), prompt=2100) for index in range(16)]
    model = replace(MODEL, kv_tokens=200_000, chunk_tokens=8192)
    simulation = Simulation(SimulationSettings(model, "fcfs", engines=2), at_once(*traces))
    log = CallLog(simulation)
    simulation.run()
    moved = [call for call, _ in log.calls if call.moved]
    assert moved
    for call in moved:
        again = call.trace.shared_prefix_tokens - call.counts.cached_tokens
        assert bill_of(call).recomputed_tokens == again > 0


def test_two_engines_take_twice_the_programs() -> None:
    """Sixteen alike programs on two slots each: eight at a time against four rounds of two."""
    traces = [chain(f"p{index}", 4) for index in range(16)]

    def makespan(engines: int) -> float:
        simulated = SimulationSettings(MODEL, "fcfs", engines=engines, balancer="least-used", planner=EVERY_STEP)
        return max(program.ended_s for program in Simulation(simulated, at_once(*traces)).run())

    assert makespan(2) == makespan(1) / 2


def test_class_names_can_be_kept_from_policies() -> None:
    """Judging policies with and without them is part of the evaluation."""
    for told in (True, False):
        simulated = SimulationSettings(MODEL, "fcfs", class_names=told)
        simulation = Simulation(simulated, at_once(chain("a", 1, kind="react")))
        log = CallLog(simulation)
        simulation.run()
        assert log.calls[0][0].program_class == ("react" if told else "")


def test_settings_refuse_what_cannot_run() -> None:
    """The messages name the setting."""
    with pytest.raises(ConfigurationError, match="engines must be at least 1, got 0"):
        SimulationSettings(MODEL, "fcfs", engines=0)
    with pytest.raises(ConfigurationError, match="kv_tokens of the engine model is 20: too few"):
        SimulationSettings(replace(MODEL, kv_tokens=20), "fcfs")
    with pytest.raises(ConfigurationError, match="unknown policy"):
        Simulation(SimulationSettings(MODEL, "sjf"), [])
