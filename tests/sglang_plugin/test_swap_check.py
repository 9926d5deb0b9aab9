"""Which pages are summed, what is remembered of them, and what is found out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_server.sglang_plugin.swap_check import Arrival, SwapCheck


def landed(sums: dict[int, int]) -> Arrival:
    """Sums that are there."""
    return lambda: (list(sums), list(sums.values()))


@given(st.floats(0, 1), st.lists(st.integers(0, 40), max_size=20))
def test_the_share_is_kept_over_any_operations(share: float, operations: list[int]) -> None:
    """As many as it is of all that went out, but for one, however they were split."""
    check = SwapCheck(share)
    taken = 0
    for pages in operations:
        places = check.sample(pages)
        assert all(0 <= place < pages for place in places)
        assert places == sorted(set(places))
        taken += len(places)
    assert abs(taken - sum(operations) * share) <= 1


@pytest.mark.parametrize(("share", "expected"), [(0, []), (1, [0, 1, 2, 3, 4, 5])])
def test_none_and_all(share: float, expected: Sequence[int]) -> None:
    """Every time."""
    check = SwapCheck(share)
    assert [check.sample(6) for _ in range(3)] == [expected] * 3


def test_no_place_of_an_operation_is_left_out() -> None:
    """Though all of them have as many pages as one of which is taken."""
    check = SwapCheck(0.02)
    taken = [check.sample(50) for _ in range(500)]
    assert all(len(places) == 1 for places in taken)
    assert {place for places in taken for place in places} == set(range(50))


def test_pages_that_changed_are_found_and_counted() -> None:
    """Every time they are looked at."""
    check = SwapCheck(1)
    check.expect(landed({7: 70, 8: 80, 9: -90}))
    assert check.known([9, 1, 7]) == [9, 7]
    assert check.compare({9: -90, 7: 70}) == []
    assert check.compare({9: 90, 7: 70}) == [9]
    assert (check.checked, check.failed) == (4, 1)


def test_the_last_sum_of_a_page_counts() -> None:
    """Also when both were on their way at the same time."""
    check = SwapCheck(1)
    check.expect(landed({7: 70}))
    check.expect(landed({7: 71}))
    assert check.compare(dict.fromkeys(check.known([7]), 71)) == []


def test_pages_that_are_handed_out_anew_have_no_sum() -> None:
    """Nor if the old one arrives late; those beside them keep theirs."""
    check = SwapCheck(1)
    check.forget([7])
    check.expect(landed({7: 70, 8: 80}))
    check.forget([7, 5])
    assert check.known([7, 8]) == [8]
    check.forget_all()
    assert check.known([7, 8]) == []


def test_what_is_on_its_way_is_forgotten_with_the_rest() -> None:
    """A pool that is emptied needs no sums, and does not wait for any."""
    check = SwapCheck(1)
    asked = []
    check.expect(lambda: asked.append(1) or ([7], [70]))  # type: ignore[func-returns-value]
    check.forget_all()
    assert check.known([7]) == []
    assert asked == []
