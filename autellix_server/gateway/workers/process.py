"""One worker: a process that accepts clients' connections and moves their bytes.

Started by `crew.Crew` as ``python -m autellix_server.gateway.workers.process LISTENING CONTROL API`` with two inherited
sockets, by number, and the path of the one on which the gateway serves its own API. Its settings come on its standard
input, as JSON.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from contextlib import suppress

from aiohttp import hdrs, web

from autellix_server.gateway.app import bare_app, make_runner
from autellix_server.gateway.exchange import drop_added_headers
from autellix_server.gateway.proxy import Proxy
from autellix_server.gateway.settings import ServeSettings
from autellix_server.gateway.sockets import tls_context
from autellix_server.gateway.telemetry.logs import set_up_logging
from autellix_server.gateway.workers.api import ApiForwarder
from autellix_server.gateway.workers.messages import LINE_LIMIT
from autellix_server.gateway.workers.remote import RemoteDesk
from autellix_server.listening import BACKLOG


async def work(settings: ServeSettings, listening: socket.socket, control: socket.socket, api: str) -> None:
    """Serve until the gateway goes, or SIGTERM comes; calls in flight may end then, see `make_runner`."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    reader, writer = await asyncio.open_unix_connection(sock=control, limit=LINE_LIMIT)
    desk = RemoteDesk(reader, writer)
    proxy, forwarder = Proxy(desk), ApiForwarder(api)
    app = bare_app(settings)
    app.add_routes(
        (
            web.get("/v1/models", forwarder.handle),
            web.route(hdrs.METH_ANY, "/v1/{path:.*}", proxy.handle),
            web.route(hdrs.METH_ANY, "/{path:.*}", forwarder.handle),
        )
    )
    app.cleanup_ctx.extend((proxy.lifetime, forwarder.lifetime))
    app.on_response_prepare.append(drop_added_headers)
    runner = make_runner(app)
    await runner.setup()
    hearing, stop = asyncio.create_task(desk.run()), asyncio.create_task(stopping.wait())
    try:
        await web.SockSite(runner, listening, backlog=BACKLOG, ssl_context=tls_context(settings)).start()
        await asyncio.wait({hearing, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await runner.cleanup()
        stop.cancel()
        hearing.cancel()
        writer.close()
    with suppress(asyncio.CancelledError):
        await hearing


def main(arguments: list[str]) -> int:
    """Run a worker."""
    listening, control = (socket.socket(fileno=int(number)) for number in arguments[:2])
    # A terminal's Ctrl-C and end reach all of its processes; the gateway decides when to stop.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    settings = ServeSettings.model_validate_json(sys.stdin.buffer.read())
    set_up_logging(settings.log_format, settings.log_level)
    asyncio.run(work(settings, listening, control, arguments[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
