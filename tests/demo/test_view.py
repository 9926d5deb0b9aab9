"""What the demo draws, from rows of the programs API."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from autellix_sdk.bill import ProgramBill, TimeSplit
from autellix_sdk.wire import ProgramId
from autellix_server.demo.view import cells, programs_table, status_line

TIME = TimeSplit({"admission": 1_500_000, "batch": 250_000}, 500_000, 2_000_000, 0, 40_000)


def row(**changes: Any) -> dict[str, Any]:
    """A program with one call in flight."""
    bill = ProgramBill(ProgramId("0123456789ab"), "react", 3, 1, 2, TIME, 0, 0, 0, 77, 0, 9_000_000, 3_210_000)
    made: dict[str, Any] = {
        "id": "0123456789ab",
        "name": "react",
        "state": "active",
        "level": 4,
        "calls_active": 1,
        "calls_completed": 3,
        "threads": 2,
        "bill": bill.to_json(),
    }
    return made | changes


def test_cells_show_identity_place_and_time() -> None:
    """Times in seconds; calls done and in flight apart."""
    assert cells(row()) == (
        "react 012345", "active", "4", "3 +1", "2", "77", "1.75", "0.50", "2.00", "0.04", "3.21",
    )  # fmt: skip


def test_program_without_a_name_or_calls_in_flight() -> None:
    """Nothing is made up."""
    assert cells(row(name=None, calls_active=0))[0::3][:2] == ("program 012345", "3")


def test_table_has_a_line_per_program() -> None:
    """In the order of the rows."""
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(programs_table([row(), row(id="ffffff000000", state="ended")], "Programs"))
    text = console.export_text()
    assert text.index("react 012345") < text.index("react ffffff")
    assert "ended" in text


def test_status_line_counts() -> None:
    """For an output that cannot be redrawn."""
    rows = [row(), row(state="ended", calls_active=0)]
    assert status_line(rows) == "2 programs (1 ended): 6 calls done, 1 in flight, 154 tokens"
