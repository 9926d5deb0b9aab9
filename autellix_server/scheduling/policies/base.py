"""What policies have in common: a register, an account that sums, and the ladder of Algorithm 1."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from autellix_sdk.wire import CallContext, ProgramId
from autellix_server.scheduling.call import Call, Place
from autellix_server.scheduling.levels import Levels


class BasePolicy:
    """One level, first come first served, service summed up. Policies override what sets them apart.

    Args:
        levels: bins of attained service.
    """

    name: ClassVar[str]
    clairvoyant: ClassVar[bool] = False
    """Whether it needs to know the future, and so runs in the simulator only."""
    program_aware: ClassVar[bool] = True
    """Whether it goes by programs; see `Policy.program_aware`."""
    margin: ClassVar[int] = 0
    """How much better a call must be than what it displaces; see `Policy.margin`."""

    def __init__(self, levels: Levels) -> None:
        self.levels = levels
        self.promotion_s = levels.quantum_s(0)

    def rescale(self, first_bound_s: float) -> None:
        """Keep the number of levels and their proportions."""
        self.levels = self.levels.rescaled(first_bound_s)
        self.promotion_s = self.levels.quantum_s(0)

    def inherited_s(self, context: CallContext, service_s: float) -> float:
        """Inherit what the program attained."""
        return service_s

    def completed(self, context: CallContext, service_s: float, base_service_s: float, call_service_s: float) -> float:
        """Add the call's service to its program's."""
        return service_s + call_service_s

    def start_level(self, base_service_s: float) -> int:
        """Start in the best level."""
        return 0

    def start(self, call: Call) -> Place:
        """Start where the inherited service says, and stay."""
        return Place(self.start_level(call.base_service_s))

    def move(self, call: Call) -> Place:
        """Stay: no quantum is ever spent."""
        return Place(call.level, call.rank)

    def ended(self, program: ProgramId, program_class: str, service_s: float) -> None:
        """Learn nothing."""


class LadderPolicy(BasePolicy):
    """Levels with quanta: a call that spends its quantum joins the tail of the next level.

    Source: Autellix section 4, Algorithm 1, step 3. Differs: service beyond the quantum is charged to the next one, so
    that where a call stands does not depend on how its service was cut into steps.
    """

    def start(self, call: Call) -> Place:
        """Start in the level of the inherited service, with the whole quantum of that level."""
        level = self.start_level(call.base_service_s)
        return Place(level, quantum_s=self.levels.quantum_s(level))

    def move(self, call: Call) -> Place:
        """Go to the next level; the last one is never left."""
        level = min(call.level + 1, self.levels.count - 1)
        return Place(level, quantum_s=self.levels.quantum_s(level) + call.quantum_s)


REGISTRY: dict[str, type[BasePolicy]] = {}
"""Every policy class by name; filled by `registered`."""

_Class = TypeVar("_Class", bound=type[BasePolicy])


def registered(policy: _Class) -> _Class:
    """Enter a policy class under its name; a decorator."""
    REGISTRY[policy.name] = policy
    return policy
