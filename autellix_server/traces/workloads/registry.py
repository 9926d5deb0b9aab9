"""The workloads by name, and the means that the paper publishes for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from autellix_sdk.errors import UsageError
from autellix_server.traces.model import TraceProgram
from autellix_server.traces.workloads.chat import chat
from autellix_server.traces.workloads.coding import coding
from autellix_server.traces.workloads.map_reduce import map_reduce
from autellix_server.traces.workloads.mcts import mcts
from autellix_server.traces.workloads.react import react

Generator = Callable[[random.Random, str], TraceProgram]


@dataclass(frozen=True, slots=True)
class PublishedMeans:
    """What the paper says of a workload.

    Attributes:
        calls: calls a program.
        most_calls: calls of the longest program.
        prefill_tokens: prompt tokens a call that were not in the program before.
        decode_tokens: output tokens a call.

    Source: Autellix section 8, table of workloads.
    """

    calls: float
    most_calls: int
    prefill_tokens: float
    decode_tokens: float


@dataclass(frozen=True, slots=True)
class Workload:
    """A source of programs.

    Attributes:
        name: what it is asked for by.
        summary: one line for people.
        kinds: generators of the programs it is made of, each as likely as the others.
        published: the paper's means; `None` for workloads that the paper does not have.
    """

    name: str
    summary: str
    kinds: tuple[Generator, ...]
    published: PublishedMeans | None = None


WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("chat", "ShareGPT chat: serial, history replayed", (chat,), PublishedMeans(6.66, 80, 255.65, 276.81)),
        Workload("react", "BFCL ReAct: serial, long tool schemas", (react,), PublishedMeans(10.75, 70, 735.06, 34.14)),
        Workload("mcts", "LATS on HotpotQA: a parallel tree", (mcts,), PublishedMeans(159.71, 400, 467.24, 72.64)),
        Workload("mixed", "chat, react and mcts in equal parts", (chat, react, mcts)),
        Workload("coding", "coding agents: long contexts, slow tools, subagents", (coding,)),
        Workload("map_reduce", "documents in chunks: wide, then one", (map_reduce,)),
    )
}
"""Every workload; the first four are the paper's."""


def generate(name: str, seed: int) -> Iterator[TraceProgram]:
    """Yield programs of a workload without end; the n-th depends on name, seed and n alone.

    Args:
        name: one of `WORKLOADS`.
        seed: another seed gives other programs, with other IDs.

    Raises:
        UsageError: there is no such workload.
    """
    if name not in WORKLOADS:
        raise UsageError(f"there is no workload {name!r}; use one of {', '.join(WORKLOADS)}")
    return _generate(WORKLOADS[name], seed)


def _generate(workload: Workload, seed: int) -> Iterator[TraceProgram]:
    number = 0
    while True:
        rng = random.Random(f"{workload.name}/{seed}/{number}")
        build = rng.choice(workload.kinds)
        yield build(rng, f"{workload.name}-{seed}-{number}")
        number += 1
