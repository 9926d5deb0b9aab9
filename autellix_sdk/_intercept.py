"""Catching calls: `send` of every httpx and httpx2 client is wrapped, and gives its client our request hook.

The hook sees each request last, after the user's own hooks, on every redirect and retry. It stamps requests to the
backend and strips our headers from all others. The wrapper sees how the call went; it leaves streams alone.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any
from weakref import WeakSet

from autellix_sdk._calls import begin_call
from autellix_sdk._faults import faults
from autellix_sdk._ledger import Flight
from autellix_sdk._patches import Patches
from autellix_sdk._runtime import runtime
from autellix_sdk._strands import current_strand
from autellix_sdk.wire import CALL_HEADER, PROGRAM_HEADER

LIBRARIES = ("httpx", "httpx2")

_RETRY_HEADER = "x-stainless-retry-count"
_FLIGHT = "autellix.flight"
"""Request extension that holds the call's flight; redirects copy it, transports ignore it."""

_hooked: WeakSet[Any] = WeakSet()


def install(patches: Patches) -> None:
    """Wrap the clients of the libraries that are imported, and of the others once they are."""

    def wrap_clients(library: ModuleType) -> None:
        patches.wrap(library.Client, "send", _sync_send)
        patches.wrap(library.AsyncClient, "send", _async_send)

    for library in LIBRARIES:
        patches.when_imported(library, wrap_clients)


def remove_hooks() -> None:
    """Take our hook off every client that has it."""
    for client in list(_hooked):
        hooks = client.event_hooks["request"]
        for hook in (_on_request, _on_request_async):
            if hook in hooks:
                hooks.remove(hook)
    _hooked.clear()


def _sync_send(original: Callable[..., Any]) -> Callable[..., Any]:
    def send(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        _add_hook(client, _on_request)
        try:
            response = original(client, request, *args, **kwargs)
        except BaseException:
            _failed(request)
            raise
        _landed(request, response)
        return response

    return send


def _async_send(original: Callable[..., Any]) -> Callable[..., Any]:
    async def send(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        _add_hook(client, _on_request_async)
        try:
            response = await original(client, request, *args, **kwargs)
        except BaseException:
            _failed(request)
            raise
        _landed(request, response)
        return response

    return send


def _add_hook(client: Any, hook: Callable[[Any], Any]) -> None:
    if runtime.settings is None:  # a wrapper that outlived `shutdown` because somebody wrapped it in turn
        return
    try:
        hooks = client.event_hooks["request"]
        if hook not in hooks:
            hooks.append(hook)
            _hooked.add(client)
    except Exception as error:  # noqa: BLE001 must not break the user's call
        faults.survive("a client could not be given our hook; its calls go unstamped", error)


def _on_request(request: Any) -> None:
    try:
        _stamp(request)
    except Exception as error:  # noqa: BLE001 must not break the user's call
        faults.survive("a request could not be stamped and goes out as it is", error)


async def _on_request_async(request: Any) -> None:
    _on_request(request)


def _stamp(request: Any) -> None:
    settings = runtime.settings
    if settings is None:
        return
    headers = request.headers
    if settings.endpoint is None or not settings.endpoint.covers(request.url):
        for name in (PROGRAM_HEADER, CALL_HEADER):
            headers.pop(name, None)
        return
    if _FLIGHT in request.extensions:  # stamped already: a redirect within the backend, or a request sent again
        return
    strand = current_strand()
    retry = 0
    if strand.last is not None and strand.last.retryable:
        count = headers.get(_RETRY_HEADER, "")
        retry = int(count) if count.isdecimal() else 0
    stamp = begin_call(strand, retry)
    if stamp is not None:
        request.extensions[_FLIGHT], headers[PROGRAM_HEADER], headers[CALL_HEADER] = stamp


def _landed(request: Any, response: Any) -> None:
    flight: Flight | None = request.extensions.get(_FLIGHT)
    if flight is None:
        return
    try:
        flight.land(response)
    except Exception as error:  # noqa: BLE001 must not break the user's call
        faults.survive("a response could not be read for its time bill", error)


def _failed(request: Any) -> None:
    flight: Flight | None = request.extensions.get(_FLIGHT)
    if flight is not None:
        flight.ledger.fail(flight)
