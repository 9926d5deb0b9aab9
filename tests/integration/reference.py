"""The reference for the engine's numbers: transformers, in the engine's environment, one prompt at a time."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from autellix_server.engine.command import CPU_ENVIRONMENT
from autellix_server.engine.home import Home
from autellix_server.engine.model import BundledModel
from autellix_server.engine.runner import child_environment

_WHO = ("A king", "The old sailor", "My neighbour", "Nobody in the village", "Every student", "A careful engineer")
_DID = ("counted", "sold", "remembered", "painted", "lost", "repaired", "asked about", "wrote a letter about")
_WHAT = ("horses", "bridges", "small clocks", "books on tides", "maps", "lanterns", "wooden boats", "recipes")
_WHEN = ("before dawn", "in the year", "after the storm", "on day", "without a word", "for the price of")


@dataclass(frozen=True)
class Case:
    """A prompt.

    Attributes:
        text: what it says.
        length: tokens of it that are kept; `None` keeps all.
        after: number of an earlier case whose prompt and answer come before it.
    """

    text: str
    length: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class Expected:
    """What transformers answers.

    Attributes:
        prompt: token IDs.
        output: token IDs.
        leads: by how much the likeliest token's logit leads the second's, at each step.
    """

    prompt: list[int]
    output: list[int]
    leads: list[float]


@dataclass(frozen=True)
class Scores:
    """How likely transformers finds the tokens of prompts and answers, each but a prompt's first: logarithms.

    Attributes:
        float32: as exact as it gets.
        bfloat16: how near to that transformers itself comes in bfloat16.
    """

    float32: list[list[float]]
    bfloat16: list[list[float]]


def story(name: str, sentences: int) -> str:
    """Return a text of about twelve tokens a sentence that depends on `name` alone, and begins like no other."""
    draw = Random(name)
    parts = (
        f"{draw.choice(_WHO)} {draw.choice(_DID)} {draw.randrange(2, 999)} {draw.choice(_WHAT)} {draw.choice(_WHEN)} "
        f"{draw.randrange(2, 99)}."
        for _ in range(sentences)
    )
    return f"Chapter {name}. " + " ".join(parts)


def expected_answers(engine_python: Path, cases: Sequence[Case], tokens: int) -> list[Expected]:
    """Return greedy answers of `tokens` tokens in float32."""
    done = _ask(engine_python, {"cases": [asdict(case) for case in cases], "tokens": tokens})
    return [Expected(**answer) for answer in done["answers"]]


@dataclass(frozen=True)
class Told:
    """What an engine said of one prompt and its own answer to it.

    Attributes:
        prompt: the text.
        output: token IDs of the answer.
        logprobs: of the prompt's tokens but the first, and of the answer's.
    """

    prompt: str
    output: list[int]
    logprobs: list[float]


def scores(engine_python: Path, told: Sequence[Told]) -> Scores:
    """Return how likely transformers finds the same prompts and answers."""
    return Scores(**_ask(engine_python, {"score": [asdict(one) for one in told]}))


def _ask(engine_python: Path, question: dict[str, Any]) -> dict[str, Any]:
    model = str(BundledModel(Home.from_environment()).path)
    done = subprocess.run(
        [engine_python, str(Path(__file__).with_name("transformers_check.py"))],
        input=json.dumps({"model": model, **question}),
        env=child_environment({"HF_HUB_OFFLINE": "1", **CPU_ENVIRONMENT}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
