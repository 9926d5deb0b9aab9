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
from autellix_server.gateway.refusal import unavailable
from autellix_server.gateway.workers.messages import (
    Message,
    address_of,
    asked,
    data_of,
    encode,
    error_of,
    failure,
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
        except ConnectionError:
            pass  # It has gone while it was told something.
        finally:
            self._gone = True
            for call in self._calls.values():
                call.hear(failure(unavailable(_GONE)))

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
        if self._gone:
            raise unavailable(_GONE)
        ticket = RemoteTicket(self, next(self._numbers))
        self._calls[ticket.number] = ticket
        return ticket

    def say(self, message: Message) -> None:
        """Tell the gateway something."""
        if not self._gone:
            self._writer.write(encode(message))

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
        self._answer: asyncio.Future[Message] | None = None
        self._interruption: Interruption | None = None

    async def admitted(self, request: CallRequest) -> None:
        """Wait until the call has an engine; raises as `move` does."""
        self._take(await self.ask("admit", request=asked(request)))

    async def move(self, report: Report) -> None:
        """Move to another engine, see `desk.Ticket`."""
        self._take(await self.ask("move", report=reported(report)))

    async def settle(self, bill: bytes) -> bytes | None:
        """Charge the engine's bill, see `desk.Ticket`."""
        return data_of((await self.ask("settle", bill=text(bill))).get("settled"))

    async def ask(self, do: str, **details: object) -> Message:
        """Ask the gateway about this call, and return its answer.

        Raises:
            Refused, Interruption: that is the answer.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._desk.say({"call": self.number, "do": do, **details})
        answer = await self._answer
        if (error := error_of(answer)) is not None:
            raise error
        return answer

    def hear(self, message: Message) -> None:
        """Take what the gateway says about this call: the answer that is waited for, or an interruption."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(message)
        elif isinstance(reason := error_of(message), Interruption) and self._task is not None:
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
