"""An engine in a few lines, and calls to run on it: whole seconds, fixed slots, the real table and planner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autellix_sdk.bill import CallBill, TimeSplit
from autellix_sdk.wire import CallContext, CallId, ProgramId
from autellix_server.scheduling.call import Call
from autellix_server.scheduling.draft import Capacity
from autellix_server.scheduling.planner import Planner, PlannerSettings
from autellix_server.scheduling.policy import Policy
from autellix_server.scheduling.table import ActiveCall, ProgramTable


def make_call(
    program: str = "a",
    number: int = 0,
    base_s: float = 0.0,
    tokens: int = 1,
    parents: tuple[CallId, ...] | None = (),
    **fields: object,
) -> Call:
    """A call; `fields` are those of `Call`."""
    context = CallContext(ProgramId(program), "s", 0, CallId(f"0.{number}"), parents)
    return Call(context, 0.0, tokens, base_service_s=base_s, kv_tokens=tokens, **fields)  # type: ignore[arg-type]


class SmallEngine:
    """Runs serial programs to the end, one second a step, and counts what each waited.

    Args:
        policy: orders calls.
        programs: service of the calls of each program, in whole seconds; all arrive at time 0, in this order.
        slots: calls that run at a time.
        settings: of the planner.
    """

    def __init__(
        self, policy: Policy, programs: Mapping[str, Sequence[int]], slots: int, settings: PlannerSettings | None = None
    ) -> None:
        self._table = ProgramTable(policy)
        self._planner = Planner(policy, settings)
        self._capacity = Capacity(slots, 10**9, 10**9)
        self._programs = programs
        self._left: dict[Call, int] = {}
        self._entries: dict[Call, ActiveCall] = {}
        self.waited_s = dict.fromkeys(programs, 0.0)
        self.finished_s: dict[str, float] = {}

    def run(self) -> float:
        """Run every program to its end and return the time all of them waited together."""
        now = 0
        for program in self._programs:
            self._start(program, 0, now)
        while self._left:
            self._planner.plan(self._capacity, now)
            now += 1
            running = [call for call in self._left if call.running]
            for call in running:
                self._left[call] -= 1
                self._planner.credit(call, 1.0, now)
            for call in running:
                if not self._left[call]:
                    self._finish(call, now)
        return sum(self.waited_s.values())

    def _start(self, program: str, number: int, now: int) -> None:
        parents = (CallId(f"0.{number - 1}"),) if number else ()
        context = CallContext(ProgramId(program), "s", 0, CallId(f"0.{number}"), parents)
        entry = self._table.arrive(context, now)
        left = self._programs[program][number:]
        call = Call(context, now, 1, base_service_s=entry.base_service_s, base_wait_s=entry.base_wait_s)
        call.remaining_s = float(sum(left))
        self._entries[call], self._left[call] = entry, left[0]
        self._planner.arrive(call, now)

    def _finish(self, call: Call, now: int) -> None:
        del self._left[call]
        self._planner.remove(call, now)
        program = call.context.program
        self.waited_s[program] += call.wait_s
        time = TimeSplit({"admission": round(call.wait_s * 1e6)}, decode_us=round(call.service_s * 1e6))
        bill = CallBill(program, call.context.call, "e", time, service_us=time.decode_us)
        self._table.complete(self._entries.pop(call), bill, now)
        number = int(call.context.call.removeprefix("0.")) + 1
        if number < len(self._programs[program]):
            self._start(program, number, now)
        else:
            self.finished_s[program] = now
            service_s = float(sum(self._programs[program]))
            self._planner.program_ended(program, "", service_s, now)
