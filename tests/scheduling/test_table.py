"""The program table: accounts, life cycle, bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.policies.attained import AtlasDag, Plas
from autellix_server.scheduling.table import MAX_THREADS, ActiveCall, ProgramTable, TableLimits

A, B = ProgramId("a"), ProgramId("b")


def make_table(**limits: float) -> ProgramTable:
    """A table under PLAS whose first level ends at one second."""
    return ProgramTable(Plas(geometric_levels(first_bound_s=1.0)), TableLimits(**limits))  # type: ignore[arg-type]


def context(program: str = "a", call: str = "0.0", thread: int = 0) -> CallContext:
    """A call of a program."""
    return CallContext(ProgramId(program), "s", thread, CallId(call), name="agent")


def bill(call: ActiveCall, service_s: float, queued_s: float = 0.0) -> CallBill:
    """What an engine reports: a wait and a decode."""
    time = TimeSplit({"admission": round(queued_s * 1e6)}, decode_us=round(service_s * 1e6))
    tokens = {"output_tokens": 7, "recomputed_tokens": 2, "swapped_tokens": 3}
    return CallBill(call.context.program, call.context.call, "e0", time, service_us=time.decode_us, **tokens)


def test_call_inherits_what_its_program_attained() -> None:
    """Service and wait of completed calls are the base of the next one."""
    table = make_table()
    first = table.arrive(context(), now=0.0)
    table.complete(first, bill(first, service_s=3.0, queued_s=2.0), now=5.0)
    second = table.arrive(context(call="0.1"), now=6.0)
    assert (second.base_service_s, second.base_wait_s) == (3.0, 2.0)
    row = table.get(A)
    assert row is not None
    assert table.level_of(row) == 2


def test_call_inherits_by_the_rule_of_the_policy() -> None:
    """Under ATLAS by true parents a branch inherits its own path, not the longest of its program."""
    table = ProgramTable(AtlasDag(geometric_levels()))
    for name, service_s in (("0.0", 1.0), ("1.0", 5.0)):
        call = table.arrive(context(call=name), now=0.0)
        table.complete(call, bill(call, service_s), now=5.0)
    child = CallContext(A, "s", 0, CallId("0.1"), parents=(CallId("0.0"),))
    assert table.arrive(child, now=6.0).base_service_s == 1.0


def test_program_bill_splits_elapsed_time_into_busy_and_tool_time() -> None:
    """Time without a call in flight is tool time; overlapping calls count once."""
    table = make_table()
    one = table.arrive(context(), now=0.0)
    two = table.arrive(context(call="1.0", thread=1), now=1.0)
    table.complete(one, bill(one, 1.0), now=2.0)
    table.complete(two, bill(two, 1.0), now=4.0)
    row = table.open(A, None, now=9.0)
    made = row.bill(now=10.0)
    assert (made.calls, made.pending, made.threads) == (2, 0, 2)
    assert made.elapsed_us == 10_000_000
    assert made.tool_us == 6_000_000
    assert made.service_us == 2_000_000
    assert (made.output_tokens, made.recomputed_tokens, made.swapped_tokens) == (14, 4, 6)


def test_end_waits_for_calls_in_flight() -> None:
    """A program announced as ended lives until its last call completes, and its bill has all of them."""
    table = make_table()
    call = table.arrive(context(), now=0.0)
    row = table.end(A, now=1.0)
    assert row is not None
    assert row.ended_s is None
    assert len(table) == 1
    table.complete(call, bill(call, 2.0), now=3.0)
    assert len(table) == 0
    assert row.ended_s == 3.0
    assert row.bill(now=99.0).elapsed_us == 3_000_000


def test_end_of_unknown_program_returns_none() -> None:
    """The API turns it into a 404 for that program alone."""
    assert make_table().end(A, now=0.0) is None


def test_leaving_and_coming_back_buys_nothing() -> None:
    """An ended program that calls again starts with the service it had attained."""
    table = make_table()
    call = table.arrive(context(), now=0.0)
    table.complete(call, bill(call, 5.0), now=5.0)
    table.end(A, now=5.0)
    again = table.arrive(context(call="0.1"), now=100.0)
    assert again.base_service_s == 5.0


def test_lease_ends_an_idle_program_and_tombstone_is_forgotten_later() -> None:
    """No message is needed: silence ends a program, and much later its account is dropped."""
    table = make_table(lease_s=10.0, tombstone_s=100.0)
    call = table.arrive(context(), now=0.0)
    table.complete(call, bill(call, 5.0), now=1.0)
    assert table.expire(now=10.9) == []
    assert [row.id for row in table.expire(now=11.0)] == [A]
    assert table.get(A) is not None
    table.expire(now=111.0)
    assert table.get(A) is None
    assert table.arrive(context(), now=112.0).base_service_s == 0.0


def test_a_program_without_a_call_is_forgotten_with_its_lease() -> None:
    """It has no account that anybody could want, unless somebody ended it and may ask again."""
    changed: list[str] = []
    table = ProgramTable(
        Plas(geometric_levels()), TableLimits(lease_s=10.0), on_change=lambda row: changed.append(row.id)
    )
    for name in (A, B):
        table.open(name, None, now=0.0)
    table.end(B, now=1.0)
    changed.clear()
    assert [row.id for row in table.expire(now=10.0)] == [A]
    assert table.get(A) is None
    assert table.get(B) is not None
    assert changed == [A]


def test_reopening_renews_the_lease_and_leaves_the_dead_time_out_of_the_bill() -> None:
    """A program that was ended lives again from its reopening on."""
    table = make_table(lease_s=10.0)
    call = table.arrive(context(), now=0.0)
    table.complete(call, bill(call, 1.0), now=2.0)
    table.end(A, now=3.0)
    row = table.open(A, None, now=100.0)
    assert table.expire(now=109.0) == []
    assert row.bill(now=101.0).elapsed_us == 4_000_000
    assert row.bill(now=101.0).tool_us == 2_000_000
    assert [ended.id for ended in table.expire(now=110.0)] == [A]


def test_threads_of_a_hostile_program_are_bounded() -> None:
    """Whoever sends ever new salts costs no ever growing memory."""
    table = make_table()
    for number in range(MAX_THREADS + 5):
        table.complete(table.arrive(context(call=f"{number}.0", thread=number), now=0.0), None, now=0.0)
    row = table.get(A)
    assert row is not None
    assert len(row.threads) == MAX_THREADS
    assert row.completed == MAX_THREADS + 5


def test_program_with_a_call_in_flight_does_not_expire() -> None:
    """A long call is not silence, and does not shield idle programs behind it."""
    table = make_table(lease_s=10.0)
    table.arrive(context("busy"), now=0.0)
    table.open(ProgramId("idle"), None, now=1.0)
    assert [row.id for row in table.expire(now=50.0)] == ["idle"]
    assert [row.id for row in table] == ["busy"]


def test_anonymous_call_leaves_nothing_behind() -> None:
    """A call without a program is its own program and vanishes with it."""
    table = make_table()
    call = table.arrive(context("anonymous"), now=0.0, single_call=True)
    table.complete(call, None, now=1.0)
    assert len(table) == 0
    assert table.get(ProgramId("anonymous")) is None


def test_full_table_ends_the_stalest_idle_program() -> None:
    """Memory is bounded; a busy program is never the one to go."""
    table = make_table(max_programs=2)
    table.arrive(context("busy"), now=0.0)
    table.open(ProgramId("old"), None, now=1.0)
    table.open(ProgramId("new"), None, now=2.0)
    assert [row.id for row in table] == ["busy", "new"]


def test_completing_a_call_twice_is_an_error() -> None:
    """A bill is booked once."""
    table = make_table()
    call = table.arrive(context(), now=0.0)
    table.complete(call, None, now=1.0)
    with pytest.raises(KeyError):
        table.complete(call, None, now=2.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 10), st.booleans()), max_size=30))
def test_service_is_the_sum_of_bills_whatever_the_order(steps: list[tuple[int, float, bool]]) -> None:
    """Under PLAS a program's service is what its calls were billed, however calls and ends interleave."""
    table, expected, open_calls = make_table(), [0.0] * 4, list[tuple[int, ActiveCall]]()
    for now, (index, service_s, ending) in enumerate(steps):
        open_calls.append((index, table.arrive(context(str(index), f"0.{now}"), now=float(now))))
        if ending:
            table.end(ProgramId(str(index)), now=float(now))
            done, call = open_calls.pop(0)
            made = bill(call, service_s)
            table.complete(call, made, now=float(now))
            expected[done] += made.service_us / 1e6
    for index in range(4):
        row = table.get(ProgramId(str(index)))
        assert (row.service_s if row else 0.0) == pytest.approx(expected[index])


