"""A gateway's table and state file where the disk is as large as it is told. Answers questions until told to end.

Run ``python script_small_disk.py FILE``. Each line of its standard input is a command, and one line of JSON answers:
``limit BYTES`` makes no file larger than that from now on, ``limit`` any; ``charge FIRST LAST`` charges programs with
these numbers and commits, ``commit`` only commits.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import resource
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from state_world import charge, make_table

from autellix_server.gateway.state.state import GatewayState


async def main(path: Path) -> None:
    """Obey."""
    state = GatewayState(path)
    table = make_table(state)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    # What a first start finds when there is no room at all.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0 if "--full" in sys.argv else most, most))
    state.restore(table, time.monotonic())
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(numbers[0]) if numbers else most, most))
        elif command == "charge":
            for number in range(*map(int, numbers)):
                charge(table, f"p{number}", time.monotonic())
        await state.commit()
        sys.stdout.write(json.dumps(dataclasses.asdict(state.health)) + "\n")
        sys.stdout.flush()
    state.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
