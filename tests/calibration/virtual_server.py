"""A server whose every step takes exactly what an engine model says, on an event loop whose time is virtual."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from random import Random
from typing import Any, TypeVar

from autellix_server.calibration.client import Answer
from autellix_server.simulator.model import EngineModel

Result = TypeVar("Result")


class _JumpingSelector(selectors.SelectSelector):
    """Does not wait for time to pass: it is moved on."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Move on by `timeout`; nobody outside is waited for."""
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is to come")
        self.now_s += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which sleeping takes no time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._jumping.now_s


def run_virtually(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on a virtual loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@dataclass(eq=False)
class _Call:
    prompt: Sequence[int]
    output_tokens: int
    computed: int
    done: asyncio.Future[None]
    tokens: list[tuple[float, int]] = field(default_factory=list)

    @property
    def context_tokens(self) -> int:
        return len(self.prompt) + len(self.tokens)


class ModelServer:
    """A `Client` whose server is an engine model with a prefix cache. Prompts go before decodes.

    Args:
        model: what steps cost.
        request_s: what a call takes beside them.
        disturb: maps what a step should take to what it does.
        says_cached: whether answers say how much was cached.
    """

    def __init__(
        self,
        model: EngineModel,
        request_s: float = 0.0,
        disturb: Callable[[float], float] = lambda step_s: step_s,
        says_cached: bool = True,
    ) -> None:
        self._model = model
        self._request_s = request_s
        self._disturb = disturb
        self._says_cached = says_cached
        self._seen: list[Sequence[int]] = []
        self._waiting: list[_Call] = []
        self._running: list[_Call] = []
        self._engine: asyncio.Task[None] | None = None
        self.calls = 0

    async def complete(self, prompt: Sequence[int], output_tokens: int) -> Answer:
        """Answer as the engine would."""
        loop = asyncio.get_running_loop()
        sent_s = loop.time()
        self.calls += 1
        await asyncio.sleep(self._request_s)
        cached = min(max((_common(prompt, seen) for seen in self._seen), default=0), len(prompt) - 1)
        call = _Call(prompt, output_tokens, cached, loop.create_future())
        self._waiting.append(call)
        if self._engine is None or self._engine.done():
            self._engine = asyncio.create_task(self._work())
        await call.done
        return Answer(sent_s, tuple(call.tokens), cached if self._says_cached else None)

    async def _work(self) -> None:
        while self._waiting or self._running:
            while self._waiting and len(self._running) < self._model.slots:
                self._running.append(self._waiting.pop(0))
            unread = [call for call in self._running if call.computed < len(call.prompt)]
            if unread:
                await self._prefill(unread)
            else:
                kv_tokens = sum(call.context_tokens for call in self._running)
                await self._step(self._model.decode_steps_s(1, len(self._running), kv_tokens))
                self._produce(list(self._running))

    async def _prefill(self, calls: list[_Call]) -> None:
        budget, read = self._model.chunk_tokens, 0
        chunks = []
        for call in calls:
            tokens = min(budget, len(call.prompt) - call.computed)
            if not tokens:
                break
            chunks.append((call, tokens))
            budget -= tokens
            read += call.computed
        await self._step(self._model.prefill_step_s(self._model.chunk_tokens - budget, read))
        for call, tokens in chunks:
            call.computed += tokens
        self._produce([call for call, _ in chunks if call.computed == len(call.prompt)])

    async def _step(self, step_s: float) -> None:
        await asyncio.sleep(self._disturb(step_s))

    def _produce(self, calls: list[_Call]) -> None:
        now = asyncio.get_running_loop().time()
        for call in calls:
            call.tokens.append((now, len(call.tokens) + 1))
            if len(call.tokens) == call.output_tokens:
                self._running.remove(call)
                self._seen.append(call.prompt)
                call.done.set_result(None)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def noise(share: float, seed: int = 0) -> Callable[[float], float]:
    """Return what lets every step take up to `share` longer, by chance."""
    random = Random(seed)
    return lambda step_s: step_s * random.uniform(1, 1 + share)
