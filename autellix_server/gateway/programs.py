"""The programs API: what runs, what it has used, and the end of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, TypeVar

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autellix_sdk.errors import WireError
from autellix_sdk.wire import MAX_NAME_BYTES, PROGRAM_PATTERN, ProgramId, encode_name
from autellix_server.gateway.calls import new_id
from autellix_server.gateway.dispatch import Dispatcher
from autellix_server.gateway.openapi import Endpoint
from autellix_server.gateway.replies import error_reply, model_reply
from autellix_server.gateway.tenants.keys import EVERYBODY, Tenant
from autellix_server.gateway.tenants.scope import own_id, scoped_id
from autellix_server.scheduling.table import Program

MAX_BATCH = 1000
"""Programs that one request may end."""

MAX_ROWS = 1000
"""Rows that one request lists, the most recently active first."""

_MAX_BODY_BYTES = 1 << 20
_Model = TypeVar("_Model", bound=BaseModel)


class _Asked(BaseModel):
    model_config = ConfigDict(strict=True)


class OpenProgram(_Asked):
    """Body of ``POST /autellix/v1/programs``. Without an ID one is made; a name is short once percent-encoded, too."""

    id: str | None = Field(None, pattern=f"^{PROGRAM_PATTERN}$")
    name: str | None = Field(None, max_length=MAX_NAME_BYTES)


class Boost(_Asked):
    """Body of ``POST /autellix/v1/programs/{id}/boost``; false takes it back."""

    boosted: bool = True


class ListPrograms(BaseModel):
    """Query of ``GET /autellix/v1/programs``: with `all` also the ended ones that are still remembered."""

    all: bool = False


class EndProgram(_Asked):
    """One program that has ended; `status` is what its own process says of it and is not interpreted."""

    id: str
    status: str | None = None


class EndPrograms(_Asked):
    """Body of ``POST /autellix/v1/programs/end``."""

    programs: list[EndProgram]


class EndResult(BaseModel):
    """What became of one `EndProgram`: 200 and the program's bill, or 404 when there is no such program."""

    id: str
    status: Literal[200, 404]
    bill: dict[str, Any] | None


class EndResults(BaseModel):
    """Reply to `EndPrograms`, in the same order."""

    results: list[EndResult]


class ProgramRow(BaseModel):
    """One program. Times in seconds; `level` is where its next call would start, 0 the best.

    `engines` ran its calls, and `pin` is the one that its long calls go to. The last three are what was asked of it.
    """

    id: str
    tenant: str
    name: str | None
    state: Literal["active", "idle", "ended"]
    level: int
    service_s: float
    wait_s: float
    elapsed_s: float
    calls_active: int
    calls_completed: int
    threads: int
    engines: list[str]
    pin: str | None
    paused: bool
    boosted: bool
    cancelled: bool
    bill: dict[str, Any]


class ProgramRows(BaseModel):
    """Reply to ``GET /autellix/v1/programs``; `total` counts the rows that were left out too."""

    programs: list[ProgramRow]
    total: int = Field(ge=0)


