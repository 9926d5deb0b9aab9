"""What the plugin counts, shown as it changes: to Prometheus, through the engine's own ``/metrics``, and in the log.

SGLang runs Prometheus' client in its multi-process mode: what any of its processes counts is what ``/metrics`` shows,
if the engine was started with ``--enable-metrics``. Labels are the engine's name and causes of waiting, never programs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from autellix_server.scheduling.bounds import BoundsInUse

_log = logging.getLogger(__name__)

Counted = Mapping[str, int | Mapping[str, int]]
"""Numbers by name; microseconds are split by cause. Those of `METRICS` only grow, those of `GAUGES` come and go."""

METRICS: Mapping[str, tuple[str, str]] = {
    "finished": ("finished_requests", "Engine requests that finished."),
    "queued_us": ("queued_seconds", "What finished engine requests waited, by cause."),
    "recomputed_tokens": ("recomputed_tokens", "Tokens that finished engine requests computed twice."),
    "plans": ("plans", "Plans of who runs."),
    "preemptions": ("preemptions", "Running calls that a plan made leave."),
    "in_vain": ("preemptions_in_vain", "Preemptions for a call that the engine then did not admit."),
    "retractions": ("retractions", "Running calls that the engine made leave, for want of memory."),
    "swapped_out_tokens": ("swapped_out_tokens", "Tokens of KV copied to host memory."),
    "swapped_in_tokens": ("swapped_in_tokens", "Tokens of KV loaded back from host memory."),
    "swap_pages_checked": ("swap_pages_checked", "Pages of KV that were checked before they were loaded back."),
    "swap_pages_failed": ("swap_pages_failed", "Pages of KV that had changed in host memory, and were computed again."),
    "host_locks_refused": ("host_locks_refused", "Times that a call's KV was not locked for want of host memory."),
}
"""Name of the counter, after ``autellix_`` and before ``_total``, and its help, by what is counted."""

GAUGES: Mapping[str, tuple[str, str]] = {
    "held_programs": ("held_programs", "Programs between two calls whose KV is locked on the device."),
    "held_tokens": ("held_tokens", "Tokens of KV that are locked on the device for them."),
    "host_locks": ("host_locks", "Calls that left the batch and whose KV is locked."),
    "host_locked_tokens": ("host_locked_tokens", "Tokens of KV that are locked for them."),
    "host_tokens": ("host_tokens", "Tokens of KV in host memory."),
}
"""Name of the gauge, after ``autellix_``, and its help, by what there is of it now."""

_US_PER_S = 1_000_000


class PrometheusMetrics:
    """The counters and gauges of one scheduler process.

    Args:
        engine: the engine's name, the value of the label ``engine``.
        client: the module ``prometheus_client``.

    Raises:
        ValueError: there are such metrics already in this process.
    """

    def __init__(self, engine: str, client: ModuleType) -> None:
        self._engine = engine
        self._seen: dict[tuple[str, str], int] = {}
        self._counters = {
            key: client.Counter(f"autellix_{name}", about, ["engine", "cause"] if key == "queued_us" else ["engine"])
            for key, (name, about) in METRICS.items()
        }

        def gauge(name: str, about: str) -> Any:
            return client.Gauge(f"autellix_{name}", about, ["engine"], multiprocess_mode="mostrecent")

        self._gauges = {key: gauge(name, about) for key, (name, about) in GAUGES.items()}
        self._first_bound = gauge("first_bound_seconds", "Attained service at which a program leaves the best level.")
        self._median = gauge("median_service_seconds", "Median service of the latest calls.")

    def show(self, counted: Counted, bounds: BoundsInUse | None) -> None:
        """Bring the metrics up to date.

        Args:
            counted: numbers so far, by the keys of `METRICS` and `GAUGES`.
            bounds: of the planner's levels; `None` where there is no planner.
        """
        for key, count in counted.items():
            if isinstance(count, int):
                if key in self._gauges:
                    self._gauges[key].labels(self._engine).set(count)
                else:
                    self._count(key, count)
            else:
                for cause, part_us in count.items():
                    self._count(key, part_us, cause)
        if bounds is not None:
            self._first_bound.labels(self._engine).set(bounds.first_bound_s)
            if bounds.median_service_s is not None:
                self._median.labels(self._engine).set(bounds.median_service_s)

    def _count(self, key: str, count: int, cause: str = "") -> None:
        grown = count - self._seen.get((key, cause), 0)
        if not grown:
            return
        self._seen[key, cause] = count
        if cause:
            self._counters[key].labels(self._engine, cause).inc(grown / _US_PER_S)
        else:
            self._counters[key].labels(self._engine).inc(grown)


class Exposure:
    """Shows what one scheduler process counts: after every step, and every second of an engine that has no work.

    Args:
        engine: the engine's name.
        now_us: monotonic clock in whole microseconds.
    """

    def __init__(self, engine: str, now_us: Callable[[], int]) -> None:
        self._engine = engine
        self._now_us = now_us
        self._shown_us = -_US_PER_S
        self._metrics: PrometheusMetrics | None = None
        self._first_bound_s: float | None = None

    @property
    def due(self) -> bool:
        """Whether the last time is a second ago."""
        return self._now_us() - self._shown_us >= _US_PER_S

    def show(self, scheduler: Any, count: Callable[[], Counted], bounds: BoundsInUse | None) -> None:
        """Show what changed.

        Args:
            scheduler: SGLang's; of several ranks one keeps metrics, unless all are told to.
            count: returns the numbers so far, by the keys of `METRICS`.
            bounds: of the planner's levels; `None` where there is no planner.
        """
        self._shown_us = self._now_us()
        if bounds is not None and bounds.first_bound_s != self._first_bound_s:
            if self._first_bound_s is not None:
                _log.info("level bounds follow the median service of calls: %s s", _written(bounds.bounds_s))
            self._first_bound_s = bounds.first_bound_s
        if scheduler.metrics_reporter.current_scheduler_metrics_enabled:
            if self._metrics is None:
                # Not before SGLang has set up the multi-process mode: the client reads it when it is imported.
                import prometheus_client

                self._metrics = PrometheusMetrics(self._engine, prometheus_client)
            self._metrics.show(count(), bounds)


def _written(bounds_s: tuple[float, ...]) -> str:
    return ", ".join(f"{bound_s:.3g}" for bound_s in bounds_s)
