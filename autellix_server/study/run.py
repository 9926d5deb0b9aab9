"""Runs the study: first the curves, which say what a load is, then everything else; on several cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from math import inf
from multiprocessing import active_children, get_context

from autellix_server.study.jobs import Job, Result
from autellix_server.study.world import ARMS, OURS, STOCK, Workload

LOADS: Mapping[str, tuple[float, float]] = {"light": (2.0, 1.0), "busy": (5.0, 1.0), "overload": (5.0, 1.25)}
"""Loads by name: the rate at which the stock engine reaches a multiple of its unloaded latency, times a factor."""

BALANCERS = ("autellix", "least-used", "round-robin")
ENGINES = (1, 2, 4, 8)
SETTINGS: Mapping[str, Sequence[float | None]] = {
    "levels": (1, 2, 4, 8, 16),
    "first bound": (0.25, 0.5, 1.0, 2.0, 4.0),
    "growth": (1.5, 2.0, 4.0),
    "beta": (1.0, 3.0, 10.0, 30.0, 100.0, inf),
    "max_overtakes": (64, 1024, 1 << 14, None),
    "hold_s": (0.0, 1.0, 5.0, 20.0, inf),
    "steps_between_plans": (1, 4, 8, 16, 32),
    "spares": (0, 1, 4),
}
"""Settings and the values tried; the bounds and growth of levels matter to PLAS and ATLAS, the others to all."""

_LEVEL_SETTINGS = ("levels", "first bound", "growth")
_SCALED_DOWN = 10


def run_study(
    workloads: Mapping[str, Workload],
    traces: Mapping[str, Workload],
    processes: int,
    on_stage: Callable[[str, int], None],
    on_job: Callable[[str], None],
) -> list[Result]:
    """Run everything.

    Args:
        workloads: generated programs by the name of their generator.
        traces: programs from files, by a name of one's own.
        processes: how many work side by side.
        on_stage: told the name of a stage and how many jobs it has.
        on_job: told of each job that is done.

    Returns:
        Results of all jobs, in the same order on every machine.
    """

    def run(stage: str, jobs: Sequence[Job]) -> list[Result]:
        on_stage(stage, len(jobs))
        if processes == 1:
            return [_run_one(job, on_job) for job in jobs]
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            try:
                futures = {pool.submit(job.run): job for job in jobs}
                for future in as_completed(futures):
                    future.result()
                    on_job(_name(futures[future]))
                return [future.result() for future in futures]
            except BaseException:
                # Interrupted or failed: nobody waits for the jobs under way, let alone for those to come.
                for worker in active_children():
                    worker.terminate()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    every = {**workloads, **traces}
    curves = run("latency by rate", [Job("curve", name, every[name], arm) for name in every for arm in ARMS])
    rates = {name: stock_rates(curves, name) for name in every}
    return [
        *curves,
        *run("loads, fleets and settings", [*_loads(every, rates), *_fleets(every, rates), *_settings(every, rates)]),
    ]


def stock_rates(curves: Sequence[Result], workload: str) -> dict[str, float]:
    """Return the arrival rate of every load of a workload."""
    stock = next(one for one in curves if (one["workload"], one["arm"]) == (workload, STOCK))
    at = {found["slowdown"]: found["rate"] for found in stock["throughput"]}
    return {load: at[slowdown] * factor for load, (slowdown, factor) in LOADS.items()}


def scaled_down(workloads: Mapping[str, Workload]) -> dict[str, Workload]:
    """Return the workloads with a tenth of the programs: to see that all works, not for conclusions."""
    return {name: replace(one, programs=max(8, one.programs // _SCALED_DOWN)) for name, one in workloads.items()}


def _loads(workloads: Mapping[str, Workload], rates: Mapping[str, Mapping[str, float]]) -> list[Job]:
    loads = [
        Job("load", name, programs, arm, (("rate", rates[name][load]), ("load", load)))
        for name, programs in workloads.items()
        for load in LOADS
        for arm in ARMS
    ]
    return loads + [Job("offline", name, programs, arm) for name, programs in workloads.items() for arm in ARMS]


def _fleets(workloads: Mapping[str, Workload], rates: Mapping[str, Mapping[str, float]]) -> list[Job]:
    if "mixed" not in workloads:
        return []
    return [
        Job(
            "fleet",
            "mixed",
            replace(workloads["mixed"], programs=max(8, workloads["mixed"].programs // 2)),
            arm,
            (("engines", engines), ("balancer", balancer), ("rate", rates["mixed"]["busy"])),
        )
        for arm in (STOCK, OURS)
        for engines in ENGINES
        for balancer in BALANCERS
    ]


def _settings(workloads: Mapping[str, Workload], rates: Mapping[str, Mapping[str, float]]) -> list[Job]:
    return [
        Job(
            "setting",
            workload,
            workloads[workload],
            arm,
            (("rate", rates[workload]["overload"]), ("name", name), ("value", value)),
        )
        for workload in ("chat", "mixed")
        if workload in workloads
        for name, values in SETTINGS.items()
        for arm in (("atlas + hold",) if name in _LEVEL_SETTINGS else ("atlas + hold", OURS))
        for value in values
    ]


def _run_one(job: Job, on_job: Callable[[str], None]) -> Result:
    result = job.run()
    on_job(_name(job))
    return result


def _name(job: Job) -> str:
    options = " ".join(str(value) for _, value in job.options)
    return f"{job.study} of {job.workload} under {job.arm} {options}".strip()
