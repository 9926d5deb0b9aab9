"""Which pages of KV in host memory are checked when they are to come back, and against what. Pure.

When KV goes out, some pages are summed where they come from, on the device; when they are to come back, they are summed
where they lie. A page whose sums differ was changed on the way out or in host memory, and is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

Arrival = Callable[[], tuple[Sequence[int], Sequence[int]]]
"""Returns pages and their sums, as soon as the device has them; waits for it if need be."""


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
        """Return which pages are to be summed, as places among so many that go out now."""
        before, self._gone_out = self._gone_out, self._gone_out + pages
        if not self.share:
            return []
        return [
            place
            for place in range(pages)
            if int((before + place + 1) * self.share) > int((before + place) * self.share)
        ]

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

    def _settle(self) -> None:
        for arrival in self._arriving:
            self._sums.update(zip(*arrival(), strict=True))
        self._arriving.clear()
