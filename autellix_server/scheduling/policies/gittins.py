"""Gittins index of attained service, learned online per program class; and `auto`, the policy to use by default."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from autellix_sdk.wire import ProgramId
from autellix_server.scheduling.call import Call, Place
from autellix_server.scheduling.hazards import Hazards
from autellix_server.scheduling.levels import DEFAULT_FIRST_BOUND_S, Levels, geometric_levels
from autellix_server.scheduling.policies.base import BasePolicy, registered

_GROWTH = 2**0.5
_FINE_LEVELS = 40
_FINEST = 1 / 16
_PATIENCE = 2.0
_MAX_CLASSES = 256
_MAX_PROGRAMS = 1 << 16


@dataclass(slots=True)
class _Progress:
    """A live program: its class, and the bin of attained service that it is known to have reached."""

    hazards: Hazards
    reached: int = 0


@registered
class Gittins(BasePolicy):
    """The program goes first that is likeliest to end soon for the service it takes, judged by programs of its class.

    An end counts by one over the square root of the program's size, see `Hazards`.

    Choose it where programs come in kinds that repeat, named by the SDK or told apart by their system prompt. Where
    attained service means that much is still to come it acts like PLAS; where programs are alike in size it finishes
    what was begun. Until a class has data it puts the least attained service first, as ATLAS does. Do not choose it
    where kinds change faster than programs end, or where it must be plain to users why a program waits.

    Levels are fine: half an octave of effort (`Hazards.effort_s`) each, from a sixteenth of the first bound. Inside a
    level programs go by arrival. A call moves, up or down, when its program's service enters the next bin; service of
    calls in flight counts as of the last move or arrival. Memory: the last 2^16 live programs and 256 classes used.

    Preemption is rare: a call displaces what is 8 levels worse, 16 times further from its end. An index moves with
    every bin, and to follow it closely costs more KV moved and computed again than it gains.

    Guard of the tail: when a call arrives or moves, the effort of its program is divided by ``1 + W / (patience * T)``,
    with W and T the program's waiting and service so far: one that is held back again and again comes closer.

    Source: Gittins, Glazebrook and Weber, Multi-armed Bandit Allocation Indices. Differs from Autellix, which takes no
    distribution into account; for a program with several threads attained service is their sum, the work done.

    Args:
        levels: only the first bound is used, as the scale of a call's service. The bins keep it for good, with what is
            learned in them: on simulated programs a scale 20 times off costs some percent (docs/decisions/0010).
        patience: ratio of waiting to service at which a program counts as half as far from its end, above 0; ``inf``:
            no guard.
    """

    name: ClassVar[str] = "gittins"
    margin: ClassVar[int] = 8

    def __init__(self, levels: Levels, patience: float = _PATIENCE) -> None:
        first_bound_s = levels.bounds_s[0] if levels.bounds_s else DEFAULT_FIRST_BOUND_S
        super().__init__(geometric_levels(_FINE_LEVELS, first_bound_s * _FINEST, _GROWTH))
        self.promotion_s = first_bound_s
        self._patience = patience
        self._prior = Hazards(self.levels, _GROWTH, first_bound_s)
        self._classes: OrderedDict[str, Hazards] = OrderedDict()
        self._live: OrderedDict[ProgramId, _Progress] = OrderedDict()

    def rescale(self, first_bound_s: float) -> None:
        """Change what a promoted call gets, and keep the bins: the index hardly depends on where they begin."""
        self.promotion_s = first_bound_s

    def start_level(self, base_service_s: float) -> int:
        """Return the level of a program of a class without data."""
        return self.levels.level_of(self._prior.effort_s(base_service_s))

    def start(self, call: Call) -> Place:
        """Start by the index of the program's attained service."""
        attained_s = call.base_service_s + call.in_flight_s + call.service_s
        progress = self._advance(call.context.program, call.program_class, attained_s)
        stretch = (call.base_wait_s + call.wait_s) / attained_s if attained_s > 0 else 0.0
        effort_s = progress.hazards.effort_s(attained_s) / (1 + stretch / self._patience)
        return Place(
            level=self.levels.level_of(effort_s),
            rank=call.program_ticket,
            quantum_s=self.levels.until_next_s(attained_s),
        )

    def move(self, call: Call) -> Place:
        """Place the call anew: its program's service has entered the next bin."""
        return self.start(call)

    def ended(self, program: ProgramId, program_class: str, service_s: float) -> None:
        """Count the program in every bin it passed and in the one it ended in."""
        progress = self._advance(program, program_class, service_s)
        progress.hazards.ended(progress.reached)
        del self._live[program]

    def _advance(self, program: ProgramId, program_class: str, attained_s: float) -> _Progress:
        """Note how far a program has come: it survived every bin before that."""
        progress = self._live.get(program)
        if progress is None:
            progress = self._live[program] = _Progress(self._hazards(program_class))
            if len(self._live) > _MAX_PROGRAMS:
                self._live.popitem(last=False)
        now_in = self.levels.level_of(attained_s)
        for index in range(progress.reached, now_in):
            progress.hazards.survived(index)
        progress.reached = max(progress.reached, now_in)
        return progress

    def _hazards(self, program_class: str) -> Hazards:
        hazards = self._classes.get(program_class)
        if hazards is None:
            hazards = self._classes[program_class] = Hazards(self.levels, _GROWTH, self.promotion_s)
            if len(self._classes) > _MAX_CLASSES:
                self._classes.popitem(last=False)
        self._classes.move_to_end(program_class)
        return hazards


@registered
class Auto(Gittins):
    """The best policy known, today `gittins`; the planner adds guards against starvation and holds idle programs' KV.

    Choose it unless you know better: on simulated chat and mixed programs it stays close to clairvoyant SRPT, and
    where programs are alike in size it does not lose to FCFS as PLAS does. Do not choose it to reproduce a result: its
    name stays when a better policy takes its place.
    """

    name: ClassVar[str] = "auto"
