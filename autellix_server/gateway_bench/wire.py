"""As much of HTTP/1.1 as a comparison needs, in few microseconds a message; and what its requests and answers say.

A full HTTP library takes more of a core than some of the gateways that are compared, and the load generator, the engine
and the gateway share a machine. Every token of an answer is its due time on this machine's monotonic clock, so whoever
reads it knows how late it is, whatever a gateway between does to the JSON around it.
"""

from __future__ import annotations

import json
import re

PATH = "/v1/chat/completions"
MODEL = "fixed"

_MARK = re.compile(rb"t(\d{15})")
_LONGEST_CUT = 15
"""Bytes of a mark that may stand at the end of a piece, while the rest is in the next."""

_ASKED = re.compile(rb"(\d+) events at ([\d.]+) a second")
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_HEAD_END = b"\r\n\r\n"


def mark(due_s: float) -> bytes:
    """Return a token that says when it was due, on the monotonic clock; it is 16 bytes long."""
    return b"t%015d" % round(due_s * 1e6)


def chat_body(events: int, per_s: float, *, stream: bool, prompt_bytes: int) -> bytes:
    """Return the body of a chat completion that asks the fixed engine for `events` tokens.

    Args:
        events: how many.
        per_s: how many a second; 0: all at once.
        stream: as server-sent events; if not, the answer has one token.
        prompt_bytes: length of the prompt, about.
    """
    text = f"{events} events at {per_s:g} a second. " + "to be or not to be " * (prompt_bytes // 19)
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": events, "stream": stream}
    return json.dumps(body).encode()


def asked(body: bytes) -> tuple[bool, int, float]:
    """Return whether a body asks for a stream, for how many events, and how many a second."""
    found = _ASKED.search(body)
    events, per_s = (1, 0.0) if found is None else (int(found[1]), float(found[2]))
    return _STREAM.search(body) is not None, events, per_s


class Marks:
    """Finds marks in an answer, however it is cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[float]:
        """Return the due times, in seconds, of the marks that end in the next piece of the answer."""
        data = self._rest + piece
        end, found = 0, []
        for match in _MARK.finditer(data):
            found.append(int(match[1]) / 1e6)
            end = match.end()
        self._rest = data[max(end, len(data) - _LONGEST_CUT) :]
        return found


def header(head: bytes, name: bytes) -> bytes | None:
    """Return the value of a header; `name` is in lower case, `None`: it is not there."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return None


class BadMessage(Exception):
    """What came is not the HTTP that is understood here."""


class Message:
    """Takes one request or answer apart as it comes.

    Attributes:
        head: start line and headers, once they are whole.
        whole: the end of its body has come.
        rest: what came behind the end: the beginning of the next message.
    """

    def __init__(self) -> None:
        self.head = b""
        self.whole = False
        self.rest = b""
        self._buffer = b""
        self._left = 0
        self._chunked = False

    def feed(self, data: bytes) -> bytes:
        """Take what has come and return the part of it that is body.

        Raises:
            BadMessage: a length is missing or no number.
        """
        if not self.head:
            self._buffer += data
            head, end, data = self._buffer.partition(_HEAD_END)
            if not end:
                return b""
            self._begin(head)
        return self._chunks(data) if self._chunked else self._counted(data)

    def _begin(self, head: bytes) -> None:
        self.head, self._buffer = head, b""
        self._chunked = header(head, b"transfer-encoding") == b"chunked"
        length = header(head, b"content-length")
        if length is None and head.startswith(b"HTTP/") and not self._chunked:
            raise BadMessage("an answer has no length")
        self._left = _number(length or b"0", 10)

    def _counted(self, data: bytes) -> bytes:
        body, self.rest = data[: self._left], data[self._left :]
        self._left -= len(body)
        self.whole = self._left == 0
        return body

    def _chunks(self, data: bytes) -> bytes:
        """Undo chunked transfer; `_left` counts what is missing of a chunk and the line end behind it."""
        data, found = self._buffer + data, []
        while data:
            if self._left:
                found.append(data[: max(0, self._left - 2)])
                self._left, data = max(0, self._left - len(data)), data[self._left :]
                continue
            line, end, after = data.partition(b"\r\n")
            if not end:
                break
            size = _number(line.partition(b";")[0], 16)
            if size == 0:
                if len(after) < 2:  # the last empty line; trailers nobody sends
                    break
                self.whole, self.rest, data = True, after[2:], b""
                break
            self._left, data = size + 2, after
        self._buffer = data
        return b"".join(found)


def _number(text: bytes, base: int) -> int:
    try:
        return int(text, base)
    except ValueError as error:
        raise BadMessage(f"{text[:40]!r} is no length") from error
