"""Calls made with aiohttp itself: a trace configuration stamps them, since aiohttp has no class worth wrapping.

aiohttp calls it in the task that makes the request: before the first hop, at every redirect, and when the response's
headers are there or the request has failed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from autellix_sdk._calls import begin_call
from autellix_sdk._faults import faults
from autellix_sdk._ledger import Flight
from autellix_sdk._runtime import runtime
from autellix_sdk._settings import Settings
from autellix_sdk._strands import current_strand
from autellix_sdk._translate import call_headers
from autellix_sdk.wire import CALL_HEADER, CONTINUE_HEADER, PROGRAM_HEADER

if TYPE_CHECKING:
    from aiohttp import ClientResponse, TraceConfig
    from multidict import CIMultiDict
    from yarl import URL

_OURS = {PROGRAM_HEADER, CALL_HEADER}


def aiohttp_trace_config() -> TraceConfig:
    """Return a trace configuration that stamps the calls of an aiohttp session.

    Use it as ``aiohttp.ClientSession(trace_configs=[autellix.aiohttp_trace_config()])``, before `init` or after it; it
    stands aside while the client is off. Requests to the backend are stamped; our headers are taken off all others,
    redirects included.

    Raises:
        ImportError: aiohttp is not installed.
    """
    from aiohttp import TraceConfig

    config = TraceConfig(_Trip)
    config.on_request_start.append(_signal(_started))
    config.on_request_redirect.append(_signal(_redirected))
    config.on_request_end.append(_signal(_answered))
    config.on_request_exception.append(_signal(_failed))
    return config


@dataclass(frozen=True, slots=True)
class _Address:
    """A URL of yarl's, as the allow-list wants it."""

    scheme: str
    raw_host: bytes
    port: int | None
    path: str

    @classmethod
    def of(cls, url: URL) -> _Address:
        """Convert; a URL without a host is one that no allow-list has."""
        return cls(url.scheme, (url.raw_host or "").encode(), url.port, url.path)


class _Answer:
    """A response, as the ledger wants it. Lives as long as the response, without keeping it alive."""

    __slots__ = ("__weakref__", "_response", "headers", "status_code")

    def __init__(self, response: ClientResponse) -> None:
        self._response = ref(response)
        self.status_code = response.status
        self.headers = response.headers
        _answers[response] = self

    @property
    def is_closed(self) -> bool:
        """Whether the body was read or given up."""
        response = self._response()
        return response is None or response.closed

    @property
    def elapsed(self) -> timedelta:
        """aiohttp measures nothing: the ledger takes the present."""
        raise RuntimeError("not known")


_answers: WeakKeyDictionary[ClientResponse, _Answer] = WeakKeyDictionary()


class _Trip(SimpleNamespace):
    """One request with all its redirects: the context of its trace.

    Attributes:
        flight: its call, if it was stamped here.
        written: our headers and what dialects add, once there are any.
        origin: scheme, host and port of the first hop.
    """

    def __init__(self, trace_request_ctx: object = None) -> None:
        super().__init__()
        self.flight: Flight | None = None
        self.written: dict[str, str] = {}
        self.origin: tuple[str, bytes, int | None] | None = None

    def visit(self, url: URL, headers: CIMultiDict[str]) -> None:
        """Before a hop: stamp it if it goes to the backend. Other hops, and those that we fail at, carry nothing."""
        self.unstamp(headers)
        settings = runtime.settings
        if settings is None:
            return
        carried = {name: values[0] for name in _OURS if (values := headers.popall(name, []))}
        address = _Address.of(url)
        origin = address.scheme, address.raw_host, address.port
        self.origin = self.origin or origin
        covered = settings.endpoint is not None and settings.endpoint.covers(address)
        if covered or origin != self.origin:
            headers.popall(CONTINUE_HEADER, None)  # `inject` wrote it for a worker of the user's, who is elsewhere
        if not covered:
            return
        if not self.written:
            # Stamped already where the request comes from httpx on top of aiohttp, or by `headers()`.
            self.written = carried if carried.keys() == _OURS else self._begin(headers, settings)
        headers.update(self.written)

    def unstamp(self, headers: CIMultiDict[str]) -> None:
        """Take off what an earlier hop was stamped with."""
        for name in self.written:
            headers.popall(name, None)

    def _begin(self, headers: CIMultiDict[str], settings: Settings) -> dict[str, str]:
        begun = begin_call(current_strand(), headers)
        if begun is None:
            return {}
        program, self.flight = begun
        return call_headers(program, self.flight, settings.dialects, headers)


def _signal(react: Callable[[_Trip, Any], None]) -> Callable[..., Awaitable[None]]:
    """Make a handler of aiohttp's from what shall happen, which cannot harm the request."""

    async def signal(_: Any, trip: _Trip, params: Any) -> None:
        try:
            react(trip, params)
        except Exception as error:  # noqa: BLE001 must not break the user's call
            faults.survive("a request of aiohttp could not be followed", error)

    return signal


def _started(trip: _Trip, sent: Any) -> None:
    trip.visit(sent.url, sent.headers)


def _redirected(trip: _Trip, sent: Any) -> None:
    trip.unstamp(sent.headers)
    location = sent.response.headers.get("Location") or sent.response.headers.get("URI")
    if location is None:
        return
    try:
        target = sent.url.join(type(sent.url)(location))
    except ValueError:  # aiohttp refuses it too
        return
    trip.visit(target, sent.headers)


def _answered(trip: _Trip, received: Any) -> None:
    if trip.flight is not None:
        trip.flight.land(_Answer(received.response))
        received.response.content.on_eof(trip.flight.close)


def _failed(trip: _Trip, _: Any) -> None:
    if trip.flight is not None:
        trip.flight.fail()
