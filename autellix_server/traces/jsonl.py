"""The trace file: one program a line, JSON; a name that ends in ``.gz`` is compressed. Reading and writing stream."""

from __future__ import annotations

import difflib
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import IO, Any, cast

from autellix_server.traces.model import END_TURN, TraceCall, TraceError, TraceProgram, check_program, fault

_OWN_FIELDS = frozenset(field.name for field in fields(TraceProgram)) - {"facts"}
_CALL_FIELDS = frozenset(field.name for field in fields(TraceCall))
_CALL_DEFAULTS = {field.name: field.default for field in fields(TraceCall) if field.default is not MISSING}
_ALWAYS_WRITTEN = frozenset({"tool_seconds"})
_SPELLING = 0.85
"""How alike (0 to 1) an unknown field must be to a known one to be taken for a slip of the pen."""


def read_programs(path: Path) -> Iterator[TraceProgram]:
    """Yield the programs of a trace file, each one checked.

    Raises:
        TraceError: the file cannot be read, or at the first line that breaks the format.
    """
    for found in scan_programs(path):
        if isinstance(found, TraceError):
            raise found
        yield found


def scan_programs(path: Path) -> Iterator[TraceProgram | TraceError]:
    """Yield for every line that is not blank the program in it, or what is wrong with it; never raises `TraceError`.

    A file that cannot be read on ends the scan with an error that says so.
    """
    line: int | None = None
    seen: dict[str, int] = {}
    try:
        with open_text(path, "r") as stream:
            line = 0
            for line, text in enumerate(stream, start=1):
                if text.strip():
                    yield _scan_line(text, str(path), line, seen)
    except TraceError as error:
        yield error if line is None else error.at(str(path), line + 1)


def write_programs(path: Path, programs: Iterable[TraceProgram]) -> int:
    """Write a trace file and return the number of programs in it.

    The file takes its name when it is whole: a failure leaves what had that name as it was, and `programs` may be read
    from it.

    Raises:
        TraceError: a program breaks the format, or the file cannot be written.
    """
    with _replaced(path) as target, open_text(target, "w") as stream:
        return dump_programs(stream, programs)


def dump_programs(stream: IO[str], programs: Iterable[TraceProgram]) -> int:
    """Write programs to an open stream, one a line, and return their number; raises as `write_programs` does."""
    count = 0
    for program in programs:
        check_program(program)
        stream.write(json.dumps(program_to_json(program), separators=(",", ":"), allow_nan=False) + "\n")
        count += 1
    return count


@contextmanager
def open_text(path: Path, mode: str) -> Iterator[IO[str]]:
    """Open a text file of UTF-8, compressed if its name ends in ``.gz``; `mode` is ``r`` or ``w``.

    A byte order mark, with which some editors and spreadsheets begin a file, is no part of the text.

    Raises:
        TraceError: the file cannot be opened, read on or written on.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    encoding = "utf-8-sig" if mode == "r" else "utf-8"
    try:
        stream = cast(IO[str], opener(path, mode + "t", encoding=encoding))
    except OSError as error:
        raise TraceError(f"the file cannot be opened: {error.strerror}; check the name", str(path)) from error
    try:
        with stream:
            yield stream
    except (EOFError, UnicodeDecodeError, zlib.error, OSError) as error:
        doing = "read" if mode == "r" else "written"
        raise TraceError(f"the file cannot be {doing} on: {error}; {_remedy(error)}", str(path)) from error


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Yield the name of a file that becomes `path` if all goes well, and is removed if not.

    What is no file, as a pipe, or may not be written, is yielded as it is.
    """
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        yield path
        return
    whole = path.resolve()
    part = whole.with_name(f".part-{os.getpid()}-{whole.name}")
    try:
        yield part
        part.replace(whole)
    except TraceError as error:
        raise (error.at(str(path)) if error.file == str(part) else error) from error.__cause__
    finally:
        part.unlink(missing_ok=True)


def _remedy(error: Exception) -> str:
    """Return what helps against an error in the midst of a file."""
    if isinstance(error, gzip.BadGzipFile):
        return "take .gz off its name if it is not compressed"
    if isinstance(error, UnicodeDecodeError):
        return "write it again as UTF-8, or end its name in .gz if it is compressed"
    if isinstance(error, EOFError | zlib.error):
        return "it is cut short or damaged: copy or write it again"
    return "check disk and permissions"


def program_from_json(record: object) -> TraceProgram:
    """Read one program from a JSON value and check it.

    Fields of a program that the format does not know are kept in `TraceProgram.facts`, unless they look like a slip
    of the pen; unknown fields of a call are refused.

    Raises:
        TraceError: naming the field, its value and the remedy; without file and line.
    """
    program = _Fields(record, "")
    unknown = program.names - _OWN_FIELDS
    for name in sorted(unknown):
        _refuse_slip(name, _OWN_FIELDS)
    calls = program.required("calls")
    if not isinstance(calls, list):
        raise fault("calls", calls, "write a list of calls")
    found = TraceProgram(
        program_id=program.text("program_id"),
        kind=program.text("kind"),
        source=program.text("source"),
        calls=tuple(_call_from_json(call, f"calls[{index}].") for index, call in enumerate(calls)),
        arrival_seconds=program.seconds("arrival_seconds"),
        opening=program.optional_text("opening"),
        tool_tokens=program.count("tool_tokens", 0),
        system_tokens=program.count("system_tokens", 0),
        scaled=program.optional_text("scaled"),
        facts={name: program.required(name) for name in sorted(unknown)},
    )
    check_program(found)
    return found


