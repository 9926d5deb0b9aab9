"""The engine model, by hand: what steps cost, who waits for what, what preemption and the prefix cache do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from worlds import MODEL, FakeCall, FakeProgram, at_once, chain

from autellix_sdk.errors import ConfigurationError
from autellix_server.scheduling.levels import Levels
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.simulator.model import EngineModel, make_model
from autellix_server.simulator.programs import Arrival, SimProgram
from autellix_server.simulator.run import Simulation, SimulationSettings

EVERY_STEP = PlannerSettings(steps_between_plans=1, spares=0, max_overtakes=None)


def run(
    arrivals: list[Arrival], model: EngineModel = MODEL, policy: str = "fcfs", planner: PlannerSettings = EVERY_STEP
) -> dict[str, SimProgram]:
    """Run on one engine that plans at every step; return programs by the name in their trace."""
    settings = SimulationSettings(model, policy, Levels((2.5,)), planner=planner)
    return {program.id.rsplit(".", 1)[0]: program for program in Simulation(settings, arrivals).run()}


def test_one_call_takes_one_prefill_and_its_decode_steps() -> None:
    """The prompt's step gives the first token; four tokens take four steps of one second."""
    program = run(at_once(chain("a", 4)))["a"]
    assert program.response_s == 4.0
    assert (program.times.prefill_s, program.times.decode_s, program.times.queued_s) == (1.0, 3.0, 0.0)


def test_step_time_counts_prompts_calls_and_kv() -> None:
    """1 + 10 * 0.1 for the prompt; then 1 + 0.5 + (11 and 12 tokens) * 0.01 for each of two tokens."""
    model = replace(MODEL, prefill_token_s=0.1, decode_sequence_s=0.5, kv_token_s=0.01)
    assert run(at_once(chain("a", 3)), model)["a"].response_s == pytest.approx(2.0 + 1.61 + 1.62)


def test_long_prompt_is_computed_in_chunks() -> None:
    """25 tokens in chunks of 10 are three steps; the second and third read what is there."""
    model = replace(MODEL, chunk_tokens=10, prefix_token_s=0.01)
    program = run(at_once(chain("a", 1, prompt=25)), model)["a"]
    assert program.response_s == pytest.approx(3.0 + 0.1 + 0.2)


def test_prompts_share_a_chunk_in_order_of_admission() -> None:
    """Two prompts of 6 with chunks of 10: the second ends a step later, and the first waits for it to decode."""
    programs = run(at_once(chain("a", 2, prompt=6), chain("b", 2, prompt=6)), replace(MODEL, chunk_tokens=10))
    assert [programs[name].response_s for name in "ab"] == [3.0, 3.0]
    assert programs["a"].times.batch_s == 1.0
    assert programs["b"].times.prefill_s == 2.0


def test_third_call_waits_for_a_slot() -> None:
    """First come, first served on two slots: the third starts when the first is done."""
    programs = run(at_once(chain("a", 2), chain("b", 5), chain("c", 1)))
    assert programs["c"].times.admission_s == 2.0
    assert programs["c"].response_s == 3.0
    assert programs["b"].times.batch_s == 1.0  # the step of c's prompt


def test_spare_takes_the_place_of_a_finished_call_between_plans() -> None:
    """With a plan every eight steps a queue would wait for it; the spare has its prompt done and joins at once."""
    arrivals = at_once(chain("a", 3), chain("b", 20), chain("c", 3))
    without = run(arrivals, planner=PlannerSettings(steps_between_plans=8, spares=0))
    spared = run(arrivals, planner=PlannerSettings(steps_between_plans=8, spares=1))
    assert without["c"].response_s == 8.0 + 3.0
    assert spared["c"].response_s == 3.0 + 2.0


def test_child_starts_when_all_parents_and_their_tools_are_done() -> None:
    """Parents end at 2 and 4 and their tools at 12 and 9; the child runs from 12 to 13."""
    calls = (
        FakeCall("l", output_tokens=2, tool_seconds=10.0),
        FakeCall("r", thread=1, output_tokens=4, tool_seconds=5.0),
        FakeCall("j", parents=("l", "r"), output_tokens=1),
    )
    program = run(at_once(FakeProgram("p", calls)))["p"]
    assert program.completion_s == 13.0
    assert program.response_s == 3.0  # the path through l: 2 and 1
    assert program.tool_s == 10.0


def test_call_released_by_a_step_is_seen_by_the_plan_at_its_end() -> None:
    """Without a tool a program goes on at once: two calls of two steps take four seconds."""
    assert run(at_once(chain("a", 2, 2)))["a"].completion_s == 4.0


def test_arrival_is_seen_at_the_end_of_the_step_under_way() -> None:
    """Arriving at 2.3 it is planned at 3 and done a step later."""
    programs = run([Arrival(0.0, chain("a", 9)), Arrival(2.3, chain("b", 1))])
    assert programs["b"].ended_s == 4.0
    assert programs["b"].times.admission_s == pytest.approx(0.7)


def test_next_call_reuses_the_history_of_its_program() -> None:
    """The second prompt has 24 tokens, 14 of which the first call left behind."""
    program = run(at_once(chain("a", 4, 4)), replace(MODEL, prefill_token_s=0.1))["a"]
    assert program.counts.cached_tokens == 14
    assert program.times.prefill_s == pytest.approx(2 * (1.0 + 1.0))


