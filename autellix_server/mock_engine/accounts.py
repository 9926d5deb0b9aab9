"""Who a call is, what its program had attained, and what it is billed: as the engine plugin does it.

The bill is in wall time, whatever the speed: it is for those who look at the engine from outside. The account that
policies look at is in virtual time, as the engine model and the levels are.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import CallContext
from autellix_server.identity import identify
from autellix_server.scheduling.policy import Policy
from autellix_server.scheduling.shares import NO_TENANT, TenantStanding
from autellix_server.scheduling.table import ActiveCall, Program, ProgramTable
from autellix_server.simulator.programs import SimCall
from autellix_server.simulator.run import bill_of
from autellix_server.stamp import believed_stamp

_log = logging.getLogger(__name__)
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Account:
    """One call in flight, in virtual time.

    Attributes:
        active: its entry in our table.
        base_service_s, base_wait_s: its program's attained service and waiting time at arrival: the gateway's word
            where it stamped the call, else our table's.
        tenant: where its tenant stands, by the gateway's word.
    """

    active: ActiveCall
    base_service_s: float
    base_wait_s: float
    tenant: TenantStanding = NO_TENANT

    @property
    def context(self) -> CallContext:
        """Who the call is."""
        return self.active.context


class Accounts:
    """The program table of a mock engine. One event loop, no locks.

    Args:
        policy: the table's own, not the planner's.
        speed: virtual seconds per wall second; stamps are in wall time.
        secret: shared with the gateway, whose stamps are then believed; `None` when there is no gateway.
        on_end: told of every program that ends.
    """

    def __init__(self, policy: Policy, speed: float, secret: bytes | None, on_end: Callable[[Program], None]) -> None:
        self.table = ProgramTable(policy, on_end=on_end)
        self._speed = speed
        self._secret = secret

    def arrive(self, headers: Mapping[str, str], now: float) -> Account:
        """Enter a call.

        Args:
            headers: request headers, in a mapping that ignores case.
            now: virtual seconds.
        """
        self.table.expire(now)
        found = identify(headers, lambda: uuid.uuid4().hex)
        if found.error is not None:
            _log.warning("a call runs as its own program: %s", found.error)
        active = self.table.arrive(found.context, now, single_call=found.single_call)
        stamp = believed_stamp(headers, self._secret)
        if stamp is None:
            return Account(active, active.base_service_s, active.base_wait_s)
        to_virtual_s = self._speed / _US
        tenant = replace(stamp.tenant, service_us=round(stamp.tenant.service_us * self._speed))
        return Account(active, stamp.base_service_us * to_virtual_s, stamp.base_wait_us * to_virtual_s, tenant)

    def complete(self, account: Account, call: SimCall | None, now: float) -> None:
        """Take a call out, charged with what it used; `None`: its client left, and nothing is charged."""
        self.table.complete(account.active, None if call is None else bill_of(call), now)


def wall_bill(call: SimCall, rate: float, wall_s: float) -> CallBill:
    """Return the bill of a call that is done, in wall time; its parts add up to `wall_s`.

    Args:
        call: the call.
        rate: wall seconds per virtual second while it was in the engine.
        wall_s: wall seconds that it took the server, whatever is around the engine included.
    """
    bill = bill_of(call)
    model = bill.time
    time = TimeSplit(
        {cause: int(us * rate) for cause, us in model.queued_us.items()},
        prefill_us=int(model.prefill_us * rate),
        decode_us=int(model.decode_us * rate),
        swap_us=int(model.swap_us * rate),
    )
    other_us = max(0, round(wall_s * _US) - time.wall_us)
    return replace(bill, time=replace(time, other_us=other_us), service_us=int(bill.service_us * rate))
