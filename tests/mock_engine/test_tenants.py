"""Tenants through the mock engine's HTTP API: what a gateway stamps is what decides."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from mock_world import MODEL, JumpClock, Mock, running_mock, simulation, until

from autellix_sdk.bill import decode_bill
from autellix_sdk.wire import BILL_HEADER, CALL_HEADER, PROGRAM_HEADER, STAMP_HEADER
from autellix_server.scheduling.shares import Shares
from autellix_server.stamp import Stamp

SECRET = b"0123456789abcdef"


class Programs:
    """Clients of two tenants, and what a gateway would keep of them."""

    def __init__(self, mock: Mock) -> None:
        self._mock = mock
        self._shares = Shares()
        self._served_us: Counter[str] = Counter()
        self.service_s: Counter[str] = Counter()

    async def run(self, tenant: str, program: str, thread: int) -> None:
        """Make calls of one thread without end."""
        for number in range(10**6):
            call = f"v1;s=x;t={thread};c={thread}.{number}"
            stamp = Stamp(self._served_us[program], tenant=self._shares.arrive(tenant))
            headers = {PROGRAM_HEADER: program, CALL_HEADER: call, STAMP_HEADER: stamp.encode(SECRET, program, call)}
            body = {"prompt": "go", "max_tokens": 10, "ignore_eos": True}
            async with self._mock.client.post(self._mock.url + "/v1/completions", json=body, headers=headers) as reply:
                bill = decode_bill(reply.headers[BILL_HEADER])
            self._shares.complete(tenant, bill.service_us / 1e6)
            self._served_us[program] += bill.service_us
            self.service_s[tenant] += bill.service_us / 1e6


async def test_one_program_has_as_much_as_ten_of_another_tenant() -> None:
    """Half of the service each, within five percentage points, by nothing but signed stamps."""
    clock = JumpClock()
    settings = simulation("plas", replace(MODEL, slots=4), first_bound_s=10.0)
    async with running_mock(settings, clock, secret=SECRET) as mock:
        programs = Programs(mock)
        clients = [programs.run("one", "single", thread) for thread in range(10)]
        clients += [programs.run("many", f"m{number}", 0) for number in range(10)]
        tasks = [asyncio.create_task(client) for client in clients]
        engine = mock.server.engine
        await until(lambda: engine.waiting + engine.running == len(tasks))
        async with clock.running():
            await until(lambda: programs.service_s.total() >= 3000.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    share = programs.service_s["one"] / programs.service_s.total()
    assert 0.45 < share < 0.55
