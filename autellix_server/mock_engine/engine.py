"""The mock engine without its HTTP: calls come in as tokens and leave with their words and their bill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autellix_sdk.bill import CallBill
from autellix_sdk.errors import UsageError
from autellix_sdk.wire import ProgramId
from autellix_server.mock_engine.accounts import Account, Accounts, wall_bill
from autellix_server.mock_engine.clock import Clock
from autellix_server.mock_engine.driver import Driver, LiveCall
from autellix_server.mock_engine.prefix import PrefixIndex
from autellix_server.mock_engine.requests import Ask
from autellix_server.mock_engine.tokens import answer_words, count, text_tokens
from autellix_server.scheduling.bounds import BoundsInUse
from autellix_server.scheduling.planner import Planner
from autellix_server.scheduling.policies import make_policy
from autellix_server.scheduling.table import Program
from autellix_server.simulator.engine import SimEngine, usable_kv_tokens
from autellix_server.simulator.programs import SimCall, SimProgram
from autellix_server.simulator.run import SimulationSettings

PACE_S = 0.005
"""Tokens of streams are looked for no more often than this, in wall seconds."""

_US = 1_000_000


@dataclass(slots=True)
class Counters:
    """What the engine has seen since it started.

    Attributes:
        calls: calls that came in.
        completed: calls that were done.
        aborted: calls whose client left, or that a fault cut short.
    """

    calls: int = 0
    completed: int = 0
    aborted: int = 0


@dataclass(frozen=True, slots=True)
class CallShape:
    """A call as the simulator's traces describe it; what it shares is looked up whenever the engine asks."""

    id: str
    thread: int
    prompt_tokens: int
    output_tokens: int
    prompt: bytes
    program: ProgramId
    index: PrefixIndex
    parents: tuple[str, ...] = ()
    tool_seconds: float | None = None

    @property
    def shared_prefix_tokens(self) -> int:
        """Tokens at the beginning of the prompt that a completed call of the program had."""
        return self.index.shared_tokens(self.program, self.prompt)


@dataclass(frozen=True, slots=True)
class ProgramShape:
    """The program of one call: the simulator is told of no more than that."""

    program_id: str
    kind: str
    calls: tuple[CallShape, ...]


