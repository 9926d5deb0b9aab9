"""What was measured: calls and programs, as the client saw them. Times are seconds on the clock of one round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autellix_sdk.bill import CallBill
from autellix_server.bench.plan import Round


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one call.

    Attributes:
        text: the answer.
        first_s: when its first token came.
        ended_s: when it was complete.
        prompt_tokens, output_tokens: as the server counts them; `None` when it does not say.
        bill: where the time went; `None` from servers that are not ours.
    """

    text: str
    first_s: float
    ended_s: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    bill: CallBill | None = None


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call that was answered.

    Attributes:
        due_s: when it was to start; all its times count from here, whenever it really started.
        sent_s: when it was sent; later than `due_s` by what the client itself needed.
        answer: what came back.
        asked_prompt_tokens, asked_tokens: prompt length of the trace, and the output length that was asked for.
    """

    due_s: float
    sent_s: float
    answer: Answer
    asked_prompt_tokens: int
    asked_tokens: int

    @property
    def latency_s(self) -> float:
        """From when it was to start until the answer was complete."""
        return self.answer.ended_s - self.due_s

    @property
    def first_token_s(self) -> float:
        """From when it was to start until the first token."""
        return self.answer.first_s - self.due_s

    @property
    def lag_s(self) -> float:
        """How late the client sent it."""
        return self.sent_s - self.due_s

    @property
    def wait_s(self) -> float:
        """How long it waited: queued by its bill, and without one until its first token."""
        if self.answer.bill is None:
            return self.first_token_s
        return self.answer.bill.time.total_queued_us / 1e6

    @property
    def tokens(self) -> int:
        """Tokens generated; those asked for when the server does not say."""
        return self.asked_tokens if self.answer.output_tokens is None else self.answer.output_tokens


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """One program that ended or failed.

    Attributes:
        number: its place in the order of arrival; the same program has the same number in every round.
        kind: its kind.
        due_s: when it was to arrive.
        ended_s: when its last call ended, or the one that failed.
        response_s: response time of its calls along the critical path: from arrival to end without tools.
        calls: those that were answered.
        failure: what failed, in words that do not differ from call to call; `None` when all went well.
    """

    number: int
    kind: str
    due_s: float
    ended_s: float
    response_s: float
    calls: Sequence[CallRecord]
    failure: str | None = None

    @property
    def tokens(self) -> int:
        """Tokens generated."""
        return sum(call.tokens for call in self.calls)

    @property
    def completion_s(self) -> float:
        """From when it was to arrive until its end, tools included."""
        return self.ended_s - self.due_s

    @property
    def token_latency_s(self) -> float:
        """Response time per token generated.

        Source: Autellix section 8, program-level token latency.
        """
        return self.response_s / max(1, self.tokens)

    @property
    def tool_s(self) -> float:
        """Tool time along the critical path."""
        return max(0.0, self.completion_s - self.response_s)

    @property
    def longest_wait_s(self) -> float:
        """The longest that one of its calls waited."""
        return max((call.wait_s for call in self.calls), default=0.0)


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round.

    Attributes:
        round: which one it was.
        programs: those that ended or failed.
        planned: programs that were to run; more than in `programs` when the round was interrupted.
        counted: numbers of the programs that count: those outside warm-up and cool-down.
        span_s: from when the first program was to arrive until the last ended.
        cpu_s: processor time that the client took meanwhile.
    """

    round: Round
    programs: Sequence[ProgramRecord]
    planned: int
    counted: frozenset[int]
    span_s: float
    cpu_s: float

    @property
    def complete(self) -> bool:
        """Whether every program ended or failed."""
        return len(self.programs) == self.planned

    @property
    def measured(self) -> list[ProgramRecord]:
        """The programs whose times count: they lie outside warm-up and cool-down, and did not fail."""
        return [program for program in self.programs if program.failure is None and program.number in self.counted]
