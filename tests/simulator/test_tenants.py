"""Tenants in whole runs: each has its share of service while both want more, whatever their programs and the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest
from worlds import MODEL, FakeCall, FakeProgram

from autellix_server.scheduling.policies import SERVABLE
from autellix_server.simulator.model import EngineModel
from autellix_server.simulator.programs import Arrival, SimCall, SimProgram
from autellix_server.simulator.run import Simulation, SimulationSettings, levels_for

AMPLE = replace(MODEL, kv_tokens=10_000_000, host_tokens=10_000_000)
PROGRAMS = 20
CALLS = 30

WIDE = (PROGRAMS, 8)
"""The one program has as many threads as the other tenant has programs; slots of the engine."""
NARROW = (2, 1)
"""It has two threads, which is what it takes for one of its calls to wait whenever another ends."""


def program(name: str, threads: int, calls: int, random: Random, output: int = 30) -> FakeProgram:
    """A program of parallel chains, as many calls in each, of 2 to `output` tokens."""
    made = []
    for thread in range(threads):
        history = 0
        for index in range(calls):
            tokens = random.randint(2, output)
            parents = (f"{thread}.{index - 1}",) if index else ()
            made.append(FakeCall(f"{thread}.{index}", parents, thread, history + 10, history, tokens))
            history += 10 + tokens
    return FakeProgram(name, tuple(made))


def one_against_many(threads: int) -> list[Arrival]:
    """One program of tenant `one`, and as many calls in twenty programs of tenant `many`."""
    random = Random(1)
    single = program("single", threads, PROGRAMS * CALLS // threads, random)
    many = [program(f"m{index}", 1, CALLS, random) for index in range(PROGRAMS)]
    return [Arrival(0.0, single, "one"), *(Arrival(0.0, each, "many") for each in many)]


class Shares:
    """Runs a simulation and notes what each tenant's calls were served, in order of their ends."""

    def __init__(
        self,
        policy: str,
        arrivals: Sequence[Arrival],
        model: EngineModel,
        weights: Mapping[str, float],
        engines: int = 1,
    ) -> None:
        levels = levels_for(model, [arrival.trace for arrival in arrivals])
        settings = SimulationSettings(model, policy, levels, engines, weights=weights)
        simulation = Simulation(settings, arrivals)
        self.served: list[tuple[float, str, float]] = []
        for engine in simulation._engines.values():
            engine._on_complete = self._noting(engine._on_complete)
        self.programs: list[SimProgram] = simulation.run()

    def _noting(self, inner: Callable[[SimCall, float], None]) -> Callable[[SimCall, float], None]:
        def completed(call: SimCall, now: float) -> None:
            self.served.append((now, call.program.tenant, call.service_s))
            inner(call, now)

        return completed

    def share(self, tenant: str, since_s: float = 0.0, part: float = 0.8) -> float:
        """The tenant's share of service from `since_s` until one of them has had `part` of its calls: they wait yet."""
        ends: dict[str, list[float]] = {}
        for now, name, _ in self.served:
            ends.setdefault(name, []).append(now)
        until_s = min(times[int(part * len(times))] for times in ends.values())
        window = [(name, service_s) for now, name, service_s in self.served if since_s <= now <= until_s]
        return sum(service_s for name, service_s in window if name == tenant) / sum(served for _, served in window)


@pytest.mark.parametrize(("threads", "slots"), [WIDE, NARROW])
@pytest.mark.parametrize("policy", SERVABLE)
def test_one_program_has_as_much_as_twenty_of_another_tenant(policy: str, threads: int, slots: int) -> None:
    """Half of the service each, within 5 percentage points, while both have calls that wait."""
    run = Shares(policy, one_against_many(threads), replace(AMPLE, slots=slots), {})
    assert run.share("one") == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("threads", "slots"), [WIDE, NARROW])
@pytest.mark.parametrize("policy", SERVABLE)
def test_shares_go_by_weight(policy: str, threads: int, slots: int) -> None:
    """Three quarters and a quarter at 3 to 1, within 5 percentage points; only the ratio counts."""
    run = Shares(policy, one_against_many(threads), replace(AMPLE, slots=slots), {"one": 30.0, "many": 10.0})
    assert run.share("one") == pytest.approx(0.75, abs=0.05)


def test_without_shares_twenty_programs_have_nearly_all() -> None:
    """The same programs of one tenant: what the debts are good for."""
    arrivals = [replace(arrival, tenant="") for arrival in one_against_many(2)]
    run = Shares("plas", arrivals, replace(AMPLE, slots=1), {})
    first, *others = sorted(run.programs, key=lambda done: done.calls, reverse=True)
    assert max(other.ended_s for other in others) < 0.6 * first.ended_s


@pytest.mark.parametrize("policy", ["plas", "auto"])
def test_shares_hold_over_several_engines(policy: str) -> None:
    """The account is one for all engines."""
    run = Shares(policy, one_against_many(PROGRAMS), replace(AMPLE, slots=4), {}, engines=2)
    assert run.share("one") == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("policy", ["plas", "auto"])
def test_who_comes_later_has_its_share_from_then_on_and_no_more(policy: str) -> None:
    """Absence saves nothing up: it neither catches up nor waits until the other is done."""
    late_s = 600.0
    arrivals = sorted(
        (replace(arrival, at_s=late_s * (arrival.tenant == "one")) for arrival in one_against_many(PROGRAMS)),
        key=lambda arrival: arrival.at_s,
    )
    run = Shares(policy, arrivals, replace(AMPLE, slots=8), {})
    assert run.share("one", since_s=late_s) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("policy", SERVABLE)
def test_one_tenant_is_scheduled_as_if_there_were_none(policy: str) -> None:
    """The schedule is the same to the last call, whatever its name and weight."""
    arrivals = [replace(arrival, tenant="") for arrival in one_against_many(PROGRAMS)]
    named = [replace(arrival, tenant="acme") for arrival in arrivals]
    plain, alone = (Shares(policy, given, replace(AMPLE, slots=8), {"acme": 3.0}).served for given in (arrivals, named))
    assert [(now, service_s) for now, _, service_s in plain] == [(now, service_s) for now, _, service_s in alone]


def test_inside_a_tenant_the_policy_decides() -> None:
    """Of one tenant's programs the short ones end first under contention too, long before the long one."""
    random = Random(2)
    long = program("long", 8, 40, random)
    short = [program(f"s{index}", 1, 2, random) for index in range(10)]
    arrivals = [
        Arrival(0.0, program("other", 8, 60, random), "other"),
        Arrival(0.0, long, "acme"),
        *(Arrival(200.0 + 50 * index, each, "acme") for index, each in enumerate(short)),
    ]
    run = Shares("plas", arrivals, replace(AMPLE, slots=4), {})
    took = {done.id.partition(".")[0]: done.completion_s for done in run.programs}
    assert max(took[each.program_id] for each in short) < 0.1 * took["long"]
