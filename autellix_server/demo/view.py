"""The table of programs that the demo shows: pure functions from rows of the programs API to what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]
"""One program as `GET /autellix/v1/programs` returns it."""

_US_PER_S = 1_000_000
_STYLES = {"active": "green", "idle": "yellow", "ended": "dim"}


def programs_table(rows: Sequence[Row], title: str) -> Table:
    """Return the table of programs, in the order of `rows`."""
    table = Table(title=title, title_justify="left")
    table.add_column("program", no_wrap=True)
    table.add_column("state")
    for name in ("level", "calls", "threads", "tokens", "queued s", "prefill s", "decode s", "other s", "tools s"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(row["state"], "")) for cell in cells(row)))
    return table


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of one program: identity, place in the schedule, and where its time went."""
    bill = row["bill"]
    seconds = (
        sum(bill["queued_us"].values()),
        bill["prefill_us"],
        bill["decode_us"],
        bill["swap_us"] + bill["other_us"],
        bill["tool_us"],
    )
    active = row["calls_active"]
    return (
        f"{row['name'] or 'program'} {row['id'][:6]}",
        row["state"],
        str(row["level"]),
        f"{row['calls_completed']}" + (f" +{active}" if active else ""),
        str(row["threads"]),
        str(bill["output_tokens"]),
        *(f"{us / _US_PER_S:.2f}" for us in seconds),
    )


def status_line(rows: Sequence[Row]) -> str:
    """Return one line for an output that cannot be redrawn."""
    states = [row["state"] for row in rows]
    calls = sum(row["calls_completed"] for row in rows)
    active = sum(row["calls_active"] for row in rows)
    return (
        f"{len(rows)} programs ({states.count('ended')} ended): {calls} calls done, {active} in flight, "
        f"{sum(row['bill']['output_tokens'] for row in rows)} tokens"
    )
