"""The load generator's connections: a request leaves when it is due, whatever became of those before it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from yarl import URL

from autellix_server.gateway_bench.wire import BadMessage, Marks, Message


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and what became of it.

    Attributes:
        due_s: when it is to leave, on the event loop's clock.
        request: as it goes over the wire.
        events: tokens that its answer must have.
        status: of the answer, 0 before its head is there.
        delays_s: for each token how long after it was due it came.
        ended_s: when the end of the answer came; `None`: not yet, or never.
        error: why there is no answer.
    """

    due_s: float
    request: bytes
    events: int
    status: int = 0
    delays_s: list[float] = field(default_factory=list)
    ended_s: float | None = None
    error: str = ""

    @property
    def good(self) -> bool:
        """It was answered, and completely."""
        return self.ended_s is not None and self.status == 200 and len(self.delays_s) == self.events

    @property
    def latency_s(self) -> float:
        """From when it was due to the end of its answer, which must have come."""
        assert self.ended_s is not None
        return self.ended_s - self.due_s


class _Connection(asyncio.Protocol):
    """A connection, for one exchange at a time."""

    def __init__(self, client: LoadClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def begin(self, exchange: Exchange) -> None:
        self._exchange, self._message, self._marks = exchange, Message(), Marks()
        self.transport.write(exchange.request)

    def data_received(self, data: bytes) -> None:
        now, exchange = self._loop.time(), self._exchange
        if exchange is None:
            self.transport.close()
            return
        try:
            body = self._message.feed(data)
        except BadMessage as error:
            self._end(exchange, str(error))
            return
        if body:
            exchange.delays_s += [now - due_s for due_s in self._marks.feed(body)]
        if self._message.whole:
            exchange.status, exchange.ended_s = int(self._message.head.split(b" ", 2)[1]), now
            self._end(exchange, "" if exchange.status == 200 else f"it is answered with {exchange.status}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost(self)
        if self._exchange is not None:
            self._end(self._exchange, f"the connection was closed: {exc or 'no reason'}")

    def _end(self, exchange: Exchange, error: str) -> None:
        exchange.error, self._exchange = error, None
        self._client.ended(self, keep=not error and not self._message.rest)


class LoadClient:
    """Sends exchanges to one server, over as many connections as are needed. One event loop.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        parsed = URL(url)
        self._address = (parsed.host or "", parsed.port or 80)
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._in_flight = 0
        self._settled = asyncio.Event()
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Exchanges that have begun and not ended."""
        return self._in_flight

    async def offer(self, exchanges: Iterable[Exchange]) -> None:
        """Begin exchanges when they are due, in that order; returns when the last has begun."""
        clock = asyncio.get_running_loop().time
        for exchange in exchanges:
            if (wait_s := exchange.due_s - clock()) > 0:
                await asyncio.sleep(wait_s)
            self.begin(exchange)

    def begin(self, exchange: Exchange) -> None:
        """Begin an exchange now."""
        self._in_flight += 1
        self._settled.clear()
        if self._idle:
            self._idle.pop().begin(exchange)
        else:
            task = asyncio.create_task(self._connect(exchange))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def settle(self, limit_s: float) -> bool:
        """Wait until no exchange is in flight, `limit_s` seconds at most, and say whether that is so."""
        try:
            async with asyncio.timeout(limit_s):
                while self._in_flight:
                    await self._settled.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Give up what is in flight, and all connections."""
        for task in self._connecting:
            task.cancel()
        for connection in tuple(self._open):
            connection.transport.abort()

    async def _connect(self, exchange: Exchange) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), *self._address
            )
        except OSError as error:
            exchange.error = f"there is no connection: {error.strerror or error}"
            self._done()
            return
        self._open.add(connection)
        connection.begin(exchange)

    def ended(self, connection: _Connection, *, keep: bool) -> None:
        """Take note that a connection's exchange has ended; it calls this itself."""
        if keep:
            self._idle.append(connection)
        else:
            connection.transport.close()
        self._done()

    def lost(self, connection: _Connection) -> None:
        """Forget a connection; it calls this itself."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _done(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._settled.set()
