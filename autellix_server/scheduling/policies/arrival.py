"""Orders of arrival: of calls, and of programs."""

from __future__ import annotations

from typing import ClassVar

from autellix_server.scheduling.call import Call, Place
from autellix_server.scheduling.policies.base import BasePolicy, registered


@registered
class Fcfs(BasePolicy):
    """First come, first served, call by call.

    Choose it as the baseline: it is what engines do. Do not choose it for agents under load: a program waits anew for
    every call it makes, and behind every long call.
    """

    name: ClassVar[str] = "fcfs"
    program_aware: ClassVar[bool] = False


@registered
class ProgramFcfs(BasePolicy):
    """First come, first served, program by program: a call goes ahead of all calls of programs that came later.

    Choose it for programs alike in size, where to finish what was begun is the best one can do, and where order of
    arrival must be seen to be kept. Do not choose it where sizes differ much: one long program holds up all behind it.
    """

    name: ClassVar[str] = "program-fcfs"

    def start(self, call: Call) -> Place:
        """Rank by arrival of the program."""
        return Place(0, rank=call.program_ticket)


@registered
class RoundRobin(BasePolicy):
    """Calls take turns: one that has had the quantum of the first level joins the tail.

    Choose it to see what preemption alone is worth. Do not choose it otherwise: calls of like size all end late, and
    every turn moves KV.
    """

    name: ClassVar[str] = "round-robin"
    program_aware: ClassVar[bool] = False

    def start(self, call: Call) -> Place:
        """Join the tail with a whole quantum."""
        return Place(0, quantum_s=self.levels.quantum_s(0))

    def move(self, call: Call) -> Place:
        """Join the tail again, with a whole quantum."""
        return self.start(call)
