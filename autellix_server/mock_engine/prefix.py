"""Which part of a prompt its program's earlier calls had, found from the tokens themselves. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict

from autellix_sdk.wire import ProgramId
from autellix_server.mock_engine.tokens import TOKEN_BYTES


class PrefixIndex:
    """The histories, prompt and answer, of completed calls by program; the least recently used programs are forgotten.

    How much of a shared prefix is still on the device is the matter of the simulator's KV pool, which counts programs
    apart: prefixes are shared inside a program, and not between programs.

    Args:
        max_bytes: bound of the memory held, 0 or more.
    """

    def __init__(self, max_bytes: int = 256 << 20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        # Sorted: of all rows, a prompt has most in common with one of the two it would stand between.
        self._histories: OrderedDict[ProgramId, list[bytes]] = OrderedDict()

    def shared_tokens(self, program: ProgramId, prompt: bytes) -> int:
        """Return how many tokens at the beginning of `prompt` a completed call of `program` had."""
        rows = self._histories.get(program, [])
        at = bisect_left(rows, prompt)
        return max((_common(row, prompt) for row in rows[max(0, at - 1) : at + 1]), default=0) // TOKEN_BYTES

    def add(self, program: ProgramId, history: bytes) -> None:
        """Remember what a call had; it takes the place of a history that it begins with."""
        rows = self._histories.setdefault(program, [])
        self._histories.move_to_end(program)
        at = bisect_left(rows, history)
        if at and history.startswith(rows[at - 1]):
            at -= 1
            self._bytes -= len(rows.pop(at))
        rows.insert(at, history)
        self._bytes += len(history)
        while self._bytes > self._max_bytes:
            self.forget(next(iter(self._histories)))

    def forget(self, program: ProgramId) -> None:
        """Drop the histories of a program, if there are any."""
        self._bytes -= sum(map(len, self._histories.pop(program, ())))

    def clear(self) -> None:
        """Drop everything."""
        self._histories.clear()
        self._bytes = 0


def _common(one: bytes, other: bytes) -> int:
    """Return the length of the common beginning: by halving, since comparing slices is far quicker than bytes."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
