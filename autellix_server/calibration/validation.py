"""The proof: a few programs run on the engine in real time and on its model in virtual time, and are compared."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from autellix_server.calibration.client import Client
from autellix_server.calibration.probes import TOKEN_IDS, Limits
from autellix_server.simulator.call_graph import PendingCalls
from autellix_server.simulator.model import EngineModel
from autellix_server.simulator.programs import Arrival, poisson_arrivals
from autellix_server.simulator.results import mean
from autellix_server.simulator.run import Simulation, SimulationSettings
from autellix_server.traces.model import TraceCall, TraceProgram
from autellix_server.traces.prompts import PromptBook

_AT_ONCE = 3.0
"""Programs under way on average, were each as fast as if it were alone."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How programs fared.

    Attributes:
        token_latency_s: mean over programs of response time by tokens generated.
        makespan_s: from the first arrival to the last end.
    """

    token_latency_s: float
    makespan_s: float


@dataclass(frozen=True, slots=True)
class Validation:
    """The same programs on the engine and on its model.

    Attributes:
        programs, calls: how many.
        measured: on the engine.
        simulated: on the model.
    """

    programs: int
    calls: int
    measured: Outcome
    simulated: Outcome

    @property
    def token_latency_ratio(self) -> float:
        """Simulated over measured mean token latency."""
        return self.simulated.token_latency_s / self.measured.token_latency_s

    @property
    def makespan_ratio(self) -> float:
        """Simulated over measured makespan."""
        return self.simulated.makespan_s / self.measured.makespan_s


async def validate(client: Client, model: EngineModel, limits: Limits, programs: int, salt: str) -> Validation:
    """Run a mixed load on the server and on `model`.

    Args:
        client: the server.
        model: its model.
        limits: of the server.
        programs: how many, 1 or more.
        salt: decides lengths and arrivals, and keeps prompts apart from those of other runs.
    """
    arrivals = _arrivals(model, limits, programs, salt)
    measured = await replay(client, arrivals, salt)
    ended = _simulation(model, arrivals).run()
    simulated = Outcome(
        mean([program.token_latency_s for program in ended]),
        max(program.ended_s for program in ended) - arrivals[0].at_s,
    )
    return Validation(programs, sum(len(arrival.trace.calls) for arrival in arrivals), measured, simulated)


def check_model(model: EngineModel, limits: Limits, programs: int, salt: str) -> None:
    """Check that `validate` could simulate the load, whatever the coefficients of `model`; arguments as there.

    Raises:
        ConfigurationError: the model is too small.
    """
    _simulation(model, _arrivals(model, limits, programs, salt))


async def replay(client: Client, arrivals: Sequence[Arrival], salt: str) -> Outcome:
    """Run programs on the server: each call starts when those it waits for have ended and their gaps have passed."""
    begin_s = asyncio.get_running_loop().time() - arrivals[0].at_s
    runs = [_Run(client, arrival, begin_s, salt) for arrival in arrivals]
    await asyncio.gather(*(run.finish() for run in runs))
    return Outcome(mean([run.token_latency_s for run in runs]), max(run.ended_s for run in runs) - runs[0].arrives_s)


class _Run:
    """One program on the server."""

    def __init__(self, client: Client, arrival: Arrival, begin_s: float, salt: str) -> None:
        assert isinstance(arrival.trace, TraceProgram)
        self._client = client
        self._trace = arrival.trace
        self._prompts = PromptBook(arrival.trace, salt)
        self._pending = PendingCalls(arrival.trace.calls)
        self.arrives_s = begin_s + arrival.at_s
        self.ended_s = 0.0
        self._response_s = 0.0

    @property
    def token_latency_s(self) -> float:
        """Response time along the critical path by tokens generated."""
        return self._response_s / self._trace.output_tokens

    async def finish(self) -> None:
        """Run all calls."""
        await asyncio.gather(*(self._call(root, self.arrives_s, 0.0) for root in self._pending.roots))

    async def _call(self, call: TraceCall, at_s: float, path_s: float) -> None:
        await asyncio.sleep(at_s - asyncio.get_running_loop().time())
        answer = await self._client.complete(self._prompts.token_ids(call.id, TOKEN_IDS), call.output_tokens)
        path_s += answer.last_s - answer.sent_s
        if answer.last_s > self.ended_s:
            self.ended_s, self._response_s = answer.last_s, path_s
        released = self._pending.released_by(call, path_s, answer.last_s)
        await asyncio.gather(*(self._call(child, child_at_s, path_s) for child_at_s, path_s, child in released))


def _simulation(model: EngineModel, arrivals: Sequence[Arrival]) -> Simulation:
    return Simulation(SimulationSettings(model, "fcfs"), arrivals)


def _arrivals(model: EngineModel, limits: Limits, programs: int, salt: str) -> list[Arrival]:
    random = Random(salt)
    traces = [_program(index, model, limits, random) for index in range(programs)]
    return poisson_arrivals(traces, _AT_ONCE / mean([_alone_s(model, trace) for trace in traces]), random)


def _program(index: int, model: EngineModel, limits: Limits, random: Random) -> TraceProgram:
    """Return a chain of three calls or, every other time, a fork and a join; each call goes on from its parent's."""
    parents: Sequence[tuple[int, ...]] = ((), (0,), (1,)) if index % 2 == 0 else ((), (0,), (0,), (0,), (1, 2, 3))
    calls: list[TraceCall] = []
    for number, waits_for in enumerate(parents):
        shared = calls[waits_for[0]].prompt_tokens if waits_for else 0
        new = random.randint(1 + limits.long_tokens // 16, 1 + limits.long_tokens // 6)
        calls.append(
            TraceCall(
                id=str(number),
                parents=tuple(map(str, waits_for)),
                thread=number - 1 if len(waits_for) == 1 and index % 2 else 0,
                prompt_tokens=shared + new,
                shared_prefix_tokens=shared,
                output_tokens=random.randint(8, 24),
                tool_seconds=random.uniform(2, 20) * model.step_s,
            )
        )
    return TraceProgram(f"validation-{index}", "validation", "calibration", tuple(calls))


def _alone_s(model: EngineModel, trace: TraceProgram) -> float:
    """Return about how long a program's calls take one after the other on an idle engine."""
    return sum(
        model.prefill_step_s(call.new_tokens, call.shared_prefix_tokens)
        + model.decode_steps_s(call.output_tokens, 1, call.prompt_tokens)
        for call in trace.calls
    )
