"""How likely a program is to end, by the service it has attained; learned online, by program class."""

from __future__ import annotations

from math import inf, sqrt
from typing import cast

from autellix_server.scheduling.levels import Levels

_PRIOR_WEIGHT = 2.0
_BINS_BEFORE = 2
_WINDOW = 500.0
_STALE_SHARE = 1 / 32


class Hazards:
    """The share of programs that end in each bin of attained service, among those that reach it.

    A program that has left a bin alive counts as a survivor of it there and then, so that programs still running are
    censored observations, not missing ones (the Kaplan-Meier estimate, binned). Each share is a running mean over the
    last 500 or so programs that were in the bin; older ones fade exponentially. The prior, worth two observations a
    bin, says that a program which has had t seconds ends within the next t with even odds, whatever t: under it the
    least attained service goes first. The first bin, which reaches down to 0, is as likely an end as three bins are.
    Memory: two numbers a bin.

    Args:
        bins: bins of attained service, growing by a constant factor.
        growth: that factor, over 1.
        small_s: smaller programs are rewarded as one of this size, so that the faint hope of an early end, which every
            bin keeps, does not outweigh what is known.
    """

    def __init__(self, bins: Levels, growth: float, small_s: float = 0.0) -> None:
        self._bins = bins
        last_s = bins.quantum_s(bins.count - 2) * growth
        self._small_s = small_s
        self._widths_s = [bins.quantum_s(index) for index in range(bins.count - 1)] + [last_s]
        self._share = [1 - 1 / growth] * bins.count
        self._share[0] = 1 - growth ** -(1 + _BINS_BEFORE)
        self._weight = [_PRIOR_WEIGHT] * bins.count
        self._unused = 0
        self._observed = 0
        self._efforts_s = self._compute()

    def survived(self, index: int) -> None:
        """Count a program that left bin `index` alive."""
        self._observe(index, 0.0)

    def ended(self, index: int) -> None:
        """Count a program that ended in bin `index`."""
        self._observe(index, 1.0)

    def effort_s(self, service_s: float) -> float:
        """Return the inverse of the Gittins index of a program that has attained `service_s` seconds.

        That is the service to be spent for a completion when one goes on with programs like it as far as pays best; the
        smaller, the sooner it should run. Constant within a bin.
        """
        # One pass over the bins costs as much as a few hundred observations: wait for news worth it.
        if self._unused > _STALE_SHARE * self._observed:
            self._efforts_s = self._compute()
            self._unused = 0
        return self._efforts_s[self._bins.level_of(service_s)]

    def _observe(self, index: int, outcome: float) -> None:
        weight = self._weight[index] = min(self._weight[index] + 1, _WINDOW)
        self._share[index] += (outcome - self._share[index]) / weight
        self._unused += 1
        self._observed = min(self._observed + 1, int(_WINDOW) * len(self._share))

    def _compute(self) -> list[float]:
        return [self._best_effort_s(start) for start in range(len(self._share))]

    def _best_effort_s(self, start: int) -> float:
        """Minimize, over all ends of the run of bins from `start`, expected service over expected reward.

        A program that ends in a bin is taken to end in the middle of it. Its reward is 1 over the square root of its
        size: half way from completion time, where every program counts alike, to token latency, where it counts by the
        inverse of its size. The result is brought back to seconds, which changes no order.
        """
        alive, reward, spent_s, best = 1.0, 0.0, 0.0, inf
        low_s = sum(self._widths_s[:start])
        for share, width_s in zip(self._share[start:], self._widths_s[start:], strict=True):
            reward += alive * share / sqrt(max(low_s + width_s / 2, self._small_s))
            spent_s += alive * width_s * (1 - share / 2)
            alive *= 1 - share
            low_s += width_s
            if spent_s < best * reward:
                best = spent_s / reward
        return cast("float", best ** (2 / 3))
