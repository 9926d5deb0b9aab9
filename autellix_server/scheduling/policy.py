"""The policy interface: every question that the program table and the planner ask. Policies are in `policies`."""

from __future__ import annotations

from typing import Protocol

from autellix_sdk.wire import CallContext, ProgramId
from autellix_server.scheduling.call import Call, Place
from autellix_server.scheduling.levels import Levels


class Policy(Protocol):
    """Decides priority. Deterministic: its answers follow from what it was told, in the order it was told.

    A policy that remembers or learns belongs to one program table and one planner, and to one thread; the others may be
    shared. The table asks `inherited_s` at a call's arrival and `completed` at its completion, with calls of a program
    interleaved in any way. The planner asks `start` once for a call, then `move` each time its quantum is spent.
    """

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def levels(self) -> Levels:
        """The levels it uses, until `rescale` changes them."""

    @property
    def promotion_s(self) -> float:
        """Seconds of service after which a call that was promoted to the best level moves."""

    @property
    def program_aware(self) -> bool:
        """Whether it goes by programs, so that their KV is held between calls and dropped when they end.

        Policies that do not are those of engines which know of calls only, kept as they are for comparison.
        """

    @property
    def margin(self) -> int:
        """Levels by which a call must be better than what it displaces; 0: any better place in line will do."""

    def rescale(self, first_bound_s: float) -> None:
        """Use levels whose first bound is `first_bound_s` seconds, from the next question on.

        Calls keep the level and the quantum that they have until they move.
        """

    def inherited_s(self, context: CallContext, service_s: float) -> float:
        """Return the attained service, in seconds, that an arriving call is scheduled by.

        Args:
            context: who the call is.
            service_s: its program's attained service.
        """

    def completed(self, context: CallContext, service_s: float, base_service_s: float, call_service_s: float) -> float:
        """Return the program's attained service after one of its calls completed, in seconds; never less than before.

        Args:
            context: who the call is.
            service_s: the program's attained service now.
            base_service_s: what `inherited_s` returned when the call arrived.
            call_service_s: time the call spent on the model executor.
        """

    def start_level(self, base_service_s: float) -> int:
        """Return the level of a call of which no more is known than its inherited service in seconds."""

    def start(self, call: Call) -> Place:
        """Return where a call starts."""

    def move(self, call: Call) -> Place:
        """Return where a call goes whose quantum is spent; ``call.quantum_s`` is 0 or, by the overshoot, less.

        A place whose quantum is 0 or less is left at once: the planner asks again.
        """

    def ended(self, program: ProgramId, program_class: str, service_s: float) -> None:
        """Learn from a program that ended.

        Args:
            program: the program.
            program_class: what programs of its kind have in common; empty: not known.
            service_s: the service it attained in all, in seconds.
        """
