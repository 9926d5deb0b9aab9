"""`autellix serve` as a child process on a free port, for what runs against a server of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from autellix_server.errors import EngineFailure

_STOP_LIMIT_S = 30.0


@asynccontextmanager
async def running_server(arguments: Sequence[str], say: Callable[[str], None]) -> AsyncIterator[str]:
    """Run `autellix serve` for as long as the context lasts.

    Args:
        arguments: for `autellix serve`, beside its port.
        say: gets each line of the server's progress.

    Yields:
        The server's URL, without a path, once it is ready.

    Raises:
        EngineFailure: the server ended before it was ready; the message is its last words.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "autellix_server", "serve", "--json", "--port", "0", "--until-stdin-ends", *arguments),
        # Nothing is written to it: when we die, however we die, it ends and the server stops.
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Ctrl-C reaches us alone; we stop the server when we have stopped its clients.
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    last_words: deque[str] = deque(maxlen=1)

    async def forward(stream: asyncio.StreamReader) -> None:
        async for line in stream:
            last_words.append(line.decode(errors="replace").strip())
            say(last_words[-1])

    progress = asyncio.create_task(forward(process.stderr))
    try:
        ready = await _first_event(process.stdout, "ready")
        if ready is None:
            await process.wait()
            await progress
            raise EngineFailure(f"the server did not start: {' '.join(last_words).removeprefix('autellix: ')}")
        yield str(ready["url"])
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP_LIMIT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        progress.cancel()


async def _first_event(stream: asyncio.StreamReader, kind: str) -> dict[str, Any] | None:
    async for line in stream:
        event: dict[str, Any] = json.loads(line)
        if event.get("event") == kind:
            return event
    return None
