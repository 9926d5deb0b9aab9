"""The line in front of an engine without a planner of ours: its calls wait here, as many as it should have go in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from autellix_sdk.wire import ProgramId
from autellix_server.gateway.fleet.holding import Holding
from autellix_server.gateway.fleet.window import Answered, Sent, Window
from autellix_server.gateway.refusal import Refused
from autellix_server.scheduling.call import Call

_FULL_RETRY_S = 10


class Line:
    """Holds calls and lets them go, see `holding` and `window`. One event loop.

    Args:
        holding: orders the calls.
        window: says how many the engine may have.
        clock: seconds, never going back.
    """

    def __init__(self, holding: Holding, window: Window, clock: Callable[[], float]) -> None:
        self._holding = holding
        self._window = window
        self._clock = clock
        self._waiting: dict[Call, asyncio.Future[Sent]] = {}
        self._sent: dict[Call, Sent] = {}

    @property
    def held(self) -> int:
        """Calls that wait here."""
        return self._holding.held

    @property
    def window(self) -> int:
        """Calls that the engine may have at a time."""
        return self._window.slots

    async def enter(self, call: Call) -> None:
        """Wait until the call may be sent; a wait that is cancelled leaves nothing behind.

        Raises:
            Refused: too many wait already.
        """
        if not self._holding.arrive(call, self._clock()):
            message = f"{self.held} calls wait for this engine already"
            raise Refused(429, message, "too_many_waiting", kind="rate_limit_error", retry_after_s=_FULL_RETRY_S)
        turn = self._waiting[call] = asyncio.get_running_loop().create_future()
        self._release()
        try:
            self._sent[call] = await turn
        except BaseException:
            # It may have got its turn while it was cancelled.
            if self._waiting.pop(call, None) is None:
                self._window.left()
            self._holding.left(call, self._clock())
            self._release()
            raise

    def answered(self, call: Call, answered: Answered) -> None:
        """Take out a call that was answered, and charge its time in the engine to its level."""
        self._window.answered(self._sent.pop(call), answered)
        self._holding.finished(call, answered.total_s, self._clock())
        self._release()

    def left(self, call: Call) -> None:
        """Take out a call that was sent and is gone without an answer."""
        del self._sent[call]
        self._window.left()
        self._holding.left(call, self._clock())
        self._release()

    def program_ended(self, program: ProgramId, program_class: str, service_s: float) -> None:
        """Let the policy learn from a program that ended, see `Planner.program_ended`."""
        self._holding.program_ended(program, program_class, service_s, self._clock())

    def _release(self) -> None:
        for call in self._holding.release(self._clock(), self._window.free):
            turn, sent = self._waiting.pop(call), self._window.sent()
            if not turn.done():  # Else its wait was cancelled, and it gives its place back as soon as it runs.
                turn.set_result(sent)
