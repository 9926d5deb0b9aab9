#!/usr/bin/env python3
"""Chat: a conversation of several turns, each answered with what was said before in mind.

    python examples/chat.py --concurrency 4                  # built-in conversations: does the model remember?
    python examples/chat.py --interactive                    # you talk; an empty line or Ctrl-D ends it
    python examples/chat.py --say "I am Ada." --say "Who am I?" --expect Ada

Replies are streamed. The last turns (--history) are sent along with every new one, so that a conversation of any
length stays within the model's context.

Works with any OpenAI-compatible server (--base-url). On an Autellix server each conversation is one program, whose
calls are one thread: the lines marked `# autellix` are all it takes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cli import (
    MAX_REPLY_CHARS,
    CallFailed,
    Outcome,
    count,
    dialogue,
    failures_in_a_sentence,
    finish,
    options,
    piece_of,
    print_anything,
    printable,
    side_by_side,
)
from hotpotqa import mentions
from openai import AsyncOpenAI
from tools import shorten

import autellix_sdk as autellix  # autellix

SYSTEM = "You are a helpful assistant. Answer in one or two short sentences."
BILL_WAIT_S = 2.0
"""Streamed calls are billed with the end of their program, which the server is told in the background."""


@dataclass(frozen=True, slots=True)
class Script:
    """What a person says, turn by turn, and what the last reply should mention (`None`: whatever it says is fine)."""

    turns: tuple[str, ...]
    expected: str | None = None


async def play_all(scripts: Iterable[Script], args: Namespace) -> list[Result]:
    """Play the conversations, each as one program."""
    autellix.init(base_url=args.base_url)  # autellix
    async with AsyncOpenAI(base_url=args.base_url, api_key=args.api_key) as client:
        return await side_by_side(lambda script: play(client, script, args), scripts, args)


async def play(client: AsyncOpenAI, script: Script, args: Namespace) -> Result:
    """Play one conversation as one program. A call that fails ends it and is reported in the result."""
    conversation = Conversation(client, args)
    result = conversation.result
    result.expected = script.expected
    began = time.monotonic()
    async with autellix.program("chat") as program:  # autellix
        try:
            for text in script.turns:
                reply = await conversation.say(text)
                print(f"{shorten(text, 50)} | {shorten(reply, 60) or '(nothing)'}", file=sys.stderr)
        except CallFailed as failure:
            result.error = str(failure)
    result.bill = (await asyncio.to_thread(program.bill, BILL_WAIT_S)).to_json()  # autellix
    result.seconds = time.monotonic() - began
    if script.expected is not None:
        result.remembered = result.error is None and mentions(result.turns[-1].reply, script.expected)
    return result


def talk(args: Namespace) -> int:
    """Talk with whoever types, as one program; the exit code."""
    print_anything()
    autellix.init(base_url=args.base_url)  # autellix
    try:
        with autellix.program("chat") as program, asyncio.Runner() as loop:  # autellix
            client = AsyncOpenAI(base_url=args.base_url, api_key=args.api_key)
            conversation = Conversation(client, args)
            try:
                for text in typed_lines():
                    print("model: ", end="", flush=True)
                    try:
                        loop.run(conversation.say(text, lambda piece: print(piece, end="", flush=True)))
                        print()
                    except CallFailed as failure:  # whoever types may try again
                        print(f"\nerror: {failure}", file=sys.stderr)
            finally:
                loop.run(client.close())
    except KeyboardInterrupt:
        return 130
    print(program.bill(BILL_WAIT_S))  # autellix
    return 0 if conversation.result.calls else 1


def typed_lines() -> Iterator[str]:
    """What is typed, line by line, up to an empty line or the end of standard input."""
    try:
        while text := input("you: ").strip():
            yield text
    except EOFError:
        print()


class Conversation:
    """A conversation with the model; `result` holds what was said so far."""

    def __init__(self, client: AsyncOpenAI, args: Namespace) -> None:
        self._client = client
        self._args = args
        self.result = Result("chat")

    async def say(self, text: str, show: Callable[[str], object] = lambda piece: None) -> str:
        """Say something and return the reply, possibly empty, which is also handed to `show` piece by piece.

        A turn whose call fails is not part of the conversation.
        """
        kept = self.result.turns[-self._args.history :]
        said_before = (part for turn in kept for part in (turn.text, turn.reply or "(nothing)"))
        reply = ""
        with failures_in_a_sentence(self._client):
            stream = await self._client.chat.completions.create(
                model=self._args.model,
                messages=dialogue(SYSTEM, *said_before, text),
                temperature=self._args.temperature,
                max_tokens=self._args.max_tokens,
                stream=True,
            )
            async with stream:
                chunk = None
                async for chunk in stream:
                    piece = printable(piece_of(chunk))
                    show(piece)
                    reply += piece
                    if len(reply) > MAX_REPLY_CHARS:
                        break
        if chunk is None:
            raise CallFailed("the server's answer is not a stream of a chat completion")
        self.result.calls += 1
        self.result.turns.append(Turn(text, reply.strip()))
        return reply.strip()


@dataclass(slots=True)
class Turn:
    """What was said, and the model's reply."""

    text: str
    reply: str


