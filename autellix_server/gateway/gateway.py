"""What one gateway is made of, put together: engines, program table, tenants, state, and all that listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from autellix_server.balancing.balancer import make_balancer
from autellix_server.engine.command import POLICY_OFF, is_planned
from autellix_server.engine.supervisor import EngineState, EngineStatus
from autellix_server.gateway.calls import CallLedger, new_id
from autellix_server.gateway.dispatch import Dispatcher
from autellix_server.gateway.fleet.fleet import Fleet
from autellix_server.gateway.fleet.holding import Holding
from autellix_server.gateway.fleet.line import Line
from autellix_server.gateway.fleet.specs import EngineSpec
from autellix_server.gateway.fleet.window import Window, WindowSettings
from autellix_server.gateway.recording import Recording, open_trace
from autellix_server.gateway.settings import ServeSettings
from autellix_server.gateway.state.learned import EndedHistory
from autellix_server.gateway.state.state import GatewayState
from autellix_server.gateway.telemetry.events import EngineChange, Listeners, StoreChange
from autellix_server.gateway.telemetry.lag import watch_lag
from autellix_server.gateway.telemetry.logs import CallLog
from autellix_server.gateway.telemetry.metrics import EngineSample, GatewaySample, Metrics
from autellix_server.gateway.telemetry.timeline import Timelines
from autellix_server.gateway.telemetry.tracing import open_tracing
from autellix_server.gateway.tenants.tenants import Tenants
from autellix_server.scheduling.planner import Planner, PlannerSettings
from autellix_server.scheduling.policies import make_policy
from autellix_server.scheduling.table import Program, ProgramTable, TableLimits

_UPKEEP_PERIOD_S = 1.0


class Gateway:
    """The parts of a gateway, which share one event loop; alive within `lifetime`.

    Args:
        settings: of the gateway.
        state: file that what it knows survives a restart in; `None`: it does not.
        environ: the environment: API keys, and where traces go.
        clock: seconds, never going back.

    Raises:
        ConfigurationError: keys, state file, trace to record or exporter of traces cannot be used.
    """

    def __init__(
        self,
        settings: ServeSettings,
        *,
        state: Path | None = None,
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.upkeep: Sequence[asyncio.Task[None]] = ()
        """What goes on within `lifetime`; when one of these ends the gateway is broken."""
        self.fleet = Fleet()
        self.metrics, self.timelines = Metrics(), Timelines()
        self._tracing = open_tracing(settings.host, settings.port, clock, environ)
        spans = [] if self._tracing is None else [self._tracing.spans]
        self.listeners = Listeners([self.metrics, CallLog(), self.timelines, *spans])
        self.tenants = Tenants(settings.keys_file, environ, clock)
        self._recording = None if settings.record_trace is None else Recording(open_trace(settings.record_trace))
        self.state = None if state is None else GatewayState(state, clock)
        self._history = EndedHistory() if self.state is None else self.state.history
        # With the policy off the table still counts calls.
        policy = make_policy("fcfs" if settings.policy == POLICY_OFF else settings.policy, settings.bounds.levels)
        on_change = (lambda row: None) if self.state is None else self.state.changed
        table = ProgramTable(policy, TableLimits(lease_s=settings.lease_s), self._program_ended, on_change)
        self.ledger = CallLedger(table, clock, self._recording)
        self.dispatcher = Dispatcher(
            self.fleet,
            self.ledger,
            make_balancer(settings.balancer),
            self.tenants,
            self.listeners,
            (lambda record: {}) if self._tracing is None else self._tracing.spans.headers,
        )
        self._restore()

    def make_line(self, spec: EngineSpec) -> Line | None:
        """Return the line in front of an engine without our planner; `None` where the policy orders nothing."""
        settings = self.settings
        if not is_planned(settings.policy):
            return None
        bounds = settings.bounds
        planner_settings = PlannerSettings(beta=settings.beta, hold_s=0.0, calibrated=bounds.calibrated)
        planner = Planner(make_policy(settings.policy, bounds.levels), planner_settings)
        return Line(Holding(planner), Window(WindowSettings(fixed=spec.window)), self.ledger.clock)

    def engine_changed(self, name: str, status: EngineStatus) -> None:
        """Take note of another status of an engine; one that has started is told what the last one had learned."""
        member = self.fleet.get(name)
        breaker = "closed" if member is None else member.breaker.state(self.ledger.clock())
        self.listeners.engine_changed(EngineChange(name, status.state, breaker, status.detail))
        if member is not None and status.state is EngineState.READY:
            member.ended.extend(self._history.programs(new_id))

    def sample(self) -> GatewaySample:
        """Return how the gateway is now, for its metrics."""
        now = self.ledger.clock()
        return GatewaySample(
            len(self.ledger.table),
            self.state is None or not self.state.health.degraded,
            [
                EngineSample(
                    member.name,
                    member.address is not None,
                    member.breaker.state(now),
                    len(member.calls) - (0 if member.line is None else member.line.held),
                    0 if member.line is None else member.line.held,
                    None if member.line is None else member.line.window,
                )
                for member in self.fleet
            ],
        )

    @asynccontextmanager
    async def lifetime(self) -> AsyncIterator[None]:
        """Keep what has to be kept while calls are served; the state file is written once more at the end."""
        async with AsyncExitStack() as stack:
            if self.state is not None:
                await stack.enter_async_context(asynccontextmanager(self.state.lifetime)())
            upkeep = [
                asyncio.create_task(self._keep_up()),
                asyncio.create_task(watch_lag(self.metrics.lagged, self.ledger.clock)),
            ]
            self.upkeep = [*upkeep, *([] if self.state is None else [self.state.writing])]
            try:
                yield
            finally:
                for task in upkeep:
                    task.cancel()
                await asyncio.gather(*upkeep, return_exceptions=True)
                self.ledger.close()
                self._put_learned()
                if self._tracing is not None:
                    await asyncio.to_thread(self._tracing.close)

    async def _keep_up(self) -> None:
        """End programs by lease, follow the file of keys, and hand over what was learned, about once a second."""
        healthy = True
        while True:
            await asyncio.sleep(_UPKEEP_PERIOD_S)
            self.ledger.expire()
            self.tenants.refresh()
            self._put_learned()
            if self.state is not None and healthy is self.state.health.degraded:
                healthy = not healthy
                self.listeners.noted(StoreChange(healthy, self.state.health.reason))

    def _program_ended(self, row: Program) -> None:
        self._history.add(row)
        for member in self.fleet:
            member.program_ended(row)
        if self._recording is not None:
            self._recording.ended(row)
        self.tenants.program_ended(row.id)
        self.listeners.program_ended(row)

    def _restore(self) -> None:
        if self.state is None:
            return
        table = self.ledger.table
        self.state.restore(table, self.ledger.clock())
        for row in table:
            self.tenants.count_program(row.id)
        self.dispatcher.estimate.restore(self.state.get(_BYTES_PER_TOKEN))

    def _put_learned(self) -> None:
        if self.state is not None:
            self.state.put(_BYTES_PER_TOKEN, self.dispatcher.estimate.learned())


_BYTES_PER_TOKEN = "bytes_per_token"