class ProgramsApi:
    """Handlers of the programs API.

    Clients see their tenant's programs under the names that they gave them, operators all of them under the names of
    the table.

    Args:
        dispatcher: has the calls in flight, and the ledger with the program table.
        for_operators: who asks.
    """

    def __init__(self, dispatcher: Dispatcher, *, for_operators: bool = False) -> None:
        self._dispatcher = dispatcher
        self._ledger = dispatcher.ledger
        self._tenants = dispatcher.tenants
        self._for_operators = for_operators

    def endpoints(self) -> Iterator[Endpoint]:
        """Return its endpoints."""
        root, keyed = "/autellix/v1/programs", not self._for_operators
        yield Endpoint(hdrs.METH_POST, root, self.open, ProgramRow, 201, body=OpenProgram, errors=(429,), keyed=keyed)
        yield Endpoint(hdrs.METH_GET, root, self.list, ProgramRows, query=ListPrograms, keyed=keyed)
        yield Endpoint(hdrs.METH_POST, f"{root}/end", self.end, EndResults, body=EndPrograms, keyed=keyed)
        yield Endpoint(hdrs.METH_GET, f"{root}/{{id}}", self.get, ProgramRow, errors=(404,), keyed=keyed)
        for verb, body in ((self.pause, None), (self.resume, None), (self.boost, Boost), (self.cancel, None)):
            path = f"{root}/{{id}}/{verb.__name__}"
            yield Endpoint(hdrs.METH_POST, path, verb, ProgramRow, body=body, errors=(404,), keyed=keyed)

    async def open(self, request: web.Request) -> web.Response:
        """Start a program explicitly, as its first call would, or renew the lease of one that is known."""
        tenant, table = self._who(request), self._ledger.table
        body = await _read(request, OpenProgram)
        try:
            encode_name(body.name or "")
        except WireError as error:
            return error_reply(400, str(error), "invalid_program")
        program = ProgramId(new_id() if body.id is None else body.id)
        scoped = scoped_id(tenant.name, program)
        known = table.get(scoped)
        is_new = known is None or known.ended_s is not None
        if is_new and self._for_operators:
            self._tenants.count_program(scoped)
        elif is_new:
            self._tenants.open_program(tenant)
        row = table.open(scoped, body.name, self._ledger.clock(), tenant=self._tenants.owner_of(scoped))
        if is_new:
            self._dispatcher.listeners.program_opened(row)
        table.mark(row, cancelled=False)
        return model_reply(self._row(row, tenant), status=201)

    async def list(self, request: web.Request) -> web.Response:
        """List live programs, the most recently active first."""
        query = _checked(lambda: ListPrograms.model_validate(request.query), "query")
        table = self._ledger.table
        rows: list[Program] = list(table)
        if query.all:
            rows = [*table.ended(), *rows]
        tenant = self._who(request)
        own = [row for row in rows if self._own(tenant, row.id) is not None]
        newest = (self._row(row, tenant) for row in islice(reversed(own), MAX_ROWS))
        return model_reply(ProgramRows(programs=list(newest), total=len(own)))

    async def get(self, request: web.Request) -> web.Response:
        """Return one program, live or still remembered."""
        return model_reply(self._row(self._find(request), self._who(request)))

    async def pause(self, request: web.Request) -> web.Response:
        """Hold a program's calls back until it is resumed; those at engines go on."""
        row = self._find(request)
        self._dispatcher.pause(row)
        return model_reply(self._row(row, self._who(request)))

    async def resume(self, request: web.Request) -> web.Response:
        """Let the calls of a paused program go on."""
        row = self._find(request)
        self._dispatcher.resume(row)
        return model_reply(self._row(row, self._who(request)))

    async def boost(self, request: web.Request) -> web.Response:
        """Have a program's calls scheduled as if it had attained nothing, from the next one on."""
        body = await _read(request, Boost)
        row = self._find(request)
        self._ledger.table.mark(row, boosted=body.boosted)
        return model_reply(self._row(row, self._who(request)))

    async def cancel(self, request: web.Request) -> web.Response:
        """End a program: its calls in flight end with an error, and further ones are refused until it is opened."""
        row = self._find(request)
        self._dispatcher.cancel(row)
        return model_reply(self._row(row, self._who(request)))

    async def end(self, request: web.Request) -> web.Response:
        """End programs and return their bills; an unknown one is a 404 of its own and no error for the rest."""
        tenant = self._who(request)
        body = await _read(request, EndPrograms)
        if len(body.programs) > MAX_BATCH:
            return error_reply(413, f"{len(body.programs)} programs in one batch; the limit is {MAX_BATCH}", "too_many")
        return model_reply(EndResults(results=list(self._ended(body.programs, tenant))))

    def named(self, request: web.Request) -> ProgramId:
        """Return the program in a request's path, under the name that the table has for it.

        Raises:
            Refused: the request has no key that is good.
        """
        return scoped_id(self._who(request).name, ProgramId(request.match_info["id"]))

    def _who(self, request: web.Request) -> Tenant:
        return EVERYBODY if self._for_operators else self._tenants.who(request.headers)

    def _own(self, tenant: Tenant, program: ProgramId) -> ProgramId | None:
        """Return what who asks calls a program, `None` if it is not theirs."""
        return program if self._for_operators else own_id(tenant.name, program)

    def _find(self, request: web.Request) -> Program:
        """Return the program in a request's path, live or still remembered, or end the request with a 404."""
        row = self._ledger.table.get(self.named(request))
        if row is None:
            raise web.HTTPNotFound(text="there is no such program, or it is forgotten")
        return row

    def _ended(self, programs: Iterable[EndProgram], tenant: Tenant) -> Iterable[EndResult]:
        now = self._ledger.clock()
        for program in programs:
            row = self._ledger.table.end(scoped_id(tenant.name, ProgramId(program.id)), now)
            bill = None if row is None else {**row.bill(now).to_json(), "program": program.id}
            yield EndResult(id=program.id, status=404 if row is None else 200, bill=bill)

    def _row(self, row: Program, tenant: Tenant) -> ProgramRow:
        own = self._own(tenant, row.id) or row.id
        bill = replace(row.bill(self._ledger.clock()), program=own)
        return ProgramRow(
            id=own,
            tenant=row.tenant,
            name=row.name,
            state="ended" if row.ended_s is not None else "active" if row.calls else "idle",
            level=self._ledger.table.level_of(row),
            service_s=row.service_s,
            wait_s=row.wait_s,
            elapsed_s=bill.elapsed_us / 1e6,
            calls_active=len(row.calls),
            calls_completed=row.completed,
            threads=len(row.threads),
            engines=sorted(row.engines),
            pin=row.pin,
            paused=row.paused,
            boosted=row.boosted,
            cancelled=row.cancelled,
            bill=bill.to_json(),
        )


async def _read(request: web.Request, model: type[_Model]) -> _Model:
    """Read a request's body, or end the request with a 413, or a 400 that says what is wrong with it."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(_MAX_BODY_BYTES, len(body))
    return _checked(lambda: model.model_validate_json(bytes(body) or b"{}"), "body")


def _checked(validated: Callable[[], _Model], what: str) -> _Model:
    """Return a model, or end the request with a 400 that says what is wrong with it."""
    try:
        return validated()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or what
        raise web.HTTPBadRequest(text=f"{where}: {first['msg']}") from None
