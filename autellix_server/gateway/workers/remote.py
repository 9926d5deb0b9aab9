"""A worker's side: the desk is in another process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count

from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.desk import CallRequest, Reads, Report
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.refusal import Refused, unavailable
from autellix_server.gateway.workers.messages import (
    Message,
    address_of,
    asked,
    data_of,
    encode,
    error_of,
    reported,
    text,
    told,
    told_headers,
)

_GONE = "the gateway has stopped"


class RemoteDesk:
    """Asks the gateway; satisfies `desk.Desk`. Times are comparable between processes of one machine.

    Args:
        reader, writer: the socket.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = count()
        self._calls: dict[int, RemoteTicket] = {}
        self._gone = False
        self.reads = Reads()

    def clock(self) -> float:
        """Return the time."""
        return time.monotonic()

    async def run(self) -> None:
        """Take what the gateway says until it goes; then every call that waits for it is refused."""
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if "reads" in message:
                    self.reads = Reads(**message["reads"])
                elif call := self._calls.get(message["call"]):
                    call.hear(message)
        except (ConnectionError, ValueError):
            pass  # It has gone while it was told something, at worst within a line.
        finally:
            self._gone = True
            for call in self._calls.values():
                call.give_up()

    async def admit(self, request: CallRequest) -> RemoteTicket:
        """Take a call in, see `desk.Desk`."""
        ticket = self._open()
        try:
            await ticket.admitted(request)
        except BaseException:
            ticket.close(Report())
            raise
        return ticket

    async def resources(self, headers: Mapping[str, str], model: str | None) -> list[EngineAddress]:
        """Return the engines that may have something, see `desk.Desk`."""
        ticket = self._open()
        try:
            answer = await ticket.ask("resources", headers=told_headers(headers), model=model)
        finally:
            self.forget(ticket.number)
        return [address_of(engine) for engine in answer["engines"]]

    def failed(self, address: EngineAddress) -> None:
        """Note a failure, see `desk.Desk`."""
        self.say({"call": -1, "do": "failed", "address": told(address)})

    def _open(self) -> RemoteTicket:
        ticket = RemoteTicket(self, next(self._numbers))
        self._calls[ticket.number] = ticket
        return ticket

    def say(self, message: Message) -> bool:
        """Tell the gateway something; return whether it is there."""
        if not self._gone:
            self._writer.write(encode(message))
        return not self._gone

    def forget(self, number: int) -> None:
        """Forget a call that is over."""
        self._calls.pop(number, None)


class RemoteTicket:
    """One call; satisfies `desk.Ticket`. Made by `RemoteDesk.admit`."""

    address: EngineAddress
    headers: Mapping[str, str]
    priority: int | None

    def __init__(self, desk: RemoteDesk, number: int) -> None:
        self.number = number
        self._desk = desk
        self._task = asyncio.current_task()
        self._doing = ""
        self._answer: asyncio.Future[Message] | None = None
        self._interruption: Interruption | None = None

    async def admitted(self, request: CallRequest) -> None:
        """Wait until the call has an engine; raises as `move` does."""
        self._take(await self.ask("admit", request=asked(request), reads_models=self._desk.reads.models))

    async def move(self, report: Report) -> None:
        """Move to another engine, see `desk.Ticket`."""
        self._take(await self.ask("move", report=reported(report)))

    async def settle(self, bill: bytes) -> bytes | None:
        """Charge the engine's bill, see `desk.Ticket`."""
        try:
            return data_of((await self.ask("settle", bill=text(bill)))["settled"])
        except Refused:
            return None  # The gateway has gone; the answer goes on to its end.

    async def ask(self, do: str, **details: object) -> Message:
        """Ask the gateway about this call, and return its answer.

        Raises:
            Refused, Interruption: that is the answer; the gateway has gone; the call was interrupted meanwhile.
        """
        self._doing, self._answer = do, asyncio.get_running_loop().create_future()
        if not self._desk.say({"call": self.number, "do": do, **details}):
            raise unavailable(_GONE)
        with self.interruptible():
            answer = await self._answer
        if (error := error_of(answer)) is not None:
            raise error
        return answer

    def hear(self, message: Message) -> None:
        """Take what the gateway says about this call: the answer that is waited for, or an interruption."""
        waiting, reason = self._waiting, error_of(message)
        if "did" in message:
            # What was given up, because of an interruption, is answered all the same.
            if waiting is not None and message["did"] == self._doing:
                waiting.set_result(message)
        elif isinstance(reason, Interruption) and not (waiting and self._doing == "move" and reason.retryable):
            # That an engine is lost is no news to a call that is about to leave it.
            self._interrupt(reason)

    def give_up(self) -> None:
        """Wait no more for an answer: the gateway has gone."""
        if self._waiting is not None:
            self._waiting.set_exception(unavailable(_GONE))

    @property
    def _waiting(self) -> asyncio.Future[Message] | None:
        return None if self._answer is None or self._answer.done() else self._answer

    def _interrupt(self, reason: Interruption) -> None:
        if self._interruption is None and self._task is not None:
            self._interruption = reason
            self._task.cancel()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Work on the call inside, see `desk.Ticket`."""
        try:
            yield
        except asyncio.CancelledError:
            reason, self._interruption = self._interruption, None
            if reason is None or self._task is None or self._task.uncancel() > 0:
                raise
            raise reason from None

    def close(self, report: Report) -> None:
        """Take the call out, see `desk.Ticket`."""
        self._desk.say({"call": self.number, "do": "close", "report": reported(report)})
        self._desk.forget(self.number)

    def _take(self, answer: Message) -> None:
        self.address = address_of(answer["address"])
        self.headers = answer["headers"]
        self.priority = answer["priority"]
