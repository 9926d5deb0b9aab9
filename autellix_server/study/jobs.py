"""The study's runs. Each is a function of plain values, so that it can run in a process of its own."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import inf
from random import Random
from typing import Any

from autellix_server.scheduling.planner import PlannerSettings
from autellix_server.simulator.programs import SimProgram, poisson_arrivals
from autellix_server.simulator.results import Spread, summarize
from autellix_server.simulator.run import Simulation, SimulationSettings
from autellix_server.simulator.throughput import LatencyCurve
from autellix_server.study.world import ARMS, SEED, Workload, levels_like, programs_of, settings_of

SLOWDOWNS = (2.0, 5.0, 10.0)
"""Multiples of the unloaded mean token latency at which throughputs are compared."""

TOLERANCE = 0.03
"""Relative width of the bracket that a rate is found in."""

SEEDS = (SEED, SEED + 1)
"""Of the arrivals where several are pooled."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run, or a few over the same programs.

    Attributes:
        study: what it belongs to; a key of `STUDIES`.
        workload: name of the workload.
        programs: its programs.
        arm: name of the arm.
        options: what else the study's function takes.
    """

    study: str
    workload: str
    programs: Workload
    arm: str
    options: tuple[tuple[str, Any], ...] = ()

    def run(self) -> Result:
        """Run it; the result is JSON and begins with what was run."""
        gc.set_threshold(1_000_000)
        about = {"study": self.study, "workload": self.workload, "arm": self.arm, **dict(self.options)}
        return {**about, **STUDIES[self.study](self, **dict(self.options))}


def curve(job: Job) -> Result:
    """Return throughput at equal latency, and latency by rate."""
    programs = programs_of(job.workload, job.programs)
    found = LatencyCurve(settings_of(ARMS[job.arm], programs), programs, SEED)
    throughputs = [found.throughput(slowdown, TOLERANCE) for slowdown in SLOWDOWNS]
    points = [{"rate": rate, **_latency(found.runs[rate])} for rate in sorted(found.runs)]
    results = [
        {
            "slowdown": one.slowdown,
            "rate": one.rate,
            "reached": one.reached,
            "low": one.interval.low,
            "high": one.interval.high,
        }
        for one in throughputs
    ]
    return {
        "unloaded_s": throughputs[0].unloaded_s,
        "offline_rate": found.offline_rate,
        "throughput": results,
        "points": points,
    }


def load(job: Job, rate: float, load: str) -> Result:
    """Return what the load of that name shows, over several draws of the arrivals."""
    programs = programs_of(job.workload, job.programs)
    settings = settings_of(ARMS[job.arm], programs)
    ended = [
        program
        for seed in SEEDS
        for program in Simulation(settings, poisson_arrivals(programs, rate, Random(seed))).run()
    ]
    return summarize(ended, Random(SEED)).to_json()


def offline(job: Job) -> Result:
    """Return the time in which programs are done that are all there from the start."""
    programs = programs_of(job.workload, job.programs)
    ended = Simulation(settings_of(ARMS[job.arm], programs), poisson_arrivals(programs, inf, Random(SEED))).run()
    summary = summarize(ended, Random(SEED))
    return {"makespan_s": summary.makespan_s, "completion_s": asdict(summary.everything.completion_s)}


def fleet(job: Job, engines: int, balancer: str, rate: float) -> Result:
    """Return latency on several engines, at a rate per engine and with programs in proportion."""
    workload = Workload(job.programs.programs * engines, job.programs.file)
    programs = programs_of(job.workload, workload)
    settings = settings_of(ARMS[job.arm], programs, engines=engines, balancer=balancer)
    ended = Simulation(settings, poisson_arrivals(programs, rate * engines, Random(SEED))).run()
    prompt_tokens = sum(call.prompt_tokens for program in programs for call in program.calls)
    hits = sum(program.counts.cached_tokens for program in ended) / prompt_tokens
    return {**_latency(ended), "hits": hits}


def setting(job: Job, rate: float, name: str, value: float | None) -> Result:
    """Return latency with one setting changed."""
    programs = programs_of(job.workload, job.programs)
    settings = settings_of(ARMS[job.arm], programs)
    if name in _LEVELS:
        levels = levels_like(settings.levels, **{_LEVELS[name]: value})  # type: ignore[arg-type]
        settings = settings_of(ARMS[job.arm], programs, levels=levels)
    else:
        planner = PlannerSettings(**{name: value})  # type: ignore[arg-type]
        settings = settings_of(ARMS[job.arm], programs, planner=planner)
    return _settled(settings, programs, rate)


_LEVELS = {"levels": "count", "first bound": "bound_factor", "growth": "growth"}
"""Settings of the levels: what the tables call them, and the argument of `levels_like`."""

STUDIES: Mapping[str, Callable[..., Result]] = {
    "curve": curve,
    "load": load,
    "offline": offline,
    "fleet": fleet,
    "setting": setting,
}
"""What a job does, by its study."""


def _settled(settings: SimulationSettings, programs: tuple[Any, ...], rate: float) -> Result:
    ended = Simulation(settings, poisson_arrivals(programs, rate, Random(SEED))).run()
    calls = sum(program.calls for program in ended)
    return {
        **_latency(ended),
        "preemptions": sum(program.counts.preemptions for program in ended) / calls,
        "promotions": sum(program.counts.promotions for program in ended) / calls,
        "longest_wait_s": max(program.longest_wait_s for program in ended),
    }


def _latency(programs: list[SimProgram]) -> Result:
    spread = asdict(Spread.of([program.token_latency_s for program in programs]))
    return {**spread, "completion_s": sum(program.completion_s for program in programs) / len(programs)}
