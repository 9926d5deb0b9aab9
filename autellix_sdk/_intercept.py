"""Catching calls: `send` of every httpx and httpx2 client is wrapped, and gives its client our request hook.

The hook sees each request last, after the user's own hooks, on every redirect and retry. It stamps requests to the
backend and strips our headers from all others; what `inject` wrote for a worker goes to that worker alone. The wrapper
sees how the call went; it leaves streams alone. One `send` may stamp several requests, and other ones than it was
given: after redirects, and in authentication.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from autellix_sdk._calls import begin_call
from autellix_sdk._dialects import Dialect
from autellix_sdk._faults import faults
from autellix_sdk._ledger import Flight
from autellix_sdk._patches import Patches
from autellix_sdk._runtime import runtime
from autellix_sdk._strands import Strand, current_strand
from autellix_sdk._translate import take_back, translate
from autellix_sdk.wire import CALL_HEADER, CONTINUE_HEADER, PROGRAM_HEADER

LIBRARIES = ("httpx", "httpx2")

_FLIGHT = "autellix.flight"
"""Request extension that holds the call's flight; redirects copy it, transports ignore it."""

_ORIGIN = "autellix.origin"
"""Request extension that holds where a request with `inject`'s header was sent first; redirects copy it."""

_CONTINUE = CONTINUE_HEADER.encode()
_STAMP = {PROGRAM_HEADER.encode(), CALL_HEADER.encode()}

_hooked: WeakKeyDictionary[Any, None] = WeakKeyDictionary()


def install(patches: Patches) -> None:
    """Wrap the clients of the libraries that are imported, and of the others once they are."""

    def wrap_clients(library: ModuleType) -> None:
        patches.wrap(library.Client, "send", _sync_send)
        patches.wrap(library.AsyncClient, "send", _async_send)

    for library in LIBRARIES:
        patches.when_imported(library, wrap_clients)


def remove_hooks() -> None:
    """Take our hook off every client that has it."""
    for reference in _hooked.keyrefs():  # a copy: other threads may be adding clients
        client = reference()
        hooks = [] if client is None else client.event_hooks["request"]
        for hook in (_on_request, _on_request_async):
            while hook in hooks:
                hooks.remove(hook)
    _hooked.clear()


def _sync_send(original: Callable[..., Any]) -> Callable[..., Any]:
    def send(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        strand = _prepare(client, _on_request)
        if strand is None:
            return original(client, request, *args, **kwargs)
        flights: list[Flight] = []
        outer, strand.sending = strand.sending, flights
        try:
            response = original(client, request, *args, **kwargs)
        except BaseException:
            _failed(flights)
            raise
        finally:
            strand.sending = outer
        _landed(flights, response)
        return response

    return send


def _async_send(original: Callable[..., Any]) -> Callable[..., Any]:
    async def send(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        strand = _prepare(client, _on_request_async)
        if strand is None:
            return await original(client, request, *args, **kwargs)
        flights: list[Flight] = []
        outer, strand.sending = strand.sending, flights
        try:
            response = await original(client, request, *args, **kwargs)
        except BaseException:
            _failed(flights)
            raise
        finally:
            strand.sending = outer
        _landed(flights, response)
        return response

    return send


def _prepare(client: Any, hook: Callable[[Any], Any]) -> Strand | None:
    """Have the client call our hook, and call it last; return the strand that sends, or `None` to leave it alone."""
    if runtime.settings is None:  # a wrapper that outlived `shutdown` because somebody wrapped it in turn
        return None
    try:
        hooks = client.event_hooks["request"]
        if hook not in hooks:
            hooks.append(hook)
            _hooked[client] = None
        elif hooks[-1] is not hook:
            # In a new list: a request that is on its way through the old one must not miss a hook of the user's.
            client.event_hooks["request"] = [*(each for each in hooks if each is not hook), hook]
        return current_strand()
    except Exception as error:  # noqa: BLE001 must not break the user's call
        faults.survive("a client could not be given our hook; its calls go unstamped", error)
        return None


def _landed(flights: list[Flight], response: Any) -> None:
    """A `send` returned: each flight ended with a response to a request that carried it."""
    try:
        for flight in flights:
            for answer in (response, *response.history):
                if answer.request.extensions.get(_FLIGHT) is flight:
                    flight.land(answer)
                    flight.status = response.status_code  # clients retry by where a redirect led
                    break
            else:
                flight.close()
    except Exception as error:  # noqa: BLE001 must not break the user's call
        _failed(flights)
        faults.survive("a response could not be read for its time bill", error)


def _failed(flights: list[Flight]) -> None:
    """A `send` raised."""
    for flight in flights:
        flight.fail()


def _on_request(request: Any) -> None:
    settings = runtime.settings
    if settings is None:
        return
    try:
        if settings.endpoint is not None and settings.endpoint.covers(request.url):
            _stamp(request, settings.dialects)
        else:
            _strip(request)
    except Exception as error:  # noqa: BLE001 must not break the user's call
        faults.survive("a request could not be stamped and goes out as it is", error)


async def _on_request_async(request: Any) -> None:
    _on_request(request)


def _stamp(request: Any, dialects: tuple[Dialect, ...]) -> None:
    """Say on a request to the backend which call it is."""
    headers, extensions = request.headers, request.extensions
    if runtime.carries and _CONTINUE in _names_of(headers):
        del headers[CONTINUE_HEADER]
    strand = current_strand()
    sending = strand.sending
    if _FLIGHT in extensions:
        if sending and extensions[_FLIGHT] in sending:  # the same call: a redirect within the backend
            return
        _unstamp(request)  # another one: the request object was sent before
    begun = begin_call(strand, headers)
    if begun is None:
        return
    program, flight = begun
    call = program.call_header(flight)
    headers[PROGRAM_HEADER] = program.id
    headers[CALL_HEADER] = call
    extensions[_FLIGHT] = flight
    if sending is None:
        flight.close()  # nobody will say how it went
    else:
        sending.append(flight)
    if dialects:
        translate(request, dialects, program.context(flight))


def _strip(request: Any) -> None:
    """Have a request to anybody else say nothing of ours, but to a worker what was injected for it."""
    names = _names_of(request.headers)
    if _CONTINUE in names and _has_left(request):
        del request.headers[CONTINUE_HEADER]
    if _FLIGHT in request.extensions or not _STAMP.isdisjoint(names):
        _unstamp(request)


def _names_of(headers: Any) -> set[bytes]:
    """The lower-case names of headers, which when asked for one would first try encodings: that takes twice as long."""
    return {name.lower() for name, _ in headers.raw}


def _has_left(request: Any) -> bool:
    """Whether a redirect led to another origin than the one that the request was made for."""
    origin = request.url.scheme, request.url.raw_host, request.url.port
    return bool(request.extensions.setdefault(_ORIGIN, origin) != origin)


def _unstamp(request: Any) -> None:
    request.extensions.pop(_FLIGHT, None)
    take_back(request)
    for name in (PROGRAM_HEADER, CALL_HEADER):
        request.headers.pop(name, None)
