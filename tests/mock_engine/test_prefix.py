"""The prefix index against a search by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.wire import ProgramId
from autellix_server.mock_engine.prefix import PrefixIndex
from autellix_server.mock_engine.tokens import id_tokens

A, B = ProgramId("a"), ProgramId("b")
ROWS = st.lists(st.sampled_from([0, 1, 255, 256, 70_000]), max_size=8)


def common(one: list[int], other: list[int]) -> int:
    """Return how many tokens two rows begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


@given(st.lists(ROWS, max_size=12), ROWS)
def test_it_finds_the_longest_beginning(rows: list[list[int]], prompt: list[int]) -> None:
    """As a search through all rows does."""
    index = PrefixIndex()
    for row in rows:
        index.add(A, id_tokens(row))
    assert index.shared_tokens(A, id_tokens(prompt)) == max((common(row, prompt) for row in rows), default=0)


def test_programs_are_apart() -> None:
    """What one had is not found by another, nor when it was forgotten."""
    index = PrefixIndex()
    index.add(A, id_tokens([1, 2, 3]))
    assert index.shared_tokens(B, id_tokens([1, 2, 3])) == 0
    index.forget(A)
    assert index.shared_tokens(A, id_tokens([1, 2, 3])) == 0


def test_memory_is_bounded() -> None:
    """The program that was idle for longest is forgotten; a history that grows takes the place of its beginning."""
    index = PrefixIndex(max_bytes=40)
    index.add(A, id_tokens(range(4)))
    index.add(B, id_tokens(range(2)))
    index.add(B, id_tokens(range(6)))
    assert index.shared_tokens(A, id_tokens(range(6))) == 4
    index.add(B, id_tokens([9]))
    assert index.shared_tokens(A, id_tokens(range(6))) == 0
    assert index.shared_tokens(B, id_tokens(range(6))) == 6
