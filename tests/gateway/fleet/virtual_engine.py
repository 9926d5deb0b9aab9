"""The simulator's engine as a gateway sees one that is not ours: calls go in, first bytes and answers come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from math import inf
from random import Random

from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.gateway.fleet.window import Answered, Sent, Window
from autellix_server.scheduling.levels import Levels
from autellix_server.scheduling.planner import Planner
from autellix_server.scheduling.policies import make_policy
from autellix_server.scheduling.table import ActiveCall, Program
from autellix_server.simulator.engine import SimEngine
from autellix_server.simulator.model import EngineModel, make_model
from autellix_server.simulator.programs import SimCall, SimProgram
from tests.simulator.worlds import FakeCall, FakeProgram

SIXTEEN = replace(make_model("a100-8b"), slots=16)
"""A GPU of the simulator's presets with sixteen slots."""


@dataclass
class Flight:
    """A call in the engine."""

    sent_s: float
    call: SimCall
    first_byte_s: float | None = None


class VirtualEngine:
    """A first-come-first-served engine in virtual time. `slower` stretches all that it does from now on."""

    def __init__(self, model: EngineModel) -> None:
        self._engine = SimEngine("e", model, Planner(make_policy("fcfs", Levels(()))), self._done)
        self._numbers = count()
        self._flights: dict[int, Flight] = {}
        self._ended: list[tuple[Flight, float]] = []
        # Engine time and the world's, of which the latter may go slower.
        self._origin = (0.0, 0.0)
        self._stretch = 1.0

    @property
    def next_s(self) -> float:
        """When something happens next; ``inf``: never."""
        return inf if self._engine.next_s == inf else self._world_s(self._engine.next_s)

    def slower(self, factor: float, now: float) -> None:
        """Take `factor` times as long as at first for everything."""
        self._origin = (self._engine_s(now), now)
        self._stretch = factor

    def send(self, prompt_tokens: int, output_tokens: int, now: float) -> Flight:
        """Let a call in."""
        name = str(next(self._numbers))
        trace = FakeCall(name, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
        program, _ = SimProgram.start(ProgramId(name), FakeProgram(name, (trace,)), self._engine_s(now))
        context = CallContext(program.id, "s", 0, CallId(name))
        active = ActiveCall(context, Program(program.id, None, now, now), now, 0.0, 0.0)
        call = SimCall(
            context=context,
            arrived_s=self._engine_s(now),
            prompt_tokens=prompt_tokens,
            program=program,
            trace=trace,
            active=active,
            path_s=0.0,
        )
        flight = self._flights[id(call)] = Flight(now, call)
        self._engine.arrive(call, self._engine_s(now))
        return flight

    def proceed(self) -> list[Flight]:
        """Go on to `next_s`; return the calls that are answered then."""
        now = self.next_s
        self._ended.clear()
        self._engine.proceed()
        for flight in self._flights.values():
            if flight.first_byte_s is None and flight.call.generated:
                flight.first_byte_s = now - flight.sent_s
        for flight, _ in self._ended:
            del self._flights[id(flight.call)]
        return [flight for flight, _ in self._ended]

    def _done(self, call: SimCall, now: float) -> None:
        self._ended.append((self._flights[id(call)], now))

    def _world_s(self, engine_s: float) -> float:
        return self._origin[1] + (engine_s - self._origin[0]) * self._stretch

    def _engine_s(self, world_s: float) -> float:
        return self._origin[0] + (world_s - self._origin[1]) / self._stretch


@dataclass
class Traffic:
    """Calls without end, as many as the window lets in.

    Attributes:
        streamed: share of the calls that are streamed.
        noise: logarithmic deviation of the times that are measured.
        most: calls that there are at a time, whatever the window.
        prompts, outputs: draw lengths.
    """

    random: Random
    streamed: float = 1.0
    noise: float = 0.0
    most: int = 10_000
    prompts: Callable[[Random], int] = lambda random: round(random.lognormvariate(5.2, 0.8)) + 1
    outputs: Callable[[Random], int] = lambda random: round(random.expovariate(1 / 150)) + 1

    def run(self, engine: VirtualEngine, window: Window, calls: int, now: float = 0.0) -> Iterator[tuple[int, float]]:
        """Yield the window and the time after each of so many answers."""
        flights: dict[int, Sent] = {}
        streamed: dict[int, bool] = {}
        done = 0
        while done < calls:
            while window.free and len(flights) < self.most:
                flight = engine.send(self.prompts(self.random), self.outputs(self.random), now)
                flights[id(flight)], streamed[id(flight)] = window.sent(), self.random.random() < self.streamed
            now = engine.next_s
            for flight in engine.proceed():
                done += 1
                window.answered(flights.pop(id(flight)), self._answered(flight, now, streamed.pop(id(flight))))
                yield window.slots, now

    def _answered(self, flight: Flight, now: float, streamed: bool) -> Answered:
        noise = self.random.lognormvariate(0.0, self.noise) if self.noise else 1.0
        assert flight.first_byte_s is not None
        first_s, total_s = flight.first_byte_s * noise, now - flight.sent_s
        total_s += first_s - flight.first_byte_s
        call = flight.call
        return Answered(total_s, first_s if streamed else None, call.prompt_tokens, call.generated)
