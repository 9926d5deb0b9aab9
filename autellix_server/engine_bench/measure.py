"""What is measured of one arm while it runs, by calls alone: the same for every server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from autellix_sdk.errors import UsageError
from autellix_server.calibration.client import Answer, Client
from autellix_server.calibration.probes import Probe, read_answers
from autellix_server.engine.progress import Progress
from autellix_server.errors import EngineFailure

WARM_UP_TOKENS = 8
_CACHED_SHARE = 0.1
"""Of a prompt: two prompts may begin with the same token by chance, but not with the same tenth."""


@dataclass(frozen=True, slots=True)
class Load:
    """What each arm is asked in each round.

    Attributes:
        concurrency: how many calls decode side by side, ascending.
        tokens: that each of them generates, 8 or more.
        context: tokens of their prompts.
        prefill: tokens of the prompt whose first token is waited for.
        repeats: how often each is measured.
    """

    concurrency: Sequence[int] = (1, 16)
    tokens: int = 64
    context: int = 128
    prefill: int = 512
    repeats: int = 3

    @property
    def probes(self) -> list[Probe]:
        """What is sent, in order."""
        decodes = [Probe("decode", calls, 0, self.context, self.tokens) for calls in self.concurrency]
        return [*decodes, Probe("prefill", 1, 0, self.prefill)]

    @property
    def warm_up(self) -> list[Probe]:
        """The same with short answers: what a server does at the first batch of a size is not measured."""
        decodes = [Probe("decode", calls, 0, self.context, WARM_UP_TOKENS) for calls in self.concurrency]
        return [*decodes, Probe("prefill", 1, 0, self.prefill)]


@dataclass(frozen=True, slots=True)
class Speeds:
    """What was measured in one turn.

    Attributes:
        tokens_per_s: by what was measured (`speed_name`), for each repetition.
        client_busy: largest share of a core that sending and reading took.
    """

    tokens_per_s: dict[str, list[float]]
    client_busy: float


def speed_name(probe: Probe) -> str:
    """Return what a probe measures, in tables and in JSON."""
    return f"decode {probe.calls}" if probe.kind == "decode" else f"prefill {probe.prompt_tokens}"


async def measure_speeds(client: Client, load: Load, salt: str, progress: Progress) -> Speeds:
    """Warm a server up and measure it.

    Args:
        client: the server, which nobody else uses.
        load: what it is asked.
        salt: servers that get the same get the same prompts; no two turns of one server may have the same.
        progress: told of every probe.

    Raises:
        UsageError: a batch never decoded side by side.
        EngineFailure: the server does not answer, or not as it should.
    """
    for probe in load.warm_up:
        await _send(client, probe, f"{salt}/warm-up")
    found: dict[str, list[float]] = {speed_name(probe): [] for probe in load.probes}
    loop, busy = asyncio.get_running_loop(), 0.0
    for repeat in range(load.repeats):
        for probe in load.probes:
            progress.step(speed_name(probe))
            began_s, used_s = loop.time(), time.process_time()
            answers = await _send(client, probe, f"{salt}/{repeat}")
            busy = max(busy, (time.process_time() - used_s) / (loop.time() - began_s))
            found[speed_name(probe)].append(_tokens_per_s(probe, answers))
    return Speeds(found, busy)


async def _send(client: Client, probe: Probe, salt: str) -> list[Answer]:
    answers = await asyncio.gather(
        *(client.complete(prompt, probe.output_tokens) for prompt in probe.prompts(salt)),
    )
    cached = max(answer.cached_tokens or 0 for answer in answers)
    if cached > max(1, _CACHED_SHARE * probe.prompt_tokens):
        raise EngineFailure(f"the server took {cached} tokens of a new prompt from its cache: this is not the measure")
    return answers


def _tokens_per_s(probe: Probe, answers: Sequence[Answer]) -> float:
    read = read_answers(probe, answers, probe.prompt_tokens)
    if read is None:
        raise UsageError(
            f"{probe.calls} calls never decoded side by side for long; give the server as many slots, "
            "or ask for more --tokens"
        )
    _, seconds = read
    return (probe.calls if probe.kind == "decode" else probe.prompt_tokens) / seconds
