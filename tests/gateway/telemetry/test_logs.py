"""Lines of the log: stable keys, one a call, and never what a client said."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fake_engine import CHAT, identity, running_engine, running_gateway
from telemetry_records import arrived, context, ended, program

from autellix_sdk.errors import ConfigurationError
from autellix_server.gateway.telemetry.events import EngineChange, Listeners, Outcome, PinMove, Refusal, StoreChange
from autellix_server.gateway.telemetry.logs import CallLog, LogFormat, LogLevel, redact, set_up_logging

SECRET = "hunter2butlonger"
KEYS = [
    "time",
    "level",
    "logger",
    "message",
    "program",
    "call",
    "thread",
    "retry",
    "tenant",
    "path",
    "model",
    "engine",
    "streamed",
    "outcome",
    "failed_attempts",
    "sent_ms",
    "first_byte_ms",
    "wall_ms",
    "queued_ms",
    "prefill_ms",
    "decode_ms",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "preemptions",
]


class Log:
    """The log of the process, set up for one test."""

    def __init__(self) -> None:
        self._stream = io.StringIO()

    def start(self, log_format: LogFormat = "json", level: LogLevel = "info") -> None:
        """Begin to log."""
        set_up_logging(log_format, level, self._stream)

    @property
    def text(self) -> str:
        """What was logged so far."""
        return self._stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was logged so far, as objects."""
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    """A log; the process's own is as before afterwards."""
    loggers = [logging.getLogger(name) for name in ("", "autellix_server", "autellix_sdk")]
    raise_exceptions = logging.raiseExceptions
    levels, handlers = [logger.level for logger in loggers], loggers[0].handlers[:]
    loggers[0].handlers.clear()
    yield Log()
    logging.raiseExceptions = raise_exceptions
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_a_call_is_one_line_with_the_same_keys_always(log: Log) -> None:
    """Billed or not; a program's end and a refusal are no lines at this level."""
    log.start()
    unbilled = arrived()
    unbilled.end(Outcome.CLIENT_LEFT, 10.25)
    listeners = Listeners([CallLog()])
    for call in (ended(), unbilled):
        listeners.call_arrived(call)
        listeners.call_ended(call)
    listeners.program_ended(program())
    listeners.noted(Refusal("rate_limited"))
    listeners.noted(PinMove("overload", "e0", "e1"))
    billed, other = log.lines
    assert (list(billed), list(other)) == (KEYS, KEYS)
    times = {
        "sent_ms": 250,
        "first_byte_ms": 500,
        "wall_ms": 1000,
        "queued_ms": 150,
        "prefill_ms": 200,
        "decode_ms": 500,
    }
    who = {"message": "call", "level": "info", "program": "p1", "engine": "e0", "outcome": "ok", "output_tokens": 5}
    assert (times | who).items() <= billed.items()
    assert (other["outcome"], other["wall_ms"], other["queued_ms"]) == ("client_left", 250, None)
    assert billed["time"].endswith("+00:00")


def test_what_operators_have_to_see_is_a_warning(log: Log) -> None:
    """An engine that may not be used, and a store that cannot be written; their recovery is not."""
    log.start()
    listener = CallLog()
    listener.engine_changed(EngineChange("e0", "ready", "open", "5 calls failed in a row"))
    listener.engine_changed(EngineChange("e0", "ready", "closed"))
    listener.noted(StoreChange(healthy=False, detail="the disk is full"))
    listener.noted(StoreChange(healthy=True, detail="written again"))
    assert [(line["level"], line["message"]) for line in log.lines] == [
        ("warning", "engine: 5 calls failed in a row"),
        ("info", "engine: ready"),
        ("warning", "state store: the disk is full"),
        ("info", "state store: written again"),
    ]
    assert log.lines[0]["breaker"] == "open"


def test_levels_are_for_our_own_messages(log: Log) -> None:
    """At debug the rest is shown; other packages are heard from when something is wrong."""
    log.start(level="debug")
    listener = CallLog()
    listener.program_ended(program())
    listener.noted(Refusal("rate_limited", "acme"))
    listener.noted(PinMove("overload", "e0", "e1"))
    logging.getLogger("urllib3").info("hello")
    logging.getLogger("urllib3").warning("first line\nsecond line")
    messages = ["program ended", "refused", "a program moved to another engine", "first line"]
    assert [line["message"] for line in log.lines] == messages
    assert log.lines[0]["ended_by"] == "lease"


def test_at_warning_a_call_is_no_line(log: Log) -> None:
    """Nor is anything that is well."""
    log.start(level="warning")
    CallLog().call_ended(ended())
    CallLog().program_ended(program())
    assert log.text == ""


def test_text_is_one_line_too(log: Log) -> None:
    """The message, then what belongs to it."""
    log.start("text")
    CallLog().call_ended(ended())
    logging.getLogger("autellix_server.x").warning("two\nlines", exc_info=ConfigurationError("--port\nis taken"))
    first, second = log.text.splitlines()
    assert first.startswith('autellix: call program="p1" call="0.0" thread=0')
    assert second == "autellix: two lines | ConfigurationError: --port is taken"


