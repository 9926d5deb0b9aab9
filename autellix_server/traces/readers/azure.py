"""Azure LLM inference traces: CSV with a time and two token counts a request, and nothing that joins requests.

The columns are ``TIMESTAMP`` (ISO 8601, in UTC unless it says otherwise), ``ContextTokens`` and ``GeneratedTokens``.
Each row is a program of one call.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from autellix_server.traces.jsonl import open_text
from autellix_server.traces.model import TraceCall, TraceError, TraceProgram, fault

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read_azure(path: Path) -> Iterator[TraceProgram]:
    """Yield the rows as programs, with arrival times from the first row on.

    Args:
        path: the CSV file, ``.gz`` too; its rows are in order of time.

    Raises:
        TraceError: a column is missing or a row is wrong; the message names line, field and value.
    """
    first: datetime | None = None
    with open_text(path, "r") as stream:
        rows = csv.DictReader(stream)
        missing = set(COLUMNS) - set(rows.fieldnames or ())
        if missing:
            raise TraceError(f"column {min(missing)} is missing; use the header {','.join(COLUMNS)}", str(path), 1)
        for number, row in enumerate(rows):
            try:
                time = _time(row["TIMESTAMP"])
                first = first or time
                yield _program(number, row, (time - first).total_seconds())
            except TraceError as error:
                raise error.at(str(path), rows.line_num) from None


def _program(number: int, row: dict[str, str], arrival_s: float) -> TraceProgram:
    if arrival_s < 0:
        raise fault("TIMESTAMP", row["TIMESTAMP"], "sort the rows by time")
    prompt, output = _count(row, "ContextTokens", 1), _count(row, "GeneratedTokens", 0)
    call = TraceCall("0", (), 0, prompt, 0, output, t=arrival_s)
    return TraceProgram(f"azure-{number}", "single", "Azure LLM inference trace", (call,), arrival_s)


def _time(text: str | None) -> datetime:
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        raise fault("TIMESTAMP", text, "write a time such as 2023-11-16 18:15:46.6805900") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _count(row: dict[str, str], name: str, least: int) -> int:
    text = row[name]
    try:
        value = int(text)
    except (TypeError, ValueError):
        value = -1
    if value < least:
        raise fault(name, text, f"write a whole number of {least} or more")
    return value
