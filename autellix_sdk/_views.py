"""Time bills for people: as lines of text, and as a table of rich's where that is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autellix_sdk.bill import ProgramBill

_LABEL_WIDTH = 22


def parts_us(bill: ProgramBill) -> dict[str, int]:
    """Return where the time went, in microseconds: the calls' parts on the server, then ``tools``.

    The parts of calls that ran side by side add up. Where no call is billed there is one part, ``calls, not billed``.
    """
    time = bill.time
    parts = {f"queued: {cause}": us for cause, us in time.queued_us.items()} or {"queued": 0}
    parts |= {"prefill": time.prefill_us, "decode": time.decode_us, "swap": time.swap_us, "other": time.other_us}
    if not time.wall_us:
        parts = {"calls, not billed": max(0, bill.elapsed_us - bill.tool_us)}
    return parts | {"tools": bill.tool_us}


def shares(bill: ProgramBill) -> dict[str, float]:
    """Return the parts of `parts_us` as shares of the program's wall time, 0 to 1; they add up to 1, or are all 0.

    The time in which calls were in flight is split as the server split it: so calls side by side count once, and a
    call that is not billed is taken to be like the others.
    """
    parts = parts_us(bill)
    wall_us, tool_us = max(1, bill.elapsed_us), parts.pop("tools")
    in_calls = max(0, bill.elapsed_us - tool_us) / wall_us / max(1, sum(parts.values()))
    return {part: us * in_calls for part, us in parts.items()} | {"tools": tool_us / wall_us}


def title(bill: ProgramBill) -> str:
    """Return what is billed, on one line whatever its name is."""
    return _printable(f"{bill.name or 'program'} {bill.program}")


def size(bill: ProgramBill) -> str:
    """Return how many calls and threads it had, and how many calls are not billed."""
    pending = f" ({bill.pending} more not billed yet)" if bill.pending else ""
    return f"{_count(bill.calls, 'call')}{pending} in {_count(bill.threads, 'thread')}"


def bill_text(bill: ProgramBill) -> str:
    """Return the bill as lines of plain text."""
    rows = (f"  {part:{_LABEL_WIDTH}}{time:>10}{share:>7}".rstrip() for part, time, share in _rows(bill))
    return "\n".join((f"{title(bill)}: {size(bill)}", *rows, f"  {_tokens(bill)}"))


def bill_table(bill: ProgramBill) -> object:
    """Return the bill as something that rich prints: a table between its title and the token counts. Needs rich."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("part")
    table.add_column("time", justify="right")
    table.add_column("of the wall", justify="right")
    for row in _rows(bill):
        table.add_row(*map(Text, row), end_section=row[0] == "tools")
    return Group(Text(f"{title(bill)}: {size(bill)}"), table, Text(_tokens(bill)))


def _rows(bill: ProgramBill) -> Iterator[tuple[str, str, str]]:
    of_wall = shares(bill)
    for part, us in parts_us(bill).items():
        yield _printable(part), _seconds(us), f"{of_wall[part]:.0%}"
    yield "wall", _seconds(bill.elapsed_us), ""


def _printable(text: str) -> str:
    """Return text of a user's or a server's as a terminal may have it: on one line, without control characters."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _tokens(bill: ProgramBill) -> str:
    return (
        f"tokens: {bill.prompt_tokens} prompt ({bill.cached_tokens} cached), {bill.output_tokens} output, "
        f"{bill.swapped_tokens} swapped, {bill.recomputed_tokens} recomputed; {_count(bill.preemptions, 'preemption')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _seconds(us: int) -> str:
    return f"{us / 1_000_000:.3f} s"
