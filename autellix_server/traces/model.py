"""A traced program: its calls, who waited for whom, how many tokens each took, and what they shared.

Attribute names are the field names of the file format, which docs/traces.md describes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from autellix_sdk.errors import WireError
from autellix_sdk.wire import check_program_id
from autellix_server.errors import ServerError

END_TURN = "end_turn"
"""Value of `TraceCall.stop`: the model gave the word back to a person, so the gap that follows is a person's."""

MAX_PROGRAM_ID = 64
"""Characters of the longest program ID."""

_CALL_ID = re.compile(r"[0-9a-z.]{1,20}")
_SHOWN_CHARACTERS = 60

_LARGEST = 10**12
"""Of tokens and of seconds: more is a slip, and sums of it would not be numbers."""


class TraceError(ServerError):
    """A trace breaks the format; the message names file, line, field, value and remedy.

    Args:
        problem: what is wrong and what to write instead.
        file: name of the trace; empty when it does not come from a file.
        line: line in the file, counted from 1; 0 when the whole file is meant.
    """

    exit_code = 2

    def __init__(self, problem: str, file: str = "", line: int = 0) -> None:
        place = ":".join(part for part in (file, str(line or "")) if part)
        super().__init__(f"{place}: {problem}" if place else problem)
        self.problem = problem
        self.file = file
        self.line = line

    def at(self, file: str, line: int = 0) -> TraceError:
        """Return the same error with its place in a file."""
        return TraceError(self.problem, file, line)