@pytest.mark.parametrize(("host_tokens", "found", "swap_s"), [(0, 7, 0.0), (100, 14, 3.5)])
def test_history_is_lost_to_those_used_later(host_tokens: int, found: int, swap_s: float) -> None:
    """A pool of 42 tokens: while the first program is away, another one's 35 tokens leave 7 of its history of 14.

    Where there is a host, the others come back from it, at 2 tokens a second.
    """
    model = replace(MODEL, kv_tokens=42, slots=1, host_tokens=host_tokens, kv_bytes_per_token=1, link_bytes_per_s=2.0)
    away = chain("a", 4, 4, tool_s=50.0)
    programs = run([Arrival(0.0, away), Arrival(10.0, chain("b", 5, prompt=30))], model)
    assert programs["a"].counts.cached_tokens == found
    assert programs["a"].times.swap_s == swap_s
    assert run(at_once(away), model)["a"].counts.cached_tokens == 14


@pytest.mark.parametrize(
    ("policy", "hold_s", "held"), [("program-fcfs", 60.0, True), ("program-fcfs", 5.0, False), ("fcfs", 60.0, False)]
)
def test_history_is_held_from_calls_that_are_not_better(policy: str, hold_s: float, held: bool) -> None:
    """While a is away, b's 60 tokens fit beside c only without a's history.

    A policy that goes by programs lets b wait, for as long as it is told; b came later.
    """
    model = replace(MODEL, kv_tokens=130, host_tokens=0)
    arrivals = [
        *at_once(chain("c", 60, prompt=50), chain("a", 2, 2, tool_s=50.0)),
        Arrival(10.0, chain("b", 5, prompt=60)),
    ]
    programs = run(arrivals, model, policy, replace(EVERY_STEP, hold_s=hold_s))
    assert (programs["a"].counts.cached_tokens == 12) is held
    assert (programs["b"].ended_s > 54.0) is held


def test_better_call_preempts_and_the_victim_resumes_where_it_was() -> None:
    """PLAS with a bound of 2.5 s on one slot: a leaves after three steps, and comes back without computing again."""
    arrivals = [Arrival(0.0, chain("a", 6)), Arrival(2.5, chain("b", 2))]
    programs = run(arrivals, replace(MODEL, slots=1), policy="plas")
    assert programs["b"].ended_s == 5.0
    assert programs["a"].ended_s == 8.0
    assert programs["a"].counts.preemptions == 1
    assert programs["a"].counts.recomputed_tokens == 0
    assert programs["a"].times.retraction_s == 2.0
    assert programs["a"].times.prefill_s + programs["a"].times.decode_s == 6.0


def preempted(host_tokens: int) -> dict[str, SimProgram]:
    """A call of 13 tokens is preempted by one that needs all memory; KV moves at 2 tokens a second."""
    model = replace(MODEL, slots=1, kv_tokens=32, host_tokens=host_tokens, kv_bytes_per_token=1, link_bytes_per_s=2.0)
    arrivals = [Arrival(0.0, chain("a", 6)), Arrival(2.5, chain("b", 2, prompt=28))]
    return run(arrivals, model, policy="plas", planner=EVERY_STEP)


def test_victim_moves_to_the_host_when_its_room_is_needed() -> None:
    """13 tokens go out beside the computation; to bring them back takes 6.5 s, which is a's swap time."""
    programs = preempted(host_tokens=100)
    assert programs["a"].counts.swapped_tokens == 13
    assert programs["a"].counts.recomputed_tokens == 0
    assert programs["b"].ended_s == 3.0 + 2.0
    assert programs["a"].times.swap_s == 6.5
    assert programs["a"].ended_s == programs["b"].ended_s + 6.5 + 3.0


def test_memory_pressure_preempts_the_worse_call_and_it_is_computed_again_without_a_host() -> None:
    """Two calls outgrow a pool of 42 tokens; the later one loses its KV and computes it again."""
    model = replace(MODEL, kv_tokens=42, host_tokens=0)
    programs = run(at_once(chain("a", 12), chain("b", 12)), model)
    assert programs["a"].counts.preemptions == 0
    assert programs["b"].counts.preemptions == 1
    assert programs["b"].counts.recomputed_tokens > 0
    assert programs["b"].times.prefill_s == 2.0
    assert (programs["a"].tokens, programs["b"].tokens) == (12, 12)


def test_call_that_no_engine_can_hold_is_refused() -> None:
    """It would wait for ever; the message names it."""
    with pytest.raises(ConfigurationError, match=r"call 0 of program a has 9000 prompt and 2000 output tokens"):
        run(at_once(chain("a", 2000, prompt=9000)))


def test_model_refuses_values_out_of_range() -> None:
    """The message names the value's name."""
    with pytest.raises(ConfigurationError, match="slots of an engine model is out of range: 0"):
        replace(MODEL, slots=0)
    with pytest.raises(ConfigurationError, match="unknown preset 'tpu'; choose one of: a100-8b, h100-8b, cpu-smollm2"):
        make_model("tpu")


def test_cpu_preset_gives_the_measured_rates() -> None:
    """17, 114 and 135 tokens/s at 1, 16 and 32 calls, at contexts of 150 tokens, within 5 %."""
    model = make_model("cpu-smollm2")
    for calls, rate in ((1, 17), (16, 114), (32, 135)):
        assert calls / model.decode_steps_s(1, calls, 150 * calls) == pytest.approx(rate, rel=0.05)