@dataclass(slots=True, kw_only=True)
class Result(Outcome):
    """What was said in one program; `remembered` is `None` when nothing was expected."""

    turns: list[Turn] = field(default_factory=list)
    expected: str | None = None
    remembered: bool | None = None

    def __str__(self) -> str:
        """The conversation for a person, and what came of it."""
        said = [f"> {shorten(turn.text)}\n  {shorten(turn.reply) or '(nothing)'}\n" for turn in self.turns]
        told = {True: f"remembered {self.expected}", False: f"forgot {self.expected}", None: "nothing to remember"}
        verdict = f"failed: {self.error}" if self.error else told[self.remembered]
        return f"{''.join(said)}[{verdict}; {len(self.turns)} turns, {self.seconds:.1f} s]\n"


def summary(results: Sequence[Result]) -> str:
    """What the programs achieved, in one sentence; a program that failed counts as forgetful."""
    asked = [result for result in results if result.remembered is not None]
    return (
        f"{len(results)} programs: {sum(result.remembered is True for result in asked)} of {len(asked)} remembered "
        f"what they were told, {sum(result.error is not None for result in results)} failed."
    )


SCRIPTS = (
    Script(
        ("My name is Ada and I keep bees.", "What do bees eat?", "Do they sleep in winter?", "What is my name?"),
        "Ada",
    ),
    Script(
        ("I live in Oslo.", "What do I wear there in January?", "Name a museum.", "In which city do I live?"), "Oslo"
    ),
    Script(("My train leaves at 9:40.", "Tell me something about trains.", "When does my train leave?"), "9:40"),
    Script(
        ("Remember the word marmalade.", "What is 2 + 2?", "Which word did I ask you to remember?"),
        "marmalade",
    ),
)


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[Namespace, Sequence[Script]]:
    """Read the command line and the conversations; bad usage exits with 2."""
    parser = options(__doc__, "conversations", max_tokens=48)
    add = parser.add_argument
    add("--history", type=count, default=8, help="turns that the model is reminded of (default: %(default)s)")
    add("--expect", metavar="TEXT", help="with --say: what the last reply should mention")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--say", action="append", metavar="TEXT", help="say this instead (repeatable: turn by turn)")
    what.add_argument("--interactive", action="store_true", help="read what to say from standard input")
    args = parser.parse_args(argv)
    if args.expect and not args.say:
        parser.error("--expect needs --say")
    scripts = [Script(tuple(args.say), args.expect)] if args.say else SCRIPTS
    return args, scripts[: args.limit]


if __name__ == "__main__":
    args, scripts = parse_arguments()
    sys.exit(talk(args) if args.interactive else finish(play_all(scripts, args), summary, args))
