"""The gateway's side: a desk for one worker."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict
from typing import Any

from autellix_server.gateway.desk import Reads, Report
from autellix_server.gateway.dispatch import Dispatcher
from autellix_server.gateway.fleet.interruption import Interruption
from autellix_server.gateway.refusal import Refused, unavailable
from autellix_server.gateway.ticket import Ticket
from autellix_server.gateway.workers.messages import (
    Message,
    address_of,
    data_of,
    encode,
    failure,
    report_of,
    request_of,
    text,
    told,
)

_log = logging.getLogger(__name__)

_LOOK_PERIOD_S = 0.2


class ServedDesk:
    """Decides for one worker, for as long as it is connected; when it goes, its calls are over.

    Args:
        dispatcher: decides.
        reader, writer: the socket, which is closed in the end.
    """

    def __init__(self, dispatcher: Dispatcher, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._dispatcher = dispatcher
        self._reader = reader
        self._writer = writer
        self._calls: dict[int, _ServedCall] = {}
        self._asked: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answer until the worker goes."""
        telling = asyncio.create_task(self._tell())
        try:
            while line := await self._reader.readline():
                self._hear(json.loads(line))
        except (ConnectionError, ValueError):
            pass  # It died, at worst within a line.
        finally:
            telling.cancel()
            tasks = [*self._asked, *(call.task for call in self._calls.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.close()

    async def _tell(self) -> None:
        """Tell the worker what it must read of requests, whenever that changes."""
        said: Reads | None = None
        while True:
            if said != self._dispatcher.reads:
                said = self._dispatcher.reads
                self._say({"reads": asdict(said)})
            await asyncio.sleep(_LOOK_PERIOD_S)

    def _say(self, message: Message) -> None:
        self._writer.write(encode(message))

    def _hear(self, message: Message) -> None:
        number, do = message["call"], message["do"]
        if do == "admit" and self._dispatcher.reads.models and not message["reads_models"]:
            # Whether it names a model is not known: it was read before the worker was told.
            self.answer(number, do, failure(unavailable("the engines have just changed")))
        elif do == "admit":
            self._calls[number] = _ServedCall(self, number, message["request"])
        elif do == "resources":
            task = asyncio.create_task(self._resources(number, message["headers"], message["model"]))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
        elif do == "failed":
            self._dispatcher.failed(address_of(message["address"]))
        elif call := self._calls.get(number):
            if do == "close":
                call.close(report_of(message["report"]))
            else:
                call.orders.put_nowait(message)
        elif do != "close":
            self.answer(number, do, failure(unavailable("the call has ended")))

    async def _resources(self, number: int, headers: dict[str, str], model: str | None) -> None:
        try:
            engines = await self._dispatcher.resources(headers, model)
        except Refused as refusal:
            self.answer(number, "resources", failure(refusal))
        else:
            self.answer(number, "resources", {"engines": [told(engine) for engine in engines]})

    async def admit(self, request: Message) -> Ticket:
        """Admit a worker's call, see `Dispatcher.admit`."""
        return await self._dispatcher.admit(request_of(request))

    def answer(self, number: int, did: str, message: Message) -> None:
        """Answer what was asked about a call."""
        self._say({"call": number, "did": did, **message})

    def interrupt(self, number: int, reason: Interruption) -> None:
        """Pass the interruption of a call on."""
        self._say({"call": number, **failure(reason)})

    def forget(self, number: int) -> None:
        """Forget a call that is over."""
        self._calls.pop(number, None)


class _ServedCall:
    """A worker's call. The task stands for the one in the worker: an interruption reaches it, and is passed on."""

    def __init__(self, desk: ServedDesk, number: int, request: Message) -> None:
        self.orders: asyncio.Queue[Message] = asyncio.Queue()
        self._desk = desk
        self._number = number
        self._report = Report()
        self.task = asyncio.create_task(self._run(request))
        self.task.add_done_callback(self._ended)

    async def _run(self, request: Message) -> None:
        try:
            ticket = await self._desk.admit(request)
        except (Refused, Interruption) as error:
            self._desk.answer(self._number, "admit", failure(error))
            return
        try:
            self._placed(ticket, "admit")
            while True:
                await self._obey(ticket)
        finally:
            ticket.close(self._report)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._desk.forget(self._number)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a call has failed in the gateway", exc_info=error)
            self._desk.interrupt(self._number, Interruption("the gateway failed", "internal_error", retryable=True))

    def close(self, report: Report) -> None:
        """End the call, whatever it waits for."""
        self._report = report
        self.task.cancel()

    def _placed(self, ticket: Ticket, did: str) -> None:
        place = {"address": told(ticket.address), "headers": ticket.headers, "priority": ticket.priority}
        self._desk.answer(self._number, did, place)

    async def _obey(self, ticket: Ticket) -> None:
        """Carry out the worker's next order."""
        try:
            with ticket.interruptible():
                order: dict[str, Any] = await self.orders.get()
        except Interruption as reason:
            self._desk.interrupt(self._number, reason)
            return
        if order["do"] == "settle":
            settled = await ticket.settle(data_of(order["bill"]) or b"")
            self._desk.answer(self._number, "settle", {"settled": text(settled)})
        elif order["do"] == "move":
            try:
                await ticket.move(report_of(order["report"]))
            except (Refused, Interruption) as error:
                self._desk.answer(self._number, "move", failure(error))
            else:
                self._placed(ticket, "move")
