"""Bills as people see them."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from autellix_sdk._views import shares
from autellix_sdk.bill import ProgramBill, TimeSplit
from autellix_sdk.wire import ProgramId

TIME = TimeSplit({"admission": 400_000, "batch": 100_000}, 250_000, 1_500_000, other_us=250_000)
BILL = ProgramBill(ProgramId("p"), "research", 3, 1, 2, TIME, 0, 90, 40, 12, 1, 5_000_000, 1_250_000, 8, 64)


def test_a_bill_prints_as_a_table_of_text() -> None:
    """Where the time went by part, and its share of the wall time."""
    assert str(BILL).splitlines() == [
        "research p: 3 calls (1 more not billed yet) in 2 threads",
        "  queued: admission        0.400 s    12%",
        "  queued: batch            0.100 s     3%",
        "  prefill                  0.250 s     8%",
        "  decode                   1.500 s    45%",
        "  swap                     0.000 s     0%",
        "  other                    0.250 s     8%",
        "  tools                    1.250 s    25%",
        "  wall                     5.000 s",
        "  tokens: 90 prompt (40 cached), 12 output, 64 swapped, 8 recomputed; 1 preemption",
    ]


def test_rich_prints_a_table() -> None:
    """The same cells; what looks like markup in a name is text."""
    output = io.StringIO()
    Console(file=output, width=100).print(replace(BILL, name="[red]r"))
    lines = output.getvalue().splitlines()
    assert lines[0] == "[red]r p: 3 calls (1 more not billed yet) in 2 threads"
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert cells[0] == ["queued: admission", "0.400 s", "12%"]
    assert cells[-2:] == [["tools", "1.250 s", "25%"], ["wall", "5.000 s", ""]]
    assert "64 swapped" in lines[-1]


def test_bills_print_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no dependency of the SDK."""
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.table", None)
    assert str(BILL).startswith("research p: 3 calls")


@pytest.mark.parametrize("time", [TIME, TimeSplit(), TimeSplit(decode_us=99_000_000)])
def test_shares_add_up_to_the_wall_time(time: TimeSplit) -> None:
    """Also where calls ran side by side, and where none is billed."""
    assert sum(shares(replace(BILL, time=time)).values()) == pytest.approx(1.0)


def test_calls_without_a_bill_are_one_part() -> None:
    """Streams that are still pending, or a server that bills nothing."""
    text = str(replace(BILL, time=TimeSplit(), calls=0, pending=1, threads=1))
    assert text.splitlines()[:3] == [
        "research p: 0 calls (1 more not billed yet) in 1 thread",
        "  calls, not billed        3.750 s    75%",
        "  tools                    1.250 s    25%",
    ]


def test_a_program_that_took_no_time_has_no_shares() -> None:
    """Nothing is divided by zero."""
    assert set(shares(replace(BILL, elapsed_us=0, tool_us=0)).values()) == {0.0}


def test_what_a_server_says_commands_no_terminal() -> None:
    """Control characters in the program's ID and in causes of waiting are shown as replaced."""
    text = str(replace(BILL, program=ProgramId("p\x1b[2J"), time=TimeSplit({"batch\x1b[2J\n": 1})))
    assert "\x1b" not in text
    assert text.splitlines()[1].startswith("  queued: batch\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER} ")


def test_a_name_stays_on_its_line() -> None:
    """Line breaks and control characters in it are shown as replaced."""
    text = str(replace(BILL, name="two\nlines\x1b[2J ü"))
    assert text.splitlines()[0].startswith("two\N{REPLACEMENT CHARACTER}lines\N{REPLACEMENT CHARACTER}[2J ü p: ")
