"""The decoding batch of one engine, in which many steps are one addition.

A call that decodes is not touched by a step. It remembers the step and the decode time at which it joined, and is
settled when it leaves or when somebody asks what it has had.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from math import inf

from autellix_server.simulator.model import EngineModel
from autellix_server.simulator.programs import SimCall


class DecodeBatch:
    """Calls that decode together.

    Args:
        model: what a step costs.
    """

    def __init__(self, model: EngineModel) -> None:
        self._model = model
        # In the order of joining.
        self._calls: dict[SimCall, None] = {}
        self._kv_tokens = 0
        # Steps so far, and their seconds: the clock by which calls are settled.
        self._step = 0
        self._clock_s = 0.0
        # By step, and by clock. Entries of calls that have left stay until they come up; the call's own fields tell.
        self._finishes: list[tuple[int, int, SimCall]] = []
        self._quanta: list[tuple[float, int, SimCall]] = []
        self._entries = count(1)

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, call: SimCall) -> bool:
        return call in self._calls

    def steps_s(self, steps: int) -> float:
        """Return the seconds that the next `steps` steps take."""
        return self._model.decode_steps_s(steps, len(self._calls), self._kv_tokens)

    def steps_in(self, duration_s: float) -> int:
        """Return the least number of steps, 1 or more, that last `duration_s` seconds or longer."""
        return self._model.decode_steps_in(duration_s, len(self._calls), self._kv_tokens)

    def steps_to_finish(self) -> int:
        """Return after how many steps the first call is done; there must be one."""
        while self._finishes[0][1] != self._finishes[0][2].joined_entry:
            heappop(self._finishes)
        return self._finishes[0][0] - self._step

    def generated(self, call: SimCall) -> int:
        """Return how many tokens `call`, which decodes, has had by now."""
        return call.generated + self._step - call.joined_step

    def join(self, call: SimCall) -> None:
        """Let `call` take part from the next step on."""
        self._calls[call] = None
        self._kv_tokens += call.context_tokens
        call.joined_step, call.joined_s = self._step, self._clock_s
        call.joined_entry = next(self._entries)
        finish_step = self._step + call.output_tokens - call.generated
        heappush(self._finishes, (finish_step, call.joined_entry, call))
        self.watch(call)

    def leave(self, call: SimCall) -> None:
        """Settle `call` and take it out."""
        self._settle(call)
        del self._calls[call]
        self._kv_tokens -= call.context_tokens
        call.joined_entry = call.quantum_entry = 0

    def run(self, steps: int) -> list[SimCall]:
        """Take steps, no more than `steps_to_finish`; return the calls that are done, which have left."""
        self._clock_s += self.steps_s(steps)
        self._step += steps
        self._kv_tokens += steps * len(self._calls)
        done = []
        while self._finishes and self._finishes[0][0] <= self._step:
            _, entry, call = heappop(self._finishes)
            if entry == call.joined_entry:
                self.leave(call)
                done.append(call)
        return done

    def refresh_kv_tokens(self) -> None:
        """Bring `kv_tokens` of every call up to now."""
        for call in self._calls:
            call.kv_tokens = call.computed - call.hit + self._step - call.joined_step

    def quantum_spent(self) -> list[SimCall]:
        """Settle and return the calls whose quantum is spent, in the order of joining; then credit and `watch` them."""
        spent = []
        while self._quanta and self._quanta[0][0] <= self._clock_s:
            _, entry, call = heappop(self._quanta)
            if entry == call.quantum_entry:
                self._settle(call)
                spent.append(call)
        return sorted(spent, key=_joined_entry)

    def watch(self, call: SimCall) -> None:
        """Report `call` when its present quantum is spent."""
        if call.quantum_s < inf:
            call.quantum_entry = next(self._entries)
            heappush(self._quanta, (self._clock_s + call.quantum_s - call.owed_s, call.quantum_entry, call))

    def _settle(self, call: SimCall) -> None:
        steps, steps_s = self._step - call.joined_step, self._clock_s - call.joined_s
        call.generated += steps
        call.computed += steps
        call.times.decode_s += steps_s
        call.owed_s += steps_s
        call.joined_step, call.joined_s = self._step, self._clock_s


def _joined_entry(call: SimCall) -> int:
    return call.joined_entry
