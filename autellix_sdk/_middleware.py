"""Middleware for web servers: one program per request, however the server spreads requests over tasks and threads.

Without it, requests share a program under servers that run one task per connection or one thread for many requests,
and the requests of one keep-alive connection are one endless program.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from autellix_sdk._activations import Activation
from autellix_sdk._carry import sender_of
from autellix_sdk._scope import program
from autellix_sdk.wire import CONTINUE_HEADER

AsgiApp = Callable[..., Awaitable[None]]
"""An ASGI 3 application: takes ``scope``, ``receive`` and ``send``, which every framework types in its own way."""

WsgiApp = Callable[..., Iterable[bytes]]
"""A WSGI application: takes ``environ`` and ``start_response``."""

_ENVIRON_KEY = "HTTP_" + CONTINUE_HEADER.upper().replace("-", "_")
_END = object()


def asgi(app: AsgiApp, *, name: str | None = None, trust_callers: bool = False) -> AsgiApp:
    """Make each HTTP request and each websocket connection of an ASGI app a program of its own.

    The program ends when the app has finished with the request: after a streamed body, and after background tasks
    that the framework runs as part of it. Other scopes, such as ``lifespan``, pass through.

    Args:
        app: what the server is given, all other middleware included; a framework's ``add_middleware`` works as well.
        name: name of the programs, at most 128 bytes once percent-encoded.
        trust_callers: a request whose sender used `inject` continues the sender's program instead. Only where all
            callers are yours: whoever knows a program's ID can put calls into it.

    Raises:
        UsageError: `name` is not fit to be sent.
    """
    begin = _activations(name, trust_callers)

    async def with_program(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        async with begin(lambda: _asgi_headers(scope)):
            await app(scope, receive, send)

    return with_program


def wsgi(app: WsgiApp, *, name: str | None = None, trust_callers: bool = False) -> WsgiApp:
    """Make each request of a WSGI app a program of its own.

    The program ends when the server closes the body. A streamed body is in scope while its own code runs, on whatever
    thread; lists are passed on as they are, and so are files given to ``wsgi.file_wrapper`` where that is a class.
    Where it is a function, as uWSGI's is, what it made cannot be told from other bodies: the server then streams it
    item by item.

    Args:
        app: what the server is given, all other middleware included; with Flask ``app.wsgi_app``, which is replaced.
        name, trust_callers: as for `asgi`.

    Raises:
        UsageError: `name` is not fit to be sent.
    """
    begin = _activations(name, trust_callers)

    def with_program(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        activation = begin(lambda: {CONTINUE_HEADER: environ[_ENVIRON_KEY]} if _ENVIRON_KEY in environ else {})
        activation._start()
        try:
            with activation._inside():
                body = app(environ, start_response)
        except BaseException as error:
            activation._end(error)
            raise
        wrapper = environ.get("wsgi.file_wrapper")
        if type(body) in (list, tuple) or (isinstance(wrapper, type) and isinstance(body, wrapper)):
            activation._end(None)
            return body
        return _Body(body, activation)

    return with_program


def _activations(name: str | None, trust_callers: bool) -> Callable[[Callable[[], Mapping[str, str]]], Activation[Any]]:
    """Return what makes the activation of one request, given what reads its headers."""
    scope = program(name)

    def begin(read_headers: Callable[[], Mapping[str, str]]) -> Activation[Any]:
        sender = sender_of(read_headers()) if trust_callers else None
        return scope._fresh() if sender is None else sender.attach()

    return begin


def _asgi_headers(scope: Mapping[str, Any]) -> dict[str, str]:
    key = CONTINUE_HEADER.encode()
    # A header sent twice is no clear word: joined as HTTP does, it cannot be read.
    values = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name.lower() == key]
    return {CONTINUE_HEADER: ", ".join(values)} if values else {}


class _Body:
    """A WSGI body whose own code runs in scope.

    Args:
        body: the app's.
        activation: started; ends with the body.
    """

    def __init__(self, body: Iterable[bytes], activation: Activation[Any]) -> None:
        self._body = body
        self._activation = activation
        self._items: Iterator[bytes] | None = None
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            with self._activation._inside():
                if self._items is None:
                    self._items = iter(self._body)
                item: Any = next(self._items, _END)
        except BaseException as error:
            self._error = error
            raise
        if item is _END:
            raise StopIteration
        return item  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the app's body, as the server has to."""
        try:
            if hasattr(self._body, "close"):
                with self._activation._inside():
                    self._body.close()
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._activation._end(self._error)
