"""Small models, traces and runs for the simulator's tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from autellix_server.simulator.model import EngineModel
from autellix_server.simulator.programs import Arrival


@dataclass(frozen=True)
class FakeCall:
    """A call of a trace."""

    id: str
    parents: tuple[str, ...] = ()
    thread: int = 0
    prompt_tokens: int = 10
    shared_prefix_tokens: int = 0
    output_tokens: int = 4
    tool_seconds: float | None = None


@dataclass(frozen=True)
class FakeProgram:
    """A program of a trace."""

    program_id: str
    calls: tuple[FakeCall, ...]
    kind: str = "chat"


MODEL = EngineModel(
    step_s=1.0,
    prefill_token_s=0.0,
    prefix_token_s=0.0,
    decode_sequence_s=0.0,
    kv_token_s=0.0,
    slots=2,
    kv_tokens=10_000,
    chunk_tokens=1000,
    host_tokens=10_000,
    kv_bytes_per_token=1,
    link_bytes_per_s=1e12,
    source="every step takes a second",
)
"""Steps of one second, two slots, memory and link without limits that matter."""


def chain(name: str, *outputs: int, prompt: int = 10, tool_s: float | None = None, kind: str = "chat") -> FakeProgram:
    """Return a program of one thread; each call replays all that came before and adds `prompt` tokens."""
    calls, history = [], 0
    for index, output in enumerate(outputs):
        parents = (str(index - 1),) if index else ()
        calls.append(FakeCall(str(index), parents, 0, history + prompt, history, output, tool_s))
        history += prompt + output
    return FakeProgram(name, tuple(calls), kind)


def at_once(*programs: FakeProgram) -> list[Arrival]:
    """Return arrivals of all programs at time 0."""
    return [Arrival(0.0, program) for program in programs]


def random_program(name: str, random: Random) -> FakeProgram:
    """Return a program of up to eight calls whose parents are any earlier ones."""
    calls: list[FakeCall] = []
    for index in range(random.randint(1, 8)):
        parents = tuple(sorted({random.choice(calls).id for _ in range(random.randint(0, 2))})) if calls else ()
        prompt = random.randint(1, 60)
        shared = 0
        if parents:
            parent = calls[int(random.choice(parents))]
            shared = parent.prompt_tokens + random.randint(0, parent.output_tokens)
        tool_s = random.choice([None, 0.0, random.uniform(0, 3)])
        calls.append(FakeCall(str(index), parents, 0, shared + prompt, shared, random.randint(1, 40), tool_s))
    return FakeProgram(name, tuple(calls), random.choice(["chat", "react"]))


def random_model(random: Random, usable: int) -> EngineModel:
    """Return a small engine whose plans can use at least `usable` tokens, under pressure of slots or of memory."""
    slots = random.randint(1, 5)
    return replace(
        MODEL,
        step_s=random.uniform(0.005, 0.05),
        prefill_token_s=random.uniform(0, 1e-3),
        prefix_token_s=random.uniform(0, 1e-4),
        decode_sequence_s=random.uniform(0, 1e-3),
        # Never 0: steps of equal length end at the same time, and rounding alone would say which engine goes first.
        kv_token_s=random.uniform(1e-6, 1e-4),
        slots=slots,
        kv_tokens=usable + 8 * (slots + 1) + random.choice([0, 200, 2000]),
        chunk_tokens=random.choice([16, 64, 512]),
        host_tokens=random.choice([0, 100, 5000]),
        link_bytes_per_s=random.choice([200.0, 1e4, 1e9]),
    )


def largest_context(programs: Sequence[FakeProgram]) -> int:
    """Return the most tokens that one call of `programs` holds."""
    return max(call.prompt_tokens + call.output_tokens for program in programs for call in program.calls)
