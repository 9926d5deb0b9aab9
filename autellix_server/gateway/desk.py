"""The seam between moving bytes and deciding: what the proxy asks for each request, and what it is told.

The proxy may run in several processes; who decides is one. Nothing of a body but its length, and what is read from it
here, crosses the seam.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from autellix_server.engine.supervisor import EngineAddress
from autellix_server.gateway.fleet.estimated_bill import Usage

UNANSWERED = "it did not answer the call; if it died it is being restarted"
"""Detail of a refusal: the engine, or both that were tried, went away."""

CANCELLED = "program_cancelled"
"""Code of the errors that calls of a cancelled program end with."""


_STREAMED = re.compile(rb'"stream"\s*:\s*true\b')


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A request that runs a model, as far as decisions need it.

    Attributes:
        path: decoded path, such as ``/v1/chat/completions``.
        headers: request headers, in a mapping that ignores case.
        body_bytes: length of its body.
        model: that it names, where `Reads.models`; `None`: it names none.
        streamed: its body asks for a stream.
        session: that its body names, see `identity.session_in`.
        prefix: hashes of the beginnings of its prompt, see `balancing.prefix`, where `Reads.prefixes`.
        arrived_s: when the request began, on the desk's clock.
    """

    path: str
    headers: Mapping[str, str]
    body_bytes: int
    model: str | None
    streamed: bool
    session: str | None
    prefix: tuple[bytes, ...]
    arrived_s: float


@dataclass(frozen=True, slots=True)
class Reads:
    """What a desk must be told of a body.

    Attributes:
        models: the model that it names.
        prefixes: the beginnings of its prompt.
    """

    models: bool = False
    prefixes: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a call at its engine.

    Attributes:
        failure: what the engine did wrong: no connection, no answer, one cut short, status 5xx; `None`: nothing.
        first_byte_s: seconds from sending the call to the first byte of the answer's body; `None`: it came in one
            piece, or nothing came.
        total_s: seconds from sending the call to the end of its answer; `None`: it was not complete, since the client
            left or the engine failed.
        status: of the engine's answer; `None`: there was none.
        usage: tokens that the answer of an engine without our plugin tells; `None`: nothing.
    """

    failure: str | None = None
    first_byte_s: float | None = None
    total_s: float | None = None
    status: int | None = None
    usage: Usage | None = None


class Ticket(Protocol):
    """One call between its admission and its end, at an engine. Belongs to the task that was admitted."""

    address: EngineAddress
    """Where it goes."""

    priority: int | None
    """Its `priority` there; `None`: the engine takes none."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What the engine is told of the call: nothing if it is not ours. Asked for once for each engine."""

    async def move(self, report: Report) -> None:
        """Move to another engine, since this one has failed the call.

        Args:
            report: what became of it here.

        Raises:
            Refused: there is none.
            Interruption: the call was interrupted while it waited.
        """

    async def settle(self, text: bytes) -> bytes | None:
        """Charge the engine's bill; return the one that the client gets, `None` for a bill that is not believed."""

    def interruptible(self) -> AbstractContextManager[None]:
        """Return a context to work on the call in; raises `Interruption` when it was interrupted."""

    def close(self, report: Report) -> None:
        """Take the call out; to be called once, whatever happened."""


class Desk(Protocol):
    """Who decides about calls. One event loop."""

    @property
    def reads(self) -> Reads:
        """What it must be told of bodies."""

    def clock(self) -> float:
        """Return the time in seconds, never going back."""

    async def admit(self, request: CallRequest) -> Ticket:
        """Take a call in and wait until it has an engine; the ticket must be closed.

        Raises:
            Refused: it cannot be served now.
            Interruption: it was interrupted while it waited.
        """

    async def resources(self, headers: Mapping[str, str], model: str | None) -> list[EngineAddress]:
        """Return the engines that may have what a request that runs no model asks for, best first.

        Args:
            headers: of the request, in a mapping that ignores case.
            model: that it names, where `Reads.models`; `None`: it names none.

        Raises:
            Refused: there is none, or the request has no key that is good.
        """

    def failed(self, address: EngineAddress) -> None:
        """Note that an engine did not answer a request, or not to the end."""


def streamed_in(body: bytes) -> bool:
    """Return whether a JSON body asks for a stream, as far as can be told without reading all of it."""
    return _STREAMED.search(body) is not None


def model_in(body: bytes) -> str | None:
    """Return the model that a JSON body names, `None` if it names none or is no JSON object."""
    try:
        model = json.loads(body)["model"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return model if isinstance(model, str) else None