@dataclass(eq=False, slots=True)
class RunningCall:
    """One call in the engine. Made by `MockEngine.arrive`; `MockEngine.leave` it in any case.

    Attributes:
        live: tells when there are more tokens, and when all are there.
        account: who it is.
        ask: what it asked for.
        words: its answer.
        arrived_s: when its request began, in wall time.
        entered_s: when it entered the engine, in wall time.
        booked: it was finished or has left.
    """

    live: LiveCall
    account: Account
    ask: Ask
    words: Sequence[str]
    arrived_s: float
    entered_s: float
    booked: bool = False

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were found in the prefix cache; known when the first token is there."""
        return self.live.call.counts.cached_tokens


class MockEngine:
    """The simulator's engine, planner and policy in real time. One event loop; `run` must be running.

    Args:
        settings: engine model, policy, levels and planner; the number of engines and the balancer do not matter.
        clock: virtual time.
        speed: virtual seconds per wall second, as the clock has it.
        name: of the engine, in bills.
        secret: shared with the gateway; `None` when there is none.
    """

    def __init__(
        self, settings: SimulationSettings, clock: Clock, *, speed: float, name: str, secret: bytes | None = None
    ) -> None:
        self.clock = clock
        self.counters = Counters()
        self.settings = settings
        self._prefixes = PrefixIndex()
        self._accounts = Accounts(make_policy(settings.policy, settings.levels), speed, secret, self._program_ended)
        self._planner = Planner(make_policy(settings.policy, settings.levels), settings.planner)
        self._usable = usable_kv_tokens(settings.model, settings.planner)
        self._driver = Driver(
            clock, lambda on_complete: SimEngine(name, settings.model, self._planner, on_complete), PACE_S * speed
        )

    async def run(self) -> None:
        """Compute for ever; to be cancelled."""
        await self._driver.run()

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return self._planner.waiting

    @property
    def running(self) -> int:
        """Calls that run."""
        return self._planner.running

    @property
    def bounds(self) -> BoundsInUse:
        """The bounds of the levels, in virtual seconds."""
        return self._planner.bounds

    @property
    def pinned_tokens(self) -> int:
        """KV tokens that running calls hold."""
        return self._driver.engine.kv.pinned

    @property
    def programs(self) -> int:
        """Programs that live."""
        return len(self._accounts.table)

    def arrive(self, headers: Mapping[str, str], ask: Ask, arrived_s: float) -> RunningCall:
        """Let a call come in.

        Args:
            headers: request headers, in a mapping that ignores case.
            ask: what is asked for.
            arrived_s: when the request began, in wall time.

        Raises:
            UsageError: the engine cannot hold so many tokens.
        """
        prompt_tokens = count(ask.prompt)
        if prompt_tokens + ask.output_tokens > self._usable:
            raise UsageError(
                f"{prompt_tokens} prompt tokens and {ask.output_tokens} of the answer are more than the "
                f"{self._usable} that this engine holds; shorten the prompt or lower max_tokens"
            )
        self.counters.calls += 1
        now = self._driver.settle()
        account = self._accounts.arrive(headers, now.virtual_s)
        call = self._sim_call(account, ask, prompt_tokens, now.virtual_s)
        live = self._driver.submit(call, now.virtual_s, streams=ask.stream)
        return RunningCall(live, account, ask, answer_words(ask.output_tokens, ask.seed), arrived_s, now.wall_s)

    def finish(self, running: RunningCall) -> CallBill:
        """Book a call that is done, and return its bill, in wall time."""
        call, now = running.live.call, self.clock.read()
        running.booked = True
        self.counters.completed += 1
        program = running.account.context.program
        self._prefixes.add(program, running.ask.prompt + text_tokens(" ".join(running.words)))
        self._accounts.complete(running.account, call, now.virtual_s)
        rate = (now.wall_s - running.entered_s) / (now.virtual_s - call.arrived_s)
        return wall_bill(call, rate, now.wall_s - running.arrived_s)

    def leave(self, running: RunningCall) -> None:
        """Abort a call that is not finished: its client left. Its program is charged nothing."""
        if not running.booked:
            running.booked = True
            self.counters.aborted += 1
            self._driver.abort(running.live)
            self._accounts.complete(running.account, None, self.clock.read().virtual_s)

    def flush(self) -> bool:
        """Forget every prefix, unless calls are in the engine; return whether it was done."""
        if self.waiting or self.running:
            return False
        self._prefixes.clear()
        return True

    def _sim_call(self, account: Account, ask: Ask, prompt_tokens: int, now: float) -> SimCall:
        context = account.context
        kind = context.name or ""
        shape = CallShape(
            id=context.call,
            thread=context.thread,
            prompt_tokens=prompt_tokens,
            output_tokens=ask.output_tokens,
            prompt=ask.prompt,
            program=context.program,
            index=self._prefixes,
        )
        program, _ = SimProgram.start(context.program, ProgramShape(context.program, kind, (shape,)), now)
        return SimCall(
            context=context,
            arrived_s=now,
            prompt_tokens=prompt_tokens,
            base_service_s=account.base_service_s,
            tenant=account.tenant,
            base_wait_s=account.base_wait_s,
            program_class=kind,
            program=program,
            trace=shape,
            active=account.active,
            path_s=0.0,
            engine=self._driver.engine.name,
        )

    def _program_ended(self, row: Program) -> None:
        self._prefixes.forget(row.id)
        # Of a call whose client left there is nothing to learn.
        if row.service_us:
            now = self._driver.settle().virtual_s
            self._driver.engine.program_ended(row.id, row.name or "", row.service_us / _US, now)
