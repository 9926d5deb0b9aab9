"""Shortest remaining processing time: what could be reached if the future were known."""

from __future__ import annotations

from math import inf
from typing import ClassVar

from autellix_server.scheduling.call import Call, Place
from autellix_server.scheduling.policies.base import BasePolicy, registered

_SHARE = 1 / 8
_LEAST_QUANTUM_S = 1e-3


@registered
class Srpt(BasePolicy):
    """The program with the least service still to come goes first. Needs `Call.remaining_s`.

    Choose it in the simulator, as the yardstick for the others. Nothing else can: no one knows what an agent will do.
    A call whose remaining service is not known goes last.

    A running call's remaining service is looked at again whenever an eighth of it is done.
    """

    name: ClassVar[str] = "srpt"
    clairvoyant: ClassVar[bool] = True

    def start(self, call: Call) -> Place:
        """Rank by the service that the program needs from here on."""
        remaining_s = inf if call.remaining_s is None else max(0.0, call.remaining_s - call.service_s)
        return Place(0, rank=remaining_s, quantum_s=max(remaining_s * _SHARE, _LEAST_QUANTUM_S))

    def move(self, call: Call) -> Place:
        """Rank anew, now that the call has had more service."""
        return self.start(call)
