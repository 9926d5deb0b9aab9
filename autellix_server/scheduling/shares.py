"""Weighted shares between tenants: where each of them stands, and how far it is ahead of the others.

`Shares` is the account of all engines and belongs to the gateway, one writer. It says with every call where the call's
tenant stands. `TenantDebts` belongs to one planner: from what it was told and from what it has served since it knows
which tenant is ahead, and by how many levels its calls wait further back for that (docs/decisions/0014).

Source: Sheng et al., Fairness in Serving Large Language Models (VTC): a counter of weighted service for each tenant,
lifted when the tenant comes back. Differs: the counter orders tenants by levels, so that inside a tenant the policy
decides as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

_US = 1_000_000

TENANT_NAME = "[a-z0-9][a-z0-9_-]{0,23}"
"""Pattern of tenants' names; short, so that they fit into program IDs beside what a client calls its program."""

UNUSED_CALLS = 256.0
"""Share that a tenant may leave unused and claim later, in calls of mean service: a few turns of one engine's slots."""

_MEAN_OF_CALLS = 64
"""How many calls the running mean of a call's service looks back, about."""

_MOST_LEVELS = 1e6
"""More than any policy has; a quantum may be next to nothing."""


@dataclass(frozen=True, slots=True)
class TenantStanding:
    """Where a tenant stood among the others when one of its calls arrived.

    Attributes:
        name: its name; empty: the one there is where nobody is told apart.
        service_us: its weighted service so far in microseconds, comparable with that of all others at any time.
        weight: its share beside others, above 0.
    """

    name: str = ""
    service_us: int = 0
    weight: float = 1.0


NO_TENANT = TenantStanding()
"""Of every call where nobody tells tenants apart."""


@dataclass(eq=False, slots=True)
class _Account:
    """One tenant at the gateway: weighted service in seconds, and calls in flight."""

    service_s: float = 0.0
    weight: float = 1.0
    calls: int = 0


class Shares:
    """Weighted service of every tenant, over all engines. One writer. Remembers a few numbers for each name it saw.

    A tenant that was idle is lifted to the least-served of those with calls in flight, so that idleness saves nothing
    up. A tenant that has calls in flight and yet cannot use its share is lifted too: nobody stands further below the
    most-served than `UNUSED_CALLS`. What a tenant is ahead it keeps while it is idle.
    """

    def __init__(self) -> None:
        self._tenants: dict[str, _Account] = {}
        self._busy: dict[str, _Account] = {}
        self._floor_s = 0.0
        self._mean_call_s = 0.0

    def arrive(self, tenant: str, weight: float = 1.0) -> TenantStanding:
        """Count a call in, and return where its tenant stands.

        Args:
            tenant: its name.
            weight: its share beside others from now on, above 0: with 3 and 1 one gets three quarters.
        """
        row = self._tenants.setdefault(tenant, _Account())
        row.weight = weight
        row.service_s = max(row.service_s, self._floor_s)
        row.calls += 1
        self._busy[tenant] = row
        self._raise_floor()
        return TenantStanding(tenant, round(row.service_s * _US), weight)

    def complete(self, tenant: str, service_s: float | None) -> None:
        """Count a call out and charge its service.

        Args:
            tenant: as it arrived; one call out for each that came in.
            service_s: seconds of service, 0 for a call that no engine ran; `None`: nobody knows, as when its client
                left, and it is charged like a call of mean service, so that to leave early buys nothing.
        """
        row = self._tenants[tenant]
        row.service_s += (self._mean_call_s if service_s is None else service_s) / row.weight
        if service_s:
            step = (service_s - self._mean_call_s) / _MEAN_OF_CALLS
            self._mean_call_s = self._mean_call_s + step if self._mean_call_s else service_s
        self._raise_floor()
        row.calls -= 1
        if not row.calls:
            del self._busy[tenant]

    def _raise_floor(self) -> None:
        """Lift those that lag: the floor rises with the least-served, and stays near the most-served."""
        rows = self._busy.values()
        unused_s = UNUSED_CALLS * self._mean_call_s / min(row.weight for row in rows)
        most_s, least_s = max(row.service_s for row in rows), min(row.service_s for row in rows)
        self._floor_s = max(self._floor_s, least_s, most_s - unused_s)
        if least_s < self._floor_s:
            for row in rows:
                row.service_s = max(row.service_s, self._floor_s)


@dataclass(eq=False, slots=True)
class _Live:
    """One tenant at a planner.

    Attributes:
        told: where it stood at its latest arrival.
        calls: its calls in flight here.
        in_flight_s: their service so far.
        since_s: service of calls that left after that arrival.
        levels: its debt.
    """

    told: TenantStanding
    calls: int = 0
    in_flight_s: float = 0.0
    since_s: float = 0.0
    levels: int = 0

    @property
    def service_s(self) -> float:
        """Weighted service by now."""
        return self.told.service_us / _US + (self.in_flight_s + self.since_s) / self.told.weight


class TenantDebts:
    """Debts of the tenants that have calls at one planner: weighted service above the least-served of them.

    A debt is counted in levels, one for each quantum that the tenant of the greatest weight there is ahead: the debt of
    one that is ahead outgrows any difference of levels that a policy makes, so that shares come out under every policy.
    """

    def __init__(self) -> None:
        self._rows: dict[str, _Live] = {}

    def enter(self, standing: TenantStanding) -> None:
        """Count a call in."""
        row = self._rows.get(standing.name)
        if row is None:
            row = self._rows[standing.name] = _Live(standing)
        row.told, row.since_s = standing, 0.0
        row.calls += 1

    def credit(self, tenant: str, service_s: float) -> None:
        """Add service to one of the tenant's calls, in seconds."""
        self._rows[tenant].in_flight_s += service_s

    def leave(self, tenant: str, service_s: float) -> None:
        """Count a call out, with the service it was credited in all."""
        row = self._rows[tenant]
        row.calls -= 1
        row.in_flight_s -= service_s
        row.since_s += service_s
        if not row.calls:
            del self._rows[tenant]

    def levels(self, tenant: str) -> int:
        """Return the debt of a tenant in levels, as of the last `settle`; 0 where it has no call here."""
        row = self._rows.get(tenant)
        return 0 if row is None else row.levels

    def settle(self, quantum_s: float) -> set[str]:
        """Bring debts up to now, and return the tenants whose levels changed.

        Args:
            quantum_s: service for which a tenant is a level behind, above 0; ``inf``: never.
        """
        rows = self._rows
        if not rows or (len(rows) == 1 and not any(row.levels for row in rows.values())):
            return set()
        heaviest = max(row.told.weight for row in rows.values())
        service_s = {tenant: row.service_s for tenant, row in rows.items()}
        least_s = min(service_s.values())
        changed = set()
        for tenant, row in rows.items():
            # To the microsecond: errors of rounding must not decide.
            ahead_s = round((service_s[tenant] - least_s) * heaviest, 6)
            levels = int(min(ahead_s / quantum_s, _MOST_LEVELS))
            if levels != row.levels:
                row.levels = levels
                changed.add(tenant)
        return changed