def program_to_json(program: TraceProgram) -> dict[str, Any]:
    """Return the JSON object of a program; fields that say nothing are left out."""
    record: dict[str, Any] = {"program_id": program.program_id, "kind": program.kind, "source": program.source}
    if program.arrival_seconds is not None:
        record["arrival_seconds"] = program.arrival_seconds
    for name in ("opening", "tool_tokens", "system_tokens", "scaled"):
        if getattr(program, name):
            record[name] = getattr(program, name)
    return {**record, **program.facts, "calls": [_call_to_json(call) for call in program.calls]}


def _scan_line(text: str, file: str, line: int, seen: dict[str, int]) -> TraceProgram | TraceError:
    try:
        program = program_from_json(json.loads(text, parse_constant=_refuse_constant))
    except TraceError as error:
        return error.at(file, line)
    except (ValueError, RecursionError) as error:
        return TraceError(f"the line is not JSON ({error}); write one JSON object a line", file, line)
    if program.program_id in seen:
        remedy = f"give it an ID of its own: line {seen[program.program_id]} has the same"
        return fault("program_id", program.program_id, remedy).at(file, line)
    seen[program.program_id] = line
    return program


def _call_from_json(record: object, path: str) -> TraceCall:
    call = _Fields(record, path)
    unknown = call.names - _CALL_FIELDS
    for name in sorted(unknown):
        _refuse_slip(name, _CALL_FIELDS, path)
        raise fault(path + name, call.required(name), "leave it out: a call has no such field")
    stop = call.optional_text("stop")
    if stop not in (None, END_TURN):
        raise fault(path + "stop", stop, f"write {END_TURN!r} when a person fills the gap, else leave it out")
    return TraceCall(
        id=call.text("id"),
        parents=call.texts("parents"),
        thread=call.count("thread"),
        prompt_tokens=call.count("prompt_tokens"),
        shared_prefix_tokens=call.count("shared_prefix_tokens"),
        output_tokens=call.count("output_tokens"),
        tool_seconds=call.seconds("tool_seconds"),
        stop=stop,
        tool_name=call.optional_text("tool_name"),
        role=call.optional_text("role"),
        synthetic_output=call.flag("synthetic_output"),
        t=call.seconds("t"),
    )


def _call_to_json(call: TraceCall) -> dict[str, Any]:
    record = {name: getattr(call, name) for name in TraceCall.__slots__}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in record.items()
        if name in _ALWAYS_WRITTEN or name not in _CALL_DEFAULTS or value != _CALL_DEFAULTS[name]
    }


def _refuse_constant(constant: str) -> None:
    raise TraceError(f"the line has the number {constant}, which is not JSON; write null when a number is not known")


def _refuse_slip(name: str, known: Iterable[str], path: str = "") -> None:
    """Refuse a field that is almost one of the known ones."""
    meant = difflib.get_close_matches(name, known, n=1, cutoff=_SPELLING)
    if meant:
        raise TraceError(f"field {path}{name} is unknown; write {meant[0]}")


class _Fields:
    """The fields of one JSON object, taken by type; `path` goes before their names in errors."""

    def __init__(self, record: object, path: str) -> None:
        if not isinstance(record, Mapping):
            raise fault(path.rstrip(".") or "of the line", record, "write a JSON object")
        self._record = record
        self._path = path

    @property
    def names(self) -> set[str]:
        return set(self._record)

    def required(self, name: str) -> object:
        if name not in self._record:
            raise TraceError(f"field {self._path}{name} is missing; write it")
        return self._record[name]

    def text(self, name: str) -> str:
        value = self.required(name)
        if not isinstance(value, str):
            raise fault(self._path + name, value, "write a text")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self._record.get(name) is None else self.text(name)

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.required(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise fault(self._path + name, value, "write a list of call IDs, [] for a root call")
        return tuple(value)

    def count(self, name: str, default: int | None = None) -> int:
        value = self._record.get(name, default) if default is not None else self.required(name)
        if type(value) is not int:
            raise fault(self._path + name, value, "write a whole number of 0 or more")
        return value

    def seconds(self, name: str) -> float | None:
        value = self._record.get(name)
        if value is None:
            return None
        if type(value) not in (int, float):
            raise fault(self._path + name, value, "write seconds of 0 or more, or null when they are not known")
        try:
            return float(cast(float, value))
        except OverflowError:
            raise fault(self._path + name, value, "write fewer seconds, or null when they are not known") from None

    def flag(self, name: str) -> bool:
        value = self._record.get(name, False)
        if not isinstance(value, bool):
            raise fault(self._path + name, value, "write true or false")
        return value
