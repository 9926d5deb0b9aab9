"""Many steps at once are exactly the same as one step at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_engine import StepEngine
from worlds import largest_context, random_model, random_program

from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.scheduling.policies import POLICIES
from autellix_server.simulator.engine import SimEngine
from autellix_server.simulator.model import PRESETS, EngineModel
from autellix_server.simulator.programs import SimProgram, poisson_arrivals
from autellix_server.simulator.run import Simulation, SimulationSettings, levels_for


def account(program: SimProgram) -> tuple[list[object], list[float]]:
    """Return what must be the same: counts exactly, times closely."""
    times, counts = program.times, program.counts
    exact = [program.id, program.calls, program.tokens, program.engine, counts]
    parts = [getattr(times, name) for name in times.__slots__]
    return exact, [program.ended_s, program.response_s, program.longest_wait_s, *parts]


def uneven(engine: Callable[..., Any]) -> Callable[..., Any]:
    """Build each engine a little slower than the last: alike, they end steps at the same time, and rounding decides."""

    def build(name: str, model: EngineModel, *rest: object) -> object:
        return engine(name, replace(model, step_s=model.step_s * (1 + 0.01 * int(name[1:]))), *rest)

    return build


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_jumps_change_nothing(policy: str, seed: int) -> None:
    """On random programs, engines and rates every program ends the same, to one part in a billion."""
    random = Random(seed)
    traces = [random_program(f"p{index}", random) for index in range(random.randint(1, 12))]
    model = random_model(random, largest_context(traces))
    simulated = SimulationSettings(
        model,
        policy,
        levels=levels_for(model, traces),
        engines=random.randint(1, 3),
        balancer=random.choice(["autellix", "least-used", "round-robin"]),
        planner=PlannerSettings(
            beta=random.choice([0.5, 4.0]),
            max_overtakes=random.choice([None, 3]),
            hold_s=random.choice([0.0, 0.5, 50.0]),
        ),
    )
    arrivals = poisson_arrivals(traces, random.uniform(0.2, 20), random)
    jumps = Simulation(simulated, arrivals, make_engine=uneven(SimEngine)).run()
    steps = Simulation(simulated, arrivals, make_engine=uneven(StepEngine)).run()
    for jumped, stepped in zip(jumps, steps, strict=True):
        (exact, close), (expected, times) = account(jumped), account(stepped)
        assert exact == expected
        assert close == pytest.approx(times, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("preset", sorted(PRESETS))
@given(calls=st.integers(1, 256), kv_tokens=st.integers(0, 400_000), steps=st.integers(1, 5000))
def test_steps_in_a_time_invert_the_time_of_steps(preset: str, calls: int, kv_tokens: int, steps: int) -> None:
    """The least number of steps that last as long as these are these."""
    model = PRESETS[preset]
    duration_s = model.decode_steps_s(steps, calls, kv_tokens)
    assert model.decode_steps_in(duration_s, calls, kv_tokens) == steps
    assert model.decode_steps_in(duration_s + model.step_s / 2, calls, kv_tokens) == steps + 1


def test_time_of_steps_is_their_sum() -> None:
    """The closed form against the loop, with growing contexts."""
    model = PRESETS["cpu-smollm2"]
    one_by_one = sum(model.decode_steps_s(1, 7, 500 + 7 * step) for step in range(100))
    assert model.decode_steps_s(100, 7, 500) == pytest.approx(one_by_one, rel=1e-12)
