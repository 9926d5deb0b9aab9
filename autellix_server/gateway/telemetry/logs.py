"""Logs of the gateway, as JSON objects or text, one line each, with at most one line at INFO for a call.

What a client sends is not logged: no prompt, no key, no header. Three rules see to that, whoever logs:

- Our own messages show a client's words only in quotes, and what stands in quotes is masked.
- Of other packages' messages one line is kept. An exception is shown by its type and where it was raised, since its
  text may quote a request; those of our own error tree name settings and are shown.
- Whatever looks like a key is masked.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from autellix_sdk.errors import AutellixError
from autellix_server.gateway.telemetry.events import (
    CallRecord,
    EngineChange,
    Listener,
    Note,
    PinMove,
    Refusal,
    Stage,
    StoreChange,
)
from autellix_server.scheduling.table import Program

_log = logging.getLogger(__name__)

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_OURS = ("autellix_server", "autellix_sdk")
_MASK = "***"
_MAX_FOREIGN = 200
_MAX_FRAMES = 8
_FIELDS = "autellix_fields"
_QUOTED = re.compile(r"(?<!\w)(?:'(?:[^'\\]|\\.)*+'|\"(?:[^\"\\]|\\.)*+\")(?!\w)")
_KEY = re.compile(
    r"(?i)\b(?:bearer|basic)\s+\S+"
    r"|\b(?:authorization|proxy-authorization|x-api-key|api[-_]key|cookie|password|secret|token)\b"
    r"\s*[:=]\s*(?:(?:bearer|basic)\s+)?\S+"
    r"|\b(?:sk|pk|hf|ghp|xoxb)[-_][A-Za-z0-9_-]{8,}"
    r"|(?<=://)[^/\s@]+(?=@)"
)


def redact(text: str) -> str:
    """Return a message with masks in place of keys and of what stands in quotes."""
    return _KEY.sub(_MASK, _QUOTED.sub(_MASK, text))


def set_up_logging(log_format: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Send the process's log to a stream; to be called once, before anything is logged.

    Args:
        log_format: how a line looks.
        level: least level of our own messages; of other packages' only warnings and errors are shown.
        stream: where to, standard error by default.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.raiseExceptions = False  # A line that cannot be written would be printed as it is, not as it is shown here.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())


class JsonFormatter(logging.Formatter):
    """One JSON object for each record, with the keys ``time``, ``level``, ``logger``, ``message`` first.

    ``time`` is in UTC. Fields of a call and ``exception`` follow where there are any.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _exception(record.exc_info[1])
        return json.dumps(line, separators=(",", ":"), default=str)


class TextFormatter(logging.Formatter):
    """One line for people: the message, then fields as ``key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        words = [f"autellix: {_message(record)}"]
        words += [f"{key}={json.dumps(value, default=str)}" for key, value in _fields(record).items()]
        if record.exc_info and record.exc_info[1] is not None:
            words.append("| " + " < ".join(_exception(record.exc_info[1])))
        return " ".join(words)


class CallLog(Listener):
    """Logs what it hears: one line at INFO when a call ends, and what operators have to see."""

    def call_ended(self, call: CallRecord) -> None:
        """Log who the call was, what became of it, and where its time went."""
        if _log.isEnabledFor(logging.INFO):
            _log.info("call", extra={_FIELDS: _call_fields(call)})

    def program_ended(self, program: Program) -> None:
        """Log a program's end, for those who look closely."""
        if not program.single_call and _log.isEnabledFor(logging.DEBUG):
            ended_by = "message" if program.ending else "lease"
            fields = {"program": redact(program.id), "calls": program.completed, "ended_by": ended_by}
            _log.debug("program ended", extra={_FIELDS: fields})

    def engine_changed(self, change: EngineChange) -> None:
        """Log a change of state, as a warning where calls may not go to the engine."""
        level = logging.INFO if change.breaker == "closed" else logging.WARNING
        fields = {"engine": change.engine, "state": change.state, "breaker": change.breaker}
        _log.log(level, "engine: %s", change.detail or change.state, extra={_FIELDS: fields})

    def noted(self, note: Note) -> None:
        """Log what concerns the operator; refusals, of which anybody can cause any number, only at DEBUG."""
        match note:
            case Refusal():
                _log.debug("refused", extra={_FIELDS: {"reason": note.reason, "tenant": note.tenant}})
            case PinMove():
                fields = {"reason": note.reason, "source": note.source, "target": note.target}
                _log.debug("a program moved to another engine", extra={_FIELDS: fields})
            case StoreChange():
                level = logging.INFO if note.healthy else logging.WARNING
                _log.log(level, "state store: %s", note.detail, extra={_FIELDS: {"healthy": note.healthy}})


def _call_fields(call: CallRecord) -> dict[str, Any]:
    context, bill = call.context, call.bill
    first_byte, sent = call.last(Stage.FIRST_BYTE), call.last(Stage.SENT)
    return {
        "program": redact(context.program),
        "call": context.call,
        "thread": context.thread,
        "retry": context.retry,
        "tenant": call.tenant,
        "path": call.path,
        "model": call.model,
        "engine": call.engine,
        "streamed": call.streamed,
        "outcome": call.outcome,
        "failed_attempts": sum(moment.stage is Stage.FAILED for moment in call.moments),
        "sent_ms": _ms_after(call, None if sent is None else sent.at_s),
        "first_byte_ms": _ms_after(call, None if first_byte is None else first_byte.at_s),
        "wall_ms": _ms_after(call, call.ended_s),
        "queued_ms": None if bill is None else bill.time.total_queued_us / 1000,
        "prefill_ms": None if bill is None else bill.time.prefill_us / 1000,
        "decode_ms": None if bill is None else bill.time.decode_us / 1000,
        "prompt_tokens": None if bill is None else bill.prompt_tokens,
        "cached_tokens": None if bill is None else bill.cached_tokens,
        "output_tokens": None if bill is None else bill.output_tokens,
        "preemptions": None if bill is None else bill.preemptions,
    }


def _ms_after(call: CallRecord, at_s: float | None) -> float | None:
    return None if at_s is None else round((at_s - call.arrived_s) * 1000, 3)


def _message(record: logging.LogRecord) -> str:
    text = redact(record.getMessage())
    if record.name.partition(".")[0] in _OURS:
        return text.replace("\n", " ")
    return text.partition("\n")[0][:_MAX_FOREIGN]


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, _FIELDS, {})
    return fields


def _exception(error: BaseException) -> list[str]:
    """Return what an exception is and where it comes from, the innermost place first."""
    name = type(error).__name__
    if isinstance(error, AutellixError):
        name += f": {redact(str(error))}".replace("\n", " ")
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    return [name, *(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))]
