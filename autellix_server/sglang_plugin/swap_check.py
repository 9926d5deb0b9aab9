"""Which pages of KV in host memory are checked when they are to come back, and against what. Pure.

When KV goes out, some pages are summed where they come from, on the device; when they are to come back, they are summed
where they lie. A page whose sums differ was changed on the way out or in host memory, and is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

Arrival = Callable[[], tuple[Sequence[int], Sequence[int]]]
"""Returns pages and their sums, as soon as the device has them; waits for it if need be."""


_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 by the golden ratio: multiples of it, modulo 2^64, are spread evenly."""


_PAGES = 1 << 53
"""More than ever go out, whatever the share."""


class SwapCheck:
    """The sums of one host pool. Single-threaded.

    Decides from counts alone, so that every rank of an engine checks the same pages.

    Attributes:
        share: of the pages that go out, how many are summed.
        checked: pages whose sums were compared.
        failed: those of them whose sums differed.

    Args:
        share: 0 for none to 1 for all.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.checked = 0
        self.failed = 0
        self._gone_out = 0
        self._sums: dict[int, int] = {}
        self._arriving: list[Arrival] = []

    def sample(self, pages: int) -> list[int]:
        """Return which pages are to be summed, as places among so many that go out now.

        One of every few, and not always the same of them: operations may all have as many pages.
        """
        before, self._gone_out = self._gone_out, self._gone_out + pages
        if not self.share:
            return []
        taken = (self._taken(few) for few in range(int(before * self.share), int(self._gone_out * self.share) + 1))
        return [page - before for page in taken if before <= page < self._gone_out]

    def expect(self, arrival: Arrival) -> None:
        """Take over the sums of pages that are going out, in order."""
        self._arriving.append(arrival)

    def forget(self, pages: Iterable[int]) -> None:
        """Forget the sums of pages whose memory is for something else from now on."""
        if self._arriving or self._sums:
            self._settle()
            for page in pages:
                self._sums.pop(page, None)

    def forget_all(self) -> None:
        """Forget all sums."""
        self._arriving.clear()
        self._sums.clear()

    def known(self, pages: Iterable[int]) -> list[int]:
        """Return those of some pages that there are sums of."""
        self._settle()
        return [page for page in pages if page in self._sums]

    def compare(self, now: Mapping[int, int]) -> list[int]:
        """Return the pages that were changed.

        Args:
            now: sums, as they are, of pages that `known` returned.
        """
        failed = [page for page, found in now.items() if found != self._sums[page]]
        self.checked += len(now)
        self.failed += len(failed)
        return failed

    def _taken(self, few: int) -> int:
        """Return which page is taken of a few that go out one after the other, all counted from 0."""
        first, end = (math.ceil(min(number / self.share, _PAGES)) for number in (few, few + 1))
        return first + (few * _GOLDEN % (1 << 64)) * (end - first) // (1 << 64)

    def _settle(self) -> None:
        for arrival in self._arriving:
            self._sums.update(zip(*arrival(), strict=True))
        self._arriving.clear()