def test_changed_rows_are_told_of_and_those_of_single_calls_are_not() -> None:
    """Whoever stores rows hears of each that changed or was forgotten, whatever changed it."""
    heard: list[str] = []
    table = ProgramTable(
        Plas(geometric_levels()),
        TableLimits(lease_s=10.0, tombstone_s=100.0, max_programs=2),
        on_change=lambda row: heard.append(row.id),
    )

    def news() -> set[str]:
        found = set(heard)
        heard.clear()
        return found

    call, other = (table.arrive(context(), now=0.0, tenant="acme") for _ in range(2))
    assert news() == {"a"}
    table.complete(other, None, now=0.0)
    assert news() == {"a"}
    row = table.end(A, now=0.0)
    assert news() == {"a"}
    assert row is not None
    table.pin(row, "e1")
    assert news() == {"a"}
    table.pin(row, "e1")
    assert news() == set()
    table.complete(call, None, now=1.0)
    assert news() == {"a"}
    assert (row.ended_s, row.pin, row.tenant) == (1.0, "e1", "acme")
    table.end(A, now=1.0)
    assert news() == set()
    alone = table.arrive(context("alone"), now=1.0, single_call=True)
    table.complete(alone, None, now=1.0)
    assert news() == set()
    for program in "bcd":
        table.complete(table.arrive(context(program), now=2.0), None, now=2.0)
        assert program in news()
    assert [ended.id for ended in table.ended()] == ["a", "b"], "the stalest ended to make room"
    table.expire(now=12.0)
    assert news() == {"a", "b", "c", "d"}, "two ended, and two were forgotten to make room"
    table.expire(now=112.0)
    assert news() == {"c", "d"}


def test_restored_rows_live_end_and_make_room_as_before() -> None:
    """A table takes up another's rows in their order, ends what was announced to end, and keeps to its own limits."""
    first = make_table()
    for number, program in enumerate("abcdef"):
        first.complete(first.arrive(context(program), now=float(number)), None, now=float(number))
    for program in "dc":
        first.end(ProgramId(program), now=10.0 + (program == "c"))
    ending = first.get(ProgramId("b"))
    assert ending is not None
    ending.ending = True
    ended: list[str] = []
    second = ProgramTable(Plas(geometric_levels()), TableLimits(max_programs=2), lambda row: ended.append(row.id))
    second.restore([*first, *first.ended()], now=20.0)
    assert [row.id for row in second] == ["e", "f"]
    assert [row.id for row in second.ended()] == ["b", "a"]
    assert ended == ["b", "a"]
