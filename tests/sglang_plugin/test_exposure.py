"""What the plugin shows of its counts: metrics in the engine's registry, and one line when bounds move."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fake_tree import FakeTree
from test_scheduler_hooks import Clock, batch, create

from autellix_server.scheduling.bounds import BoundsInUse
from autellix_server.scheduling.levels import geometric_levels
from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.scheduling.policies.attained import Plas
from autellix_server.sglang_plugin.driver import PlannerDriver
from autellix_server.sglang_plugin.exposure import GAUGES, METRICS, Exposure
from autellix_server.sglang_plugin.loads import LoadHooks
from autellix_server.sglang_plugin.scheduler import SchedulerHooks
from autellix_server.sglang_plugin.swap import SwapHooks

BOUNDS = BoundsInUse(1.0, (1.0, 2.0), None, calibrated=True)
MEASURING = SimpleNamespace(metrics_reporter=SimpleNamespace(current_scheduler_metrics_enabled=True))
SILENT = SimpleNamespace(metrics_reporter=SimpleNamespace(current_scheduler_metrics_enabled=False))


class FakeClient:
    """Prometheus' client: keeps the value of every series, by name and labels."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, ...], float] = {}

    def Counter(self, name: str, about: str, labels: list[str]) -> Any:
        """A number that grows."""
        assert about
        return self._metric(f"{name}_total", labels)

    def Gauge(self, name: str, about: str, labels: list[str], multiprocess_mode: str) -> Any:
        """A number that changes."""
        assert about
        assert multiprocess_mode == "mostrecent"
        return self._metric(name, labels)

    def _metric(self, name: str, labels: list[str]) -> Any:
        def series(*values: str) -> Any:
            assert len(values) == len(labels)
            key = (name, *values)
            return SimpleNamespace(
                inc=lambda by: self.series.__setitem__(key, self.series.get(key, 0) + by),
                set=lambda to: self.series.__setitem__(key, to),
            )

        return SimpleNamespace(labels=series)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """Prometheus' client, which is there in the engine's environment only."""
    fake = FakeClient()
    monkeypatch.setitem(sys.modules, "prometheus_client", fake)
    return fake


def test_counters_grow_by_what_is_new_and_gauges_follow(client: FakeClient) -> None:
    """Waiting is split by cause, in seconds; a median that is not known yet is left out."""
    exposure = Exposure("e3", Clock().read)
    counted: dict[str, Any] = {"plans": 2, "queued_us": {"admission": 500_000}}
    exposure.show(MEASURING, lambda: counted, BOUNDS)
    expected = {
        ("autellix_plans_total", "e3"): 2,
        ("autellix_queued_seconds_total", "e3", "admission"): 0.5,
        ("autellix_first_bound_seconds", "e3"): 1.0,
    }
    assert client.series == expected
    counted = {"plans": 5, "queued_us": {"admission": 500_000, "retraction": 250_000}}
    exposure.show(MEASURING, lambda: counted, replace(BOUNDS, median_service_s=1.2))
    assert client.series == expected | {
        ("autellix_plans_total", "e3"): 5,
        ("autellix_queued_seconds_total", "e3", "retraction"): 0.25,
        ("autellix_median_service_seconds", "e3"): 1.2,
    }


def test_without_metrics_the_client_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it before SGLang has set it up would decide how it works."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    Exposure("e3", Clock().read).show(SILENT, dict, BOUNDS)


def test_bounds_that_move_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not those that the engine starts with."""
    caplog.set_level(logging.INFO)
    exposure = Exposure("e3", Clock().read)
    for bounds in (BOUNDS, BOUNDS, BoundsInUse(0.25, (0.25, 0.5), 0.25, calibrated=True)):
        exposure.show(SILENT, dict, bounds)
        exposure.show(SILENT, dict, bounds)
    assert caplog.messages == ["level bounds follow the median service of calls: 0.25, 0.5 s"]


def test_everything_that_is_counted_is_shown(client: FakeClient) -> None:
    """After the step in which it happened; every count has its metric."""
    clock = Clock()
    driver = PlannerDriver(Plas(geometric_levels()), PlannerSettings())
    swap = SwapHooks(lambda *_: None, lambda *_: None)
    swap.init_hicache(lambda *_: None, FakeTree(host_tokens=1000), "server_args", "params")
    loads = LoadHooks(1.0, lambda _: None, lambda _, numbers: numbers)
    loads.init_hicache(lambda *_: None, FakeTree(host_tokens=1000), "server_args", "params")
    hooks = SchedulerHooks(lambda hints: hints, clock.read, driver, swap, Exposure("e3", clock.read), loads)
    output = hooks.internal_state(SimpleNamespace(internal_state={}))
    assert {*output.internal_state["autellix"]} - {"bounds", "swap"} == {*METRICS, *GAUGES}
    req = create(hooks, "a", 0.0)
    req.done = True
    step = batch(clock, [req], [10])
    clock.now_us += 100
    hooks.process_result(lambda *_: hooks.take_record(req), MEASURING, step, None)
    assert client.series["autellix_finished_requests_total", "e3"] == 1


def test_an_idle_engine_shows_what_changed_after_its_last_step(client: FakeClient) -> None:
    """A second later; the engine's own idle work is done every time."""
    clock = Clock()
    driver = PlannerDriver(Plas(geometric_levels()), PlannerSettings())
    hooks = SchedulerHooks(lambda hints: hints, clock.read, driver, None, Exposure("e3", clock.read))
    idled: list[int] = []
    for now_us, shown in ((0, 0), (500_000, 0), (1_000_000, 3)):
        clock.now_us = Clock.now_us + now_us
        hooks.idle(lambda _: idled.append(clock.now_us), MEASURING)
        assert client.series.get(("autellix_plans_total", "e3"), 0) == shown
        driver.counts.plans = 3
    assert len(idled) == 3
