"""The chat example: memory over turns, single conversations, and the command as a user runs it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict

import pytest
from aiohttp import web
from chat import Result, Script, Turn, parse_arguments, play, summary, talk
from conftest import RunExample
from fake_openai import FakeOpenAI, Reply, connected

import autellix_sdk as autellix

NAME = Script(("My name is Ada.", "How are you?", "What is my name?"), "Ada")


def attentive(messages: list[dict[str, str]]) -> Reply:
    """A model that says back all that the user told it."""
    return " ".join(message["content"] for message in messages if message["role"] == "user")


async def converse(fake: FakeOpenAI, script: Script, *options: str) -> Result:
    """One program against the fake server, without retries."""
    async with connected(fake) as client:
        return await play(client, script, parse_arguments(options)[0])


async def test_a_conversation_is_one_thread_that_remembers() -> None:
    """Each call repeats what was said and answered before; each has the call before as its parent."""
    async with FakeOpenAI(attentive) as fake:
        result = await converse(fake, NAME)
    assert (result.remembered, result.calls, result.error) == (True, 3, None)
    said = [[message["content"] for message in body["messages"][1:]] for body in fake.bodies]
    assert said[0] == ["My name is Ada."]
    assert said[1] == ["My name is Ada.", "My name is Ada.", "How are you?"]
    assert said[2][:3] == said[1]
    assert all(body["stream"] for body in fake.bodies)
    assert fake.parents == {"0.0": (), "0.1": ("0.0",), "0.2": ("0.1",)}
    assert fake.programs[0] == result.bill["program"]


async def test_the_history_is_bounded() -> None:
    """Beyond it the oldest turns are left out, and what was told there is forgotten."""
    async with FakeOpenAI(lambda messages: attentive(messages[-1:])) as fake:
        result = await converse(fake, NAME, "--history", "1")
    assert (result.remembered, len(result.turns)) == (False, 3)
    last = [message["content"] for message in fake.bodies[-1]["messages"][1:]]
    assert last == ["How are you?", "How are you?", "What is my name?"]


@pytest.mark.parametrize("garbage", [None, "", "\n \n", "lorem ipsum " * 2_000, "🦜" * 500 + "\x1b[2J \x00"])
async def test_garbage_is_survived(garbage: Reply) -> None:
    """Any content leads to a whole conversation, with prompts that stay small."""
    async with FakeOpenAI(lambda _: garbage) as fake:
        result = await converse(fake, NAME)
    assert (result.error, result.remembered, result.calls) == (None, False, 3)
    assert json.dumps(asdict(result))
    assert "\x1b" not in str(result)
    assert sum(len(message["content"]) for message in fake.bodies[-1]["messages"]) < 10_000


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (lambda: web.json_response({"error": {"message": "no such model"}}, status=404), "answered 404: "),
        (
            lambda: web.Response(text="<html>busy</html>", content_type="text/html"),
            "is not a stream of a chat completion",
        ),
        (lambda: web.Response(text="data: [1]\n\n", content_type="text/event-stream"), "is not a stream"),
        (lambda: web.Response(text='data: {"choices":\n\n', content_type="text/event-stream"), "cannot be read"),
        (
            lambda: web.Response(
                text='data: {"error": {"message": "out of memory"}}\n\n', content_type="text/event-stream"
            ),
            "broke off its answer: out of memory",
        ),
    ],
)
async def test_a_bad_answer_ends_the_program_with_a_sentence(response: Callable[[], Reply], sentence: str) -> None:
    """Refusals and streams that are none are reported, never raised."""
    async with FakeOpenAI(lambda _: response()) as fake:
        result = await converse(fake, NAME)
    assert result.error is not None
    assert sentence in result.error
    assert (result.calls, result.remembered, result.turns) == (0, False, [])


async def test_a_stream_that_is_cut_ends_the_program_with_a_sentence() -> None:
    """What was said before is kept; the turn that was cut is not part of it."""

    def rule(messages: list[dict[str, str]]) -> Reply:
        if len(messages) == 2:
            return "Hello."
        cut = web.Response(
            text='data: {"choices": [{"delta": {"content": "He"}}]}\n\n',
            headers={"content-type": "text/event-stream", "content-length": "999"},
        )
        cut.force_close()
        return cut

    async with FakeOpenAI(rule) as fake:
        result = await converse(fake, NAME)
    assert result.error is not None
    assert result.turns == [Turn("My name is Ada.", "Hello.")]


def test_the_summary_is_honest() -> None:
    """Failed programs count as forgetful, conversations without a question are left out."""
    results = [
        Result("chat", remembered=True),
        Result("chat", remembered=False),
        Result("chat", remembered=False, error="gone"),
        Result("chat"),
    ]
    assert summary(results) == "4 programs: 1 of 3 remembered what they were told, 1 failed."


async def test_turns_of_the_users_own(run_example: RunExample) -> None:
    """Said one after the other; the last reply is looked through for what is expected."""
    async with FakeOpenAI(attentive) as fake:
        turns = ("--say", "I am Bob.", "--say", "Who am I?", "--expect", "Bob")
        done = await run_example("chat.py", *turns, "--base-url", fake.url)
    assert done.code == 0, done.err
    assert done.out.startswith("> I am Bob.\n  I am Bob.\n> Who am I?\n  I am Bob. Who am I?\n[remembered Bob; 2 turns")
    assert len(fake.bodies) == 2


async def test_a_typed_conversation(run_example: RunExample) -> None:
    """Every line is answered, an empty one ends the conversation, and the bill tells that it was one program."""
    async with FakeOpenAI(attentive) as fake:
        done = await run_example(
            "chat.py", "--interactive", "--base-url", fake.url, typed="I am Bob.\nWho am I?\n\nnot said\n"
        )
    assert done.code == 0, done.err
    assert "you: model: I am Bob. \nyou: model: I am Bob. Who am I? \nyou: " in done.out
    assert "0 calls (2 more" in done.out  # this server sends no bills
    assert fake.parents == {"0.0": (), "0.1": ("0.0",)}


async def test_ctrl_c_ends_a_typed_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the prompt as anywhere: exit code 130, and nothing is raised."""
    typed = iter(["I am Bob."])

    def type_or_interrupt(prompt: str) -> str:
        for text in typed:
            return text
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", type_or_interrupt)
    async with FakeOpenAI(attentive) as fake:
        args, _ = parse_arguments(["--interactive", "--base-url", fake.url])
        code = await asyncio.to_thread(talk, args)
        await asyncio.to_thread(autellix.shutdown)
    assert (code, len(fake.bodies)) == (130, 1)


async def test_a_typed_conversation_goes_on_after_a_failure(run_example: RunExample) -> None:
    """The sentence is shown, the turn is forgotten; when no call was answered, the exit code says so."""
    answers = iter([web.json_response({"error": {"message": "full"}}, status=400), "Hello."])
    async with FakeOpenAI(lambda _: next(answers)) as fake:
        done = await run_example("chat.py", "--interactive", "--base-url", fake.url, typed="Hi.\nHi.\n")
        assert (done.code, done.err.count("error: the server")) == (0, 1), done.err
        assert [len(body["messages"]) for body in fake.bodies] == [2, 2]
    done = await run_example("chat.py", "--interactive", "--base-url", fake.url, typed="Hi.\n")
    assert (done.code, "Traceback" in done.err) == (1, False), done.err


@pytest.mark.parametrize("usage", [("--say", "a", "--interactive"), ("--expect", "b"), ("--history", "0")])
def test_bad_usage_exits_with_2(capsys: pytest.CaptureFixture[str], usage: tuple[str, ...]) -> None:
    """The command line is checked before anything runs."""
    with pytest.raises(SystemExit, match=r"^2$"):
        parse_arguments(usage)
    assert "error: " in capsys.readouterr().err