def fault(name: str, value: object, remedy: str) -> TraceError:
    """Return the error for one field.

    Args:
        name: the field, with its path inside the program, such as ``calls[3].prompt_tokens``.
        value: what was found; shown shortened.
        remedy: what to write instead, as an order.
    """
    shown = ascii(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[:_SHOWN_CHARACTERS] + "..."
    return TraceError(f"field {name} is {shown}; {remedy}")


@dataclass(frozen=True, slots=True)
class TraceCall:
    """One call to the model.

    Attributes:
        id: unique in the program; 1 to 20 characters of ``[0-9a-z.]``.
        parents: calls that this one waited for, all of them earlier in the list; empty for a root call.
        thread: number of the chain in the call graph, 0 or more.
        prompt_tokens: length of the whole prompt, history included; at least 1.
        shared_prefix_tokens: how much of its beginning an earlier call of the same program already had as prompt or
            output; at most `prompt_tokens`.
        output_tokens: tokens generated; 0 or more.
        tool_seconds: gap between its end and the start of its children; `None` when it is not known.
        stop: `END_TURN` when a person, not a tool, fills the gap; `None` otherwise.
        tool_name: tool that ran after it, or `None`.
        role: what the call does in its program, such as ``generate`` or ``value``, or `None`.
        synthetic_output: the output's text was not in the source, and its length is an assumption.
        t: when it arrived, in seconds on the clock of `TraceProgram.arrival_seconds`; `None` when it is not known.
    """

    id: str
    parents: tuple[str, ...]
    thread: int
    prompt_tokens: int
    shared_prefix_tokens: int
    output_tokens: int
    tool_seconds: float | None = None
    stop: str | None = None
    tool_name: str | None = None
    role: str | None = None
    synthetic_output: bool = False
    t: float | None = None

    @property
    def new_tokens(self) -> int:
        """Prompt tokens that no earlier call of the program had: what an engine with a prefix cache must compute."""
        return self.prompt_tokens - self.shared_prefix_tokens

    @property
    def history_tokens(self) -> int:
        """Prompt and output together: what the next call of a conversation repeats."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class TraceProgram:
    """One run of an agent.

    Attributes:
        program_id: unique in the trace; a program ID of the wire contract.
        kind: class of programs it belongs to: ``chat``, ``react``, ``mcts``, ``coding``, ``map_reduce``, or another.
        source: where it comes from.
        calls: at least one; parents come before their children.
        arrival_seconds: when it arrived, in seconds since the trace began; `None` when the source has no times.
        opening: name of the text that the program shares with others; `None` leaves it to `opening_name`.
        tool_tokens: tokens of tool schemas at the very beginning of that text.
        system_tokens: tokens of the system prompt after them.
        scaled: how its lengths were changed, in words; `None` when they are as found.
        facts: what else the source says of it, by field name; values of JSON, kept and not interpreted.
    """

    program_id: str
    kind: str
    source: str
    calls: tuple[TraceCall, ...]
    arrival_seconds: float | None = None
    opening: str | None = None
    tool_tokens: int = 0
    system_tokens: int = 0
    scaled: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def opening_tokens(self) -> int:
        """Length of the text that programs of the same `opening_name` begin with."""
        return self.tool_tokens + self.system_tokens

    @property
    def opening_name(self) -> str:
        """Name of that text; unless given, programs of one kind with openings of the same lengths share theirs."""
        return self.opening or f"{self.kind}/{self.tool_tokens}+{self.system_tokens}"

    @property
    def output_tokens(self) -> int:
        """Tokens generated by all calls."""
        return sum(call.output_tokens for call in self.calls)

    @property
    def threads(self) -> int:
        """Number of chains in the call graph."""
        return len({call.thread for call in self.calls})


def followed_by(
    previous: TraceCall | None,
    *,
    call_id: str,
    new_tokens: int,
    output_tokens: int,
    tool_seconds: float | None = None,
    stop: str | None = None,
    synthetic_output: bool = False,
) -> TraceCall:
    """Return a call that replays the whole history of `previous` and adds to it, as chats and ReAct agents do.

    Args:
        previous: the call before it on the same thread; `None` for the first of thread 0.
        call_id: ID of the new call.
        new_tokens: what it adds to the history; at least 1 when there is no history.
        output_tokens, tool_seconds, stop, synthetic_output: as in `TraceCall`.
    """
    history = previous.history_tokens if previous else 0
    return TraceCall(
        id=call_id,
        parents=(previous.id,) if previous else (),
        thread=previous.thread if previous else 0,
        prompt_tokens=history + new_tokens,
        shared_prefix_tokens=history,
        output_tokens=output_tokens,
        tool_seconds=tool_seconds,
        stop=stop,
        synthetic_output=synthetic_output,
    )


def check_program(program: TraceProgram) -> None:
    """Check what the types do not say: ranges, order of the calls, and that sharing has a source.

    Raises:
        TraceError: naming the first field that is wrong.
    """
    try:
        check_program_id(program.program_id)
    except WireError:
        remedy = f"write 1 to {MAX_PROGRAM_ID} characters of A-Z a-z 0-9 . _ -"
        raise fault("program_id", program.program_id, remedy) from None
    _check_seconds("arrival_seconds", program.arrival_seconds)
    for name in ("tool_tokens", "system_tokens"):
        _check_count(name, getattr(program, name))
    if not program.kind:
        raise fault("kind", program.kind, "name the class of programs, such as chat")
    if not program.calls:
        raise fault("calls", [], "give the program at least one call, or leave it out")
    _check_calls(program.calls)


def _check_calls(calls: tuple[TraceCall, ...]) -> None:
    seen: set[str] = set()
    longest_history = 0
    for index, call in enumerate(calls):
        where = f"calls[{index}]"
        if _CALL_ID.fullmatch(call.id) is None:
            raise fault(f"{where}.id", call.id, "write 1 to 20 characters of 0-9 a-z .")
        if call.id in seen:
            raise fault(f"{where}.id", call.id, "give every call of the program its own ID")
        for parent in call.parents:
            if parent not in seen:
                raise fault(f"{where}.parents", parent, "name calls that stand earlier in the list")
        if len(set(call.parents)) < len(call.parents):
            raise fault(f"{where}.parents", list(call.parents), "name each parent once")
        _check_count(f"{where}.thread", call.thread)
        _check_count(f"{where}.prompt_tokens", call.prompt_tokens, least=1)
        _check_count(f"{where}.output_tokens", call.output_tokens)
        _check_shared(where, call, longest_history)
        _check_seconds(f"{where}.tool_seconds", call.tool_seconds)
        _check_seconds(f"{where}.t", call.t)
        seen.add(call.id)
        longest_history = max(longest_history, call.history_tokens)


def _check_shared(where: str, call: TraceCall, longest_history: int) -> None:
    name = f"{where}.shared_prefix_tokens"
    _check_count(name, call.shared_prefix_tokens)
    if call.shared_prefix_tokens > call.prompt_tokens:
        remedy = f"write at most the call's prompt_tokens, {call.prompt_tokens}"
        raise fault(name, call.shared_prefix_tokens, remedy)
    if call.shared_prefix_tokens > longest_history:
        remedy = f"write at most what an earlier call had as prompt and output, here {longest_history}"
        raise fault(name, call.shared_prefix_tokens, remedy)


def _check_count(name: str, value: int, least: int = 0) -> None:
    if value < least:
        raise fault(name, value, f"write a whole number of {least} or more")
    if value > _LARGEST:
        raise fault(name, value, f"write at most {_LARGEST}")


def _check_seconds(name: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise fault(name, value, "write seconds of 0 or more, or null when they are not known")
    if value is not None and value > _LARGEST:
        raise fault(name, value, f"write at most {_LARGEST} seconds")
