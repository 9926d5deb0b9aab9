"""A gateway's table and state file in a process of their own, under load until it is killed.

Run ``python script_gateway.py FILE``. It writes to its standard output, one line each: ``began N TIME`` before charge
number N, spread over programs, and ``stored N TIME`` after a commit which began when N charges had been made; times in
seconds of the machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from state_world import PROGRAMS, charge, make_table

from autellix_server.gateway.state.state import GatewayState


class TellingState(GatewayState):
    """Tells of its commits."""

    charges = 0

    async def commit(self) -> None:
        """Commit, and say what is sure to be stored now."""
        charges = self.charges
        await super().commit()
        assert not self.health.degraded, self.health.reason
        tell(f"stored {charges}")


def tell(line: str) -> None:
    """Write a line at once, so that it is there when the process is killed the next moment."""
    os.write(1, f"{line} {time.monotonic()}\n".encode())


async def main(path: Path) -> None:
    """Charge as fast as it goes, where the last run ended."""
    state = TellingState(path)
    table = make_table(state)
    state.restore(table, time.monotonic())
    state.charges = sum(row.completed for row in table)
    async with asynccontextmanager(state.lifetime)():
        while True:
            for _ in range(10):
                number = state.charges + 1
                tell(f"began {number}")
                charge(table, f"p{number % PROGRAMS}", time.monotonic())
                state.charges = number
            await asyncio.sleep(0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