def test_an_exception_is_where_it_was_raised_and_not_what_it_says(log: Log) -> None:
    """Its text may quote a request; our own errors are known not to."""
    log.start()
    for error in (
        ValueError(SECRET),
        UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, "bad"),
        ConfigurationError("x"),
    ):
        try:
            raise error
        except (ValueError, ConfigurationError):
            logging.getLogger("autellix_server.x").exception("it failed")
    heads = [line["exception"][0] for line in log.lines]
    assert heads == ["ValueError", "UnicodeDecodeError", "ConfigurationError: x"]
    assert "test_an_exception_is_where" in log.lines[0]["exception"][1]
    assert SECRET not in log.text


def test_a_line_that_cannot_be_written_is_nowhere(capsys: pytest.CaptureFixture[str], log: Log) -> None:
    """Python would print message and arguments as they are to standard error."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    set_up_logging("text", "info", stream)
    logging.getLogger("autellix_server.x").warning("caf\N{LATIN SMALL LETTER E WITH ACUTE} %r", SECRET)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("it's the engine's own", "it's the engine's own"),
        ("field c is 'a b', and \"it's\" so", "field c is ***, and *** so"),
        (r"'it\'s' b", "*** b"),
        ("Authorization: Bearer abc.def now", "*** now"),
        ("x-api-key=abc", "***"),
        ("bearer abc", "***"),
        ("key sk-abcdefgh12", "key ***"),
        ("at https://user:pass@host/x", "at https://***@host/x"),
        ("1 token left", "1 token left"),
    ],
)
def test_redaction(text: str, redacted: str) -> None:
    """What stands in quotes, and what looks like a key."""
    assert redact(text) == redacted


def test_no_field_of_a_call_is_a_clients_text(log: Log) -> None:
    """Of what a client sends, a line has the program's ID, which is masked where it looks like a key."""
    log.start(level="debug")
    who = context("sk-" + SECRET, name=SECRET, salt=SECRET[:8])
    call = ended(who=who, traceparent=SECRET)
    CallLog().call_ended(call)
    CallLog().program_ended(program("sk-" + SECRET))
    assert [line["program"] for line in log.lines] == ["***", "***"]
    assert SECRET[:8] not in log.text


PLACES = [
    {"Authorization": f"Bearer {SECRET}"},
    {"x-api-key": SECRET, "api-key": SECRET, "Cookie": SECRET, "User-Agent": SECRET},
    {"x-autellix-program": f"bad {SECRET}", "x-autellix-call": "v1;s=a;t=0;c=0"},
    {"x-autellix-program": "p", "x-autellix-call": SECRET},
    {"x-autellix-program": "p", "x-autellix-call": f"v1;s={SECRET};t=0;c=0;it's={SECRET}"},
    identity(n=SECRET),
    {"x-autellix-stamp": SECRET, "x-autellix-ended": SECRET, "x-autellix-continue": SECRET},
    {"traceparent": SECRET, "tracestate": f"a b={SECRET}"},
    {"x-session-id": f"my {SECRET}"},
    {"Host": f"{SECRET}.example"},
    {"Origin": f"http://{SECRET}"},
    {"Content-Type": f"text/{SECRET}", "Expect": SECRET},
    {SECRET: SECRET},
]
RAW = [
    f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nbad header {SECRET}\r\n\r\n",
    f"GET /{SECRET}\x01 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    f"GET / HTTP/{SECRET}\r\n\r\n",
    f"{SECRET * 2000}\r\n\r\n",
    f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n{SECRET}\r\n",
    f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{SECRET}",
]


async def test_nothing_a_client_sends_is_in_the_log(log: Log) -> None:
    """A gateway that logs all it can, and secrets everywhere in requests: headers, paths, bodies, broken HTTP."""
    log.start(level="debug")
    async with running_engine() as engine, running_gateway(engine) as gateway:
        body = {"model": SECRET, "messages": [{"role": "user", "content": SECRET}], "user": SECRET}
        for headers in PLACES:
            for path in ("/v1/chat/completions", f"/v1/{SECRET}?key={SECRET}", "/autellix/v1/programs/end"):
                async with gateway.client.post(gateway.url + path, json=body, headers=headers) as reply:
                    await reply.read()
        engine.behave = engine.die_at_once
        await gateway.json("POST", "/v1/chat/completions", json=body)
        engine.behave = engine.die_within_stream
        async with gateway.client.post(gateway.url + "/v1/chat/completions", json=body | {"stream": True}) as reply:
            await reply.read()
        host, port = gateway.url.removeprefix("http://").split(":")
        for request in RAW:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request.encode("latin-1"))
            writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()
        logged = log.lines
        engine.behave = None
        assert (await gateway.json("POST", "/v1/chat/completions", json=CHAT))[0] == 200
    messages = {line["message"] for line in logged}
    assert "engine e0 failed a request: Server disconnected" in messages
    assert any(message.startswith("a call runs as its own program: field") for message in messages)
    assert any(message.startswith("a malformed HTTP request was refused: ") for message in messages)
    assert SECRET not in log.text
    assert SECRET[:8] not in log.text
