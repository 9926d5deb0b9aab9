"""Finds the engine's bill in a stream of server-sent events, and changes nothing else. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from autellix_sdk.wire import BILL_COMMENT

MAX_COMMENT_BYTES = 16 * 1024
"""A longer line is no bill of ours and is passed on as it is."""


class BillScanner:
    """Replaces the comment line that carries the bill, however the stream is cut into chunks.

    Every other byte leaves with the chunk it came in; only the beginning of a line that may still turn out to be our
    comment is held back until the line's end is there.

    Args:
        settle: gets the bill's JSON and returns what the client is to see instead, or `None` for nothing.
    """

    def __init__(self, settle: Callable[[bytes], Awaitable[bytes | None]]) -> None:
        self._settle = settle
        self._held = b""
        self._within_line = False

    async def feed(self, chunk: bytes) -> bytes:
        """Take the next chunk and return what is to be passed on now, possibly nothing."""
        if not self._held and chunk.endswith(b"\n") and BILL_COMMENT not in chunk:
            self._within_line = False
            return chunk
        *lines, rest = (self._held + chunk).split(b"\n")
        ready = []
        for line in lines:
            ready.append(line + b"\n" if self._within_line else await self._line(line))
            self._within_line = False
        if rest and (self._within_line or not _may_become_bill(rest)):
            ready.append(rest)
            self._within_line, rest = True, b""
        self._held = rest
        return b"".join(ready)

    def end(self) -> bytes:
        """Return what is still held back when the stream has ended."""
        held, self._held = self._held, b""
        return held

    async def _line(self, line: bytes) -> bytes:
        if not line.startswith(BILL_COMMENT) or len(line) > MAX_COMMENT_BYTES:
            return line + b"\n"
        bill = await self._settle(line[len(BILL_COMMENT) :].rstrip(b"\r"))
        return b"" if bill is None else BILL_COMMENT + bill + (b"\r\n" if line.endswith(b"\r") else b"\n")


def _may_become_bill(line: bytes) -> bool:
    return BILL_COMMENT.startswith(line) or (line.startswith(BILL_COMMENT) and len(line) <= MAX_COMMENT_BYTES)
