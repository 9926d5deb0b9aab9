"""The ReAct example: parsing, single programs, and the command as a user runs it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from aiohttp import web
from conftest import Finished, RunExample
from fake_openai import FakeOpenAI, Reply, connected
from hotpotqa import Paragraph, Question
from hypothesis import given
from hypothesis import strategies as st
from react import QUESTIONS, Action, Agent, Result, parse_action, parse_arguments, summary
from tools import PYTHON_TOOLS

SUM = Question("What is 17 * 23 + 4?", "395")
GARBAGE: list[Reply] = [
    None,
    "",
    "\n \n",
    "lorem ipsum " * 20_000,
    "🦜" * 500 + "\ud800 \x1b[2J \x00",
    "Action: Fly[moon]",
    "Action: Finish[]",
    "Action: Calculate[" + "9**" * 300,
    "Doc[" * 500,
    "Finish Calculate Doc ][)(",
]


async def answer(fake: FakeOpenAI, question: Question, max_steps: int = 5) -> Result:
    """One program against the fake server, without retries."""
    async with connected(fake) as client:
        args, _ = parse_arguments(["--max-steps", str(max_steps)])
        return await Agent(client, args).run(question)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Thought: I add.\nAction: Calculate[(1 + 2) * 3]\nObservation: 9", ("Calculate", "(1 + 2) * 3")),
        ("action 1: finish [ 395 ].", ("Finish", "395")),
        ("Calculate(2 * (3 + 4)) is next", ("Calculate", "2 * (3 + 4)")),
        ("Thought: Doc[x] may help.\nAction: Signature[sum]", ("Signature", "sum")),
        ("Doc: str.split\nmore", ("Doc", "str.split")),
        ("Answer: 42", ("Finish", "42")),
        ("Answer: Finish[42]", ("Finish", "42")),
        ("Action: Doc[str.spl", ("Doc", "str.spl")),
        ("Action: Fly[moon]", None),
        ("The document is long", None),
        ("", None),
    ],
)
def test_actions_are_found_in_loose_text(reply: str, expected: tuple[str, str] | None) -> None:
    """Case, brackets, labels and cut-off replies are forgiven; unknown actions are not invented."""
    action = parse_action(reply, PYTHON_TOOLS)
    assert (action and (action.name, action.argument)) == expected


def test_invented_observations_are_dropped() -> None:
    """The reply is kept up to the end of its action."""
    reply = "Thought: go\nAction: Doc[sum]\nObservation: I made this up"
    assert parse_action(reply, PYTHON_TOOLS) == Action("Doc", "sum", "Thought: go\nAction: Doc[sum]")


@given(st.text() | st.lists(st.sampled_from(["Action:", "Doc[", "Finish", "(", "]", ")", "\n", "x", ":"])).map("".join))
def test_any_reply_is_parsed(reply: str) -> None:
    """No text makes the parser raise, and an action keeps a beginning of the reply."""
    action = parse_action(reply, PYTHON_TOOLS)
    assert action is None or reply.startswith(action.text)


async def test_a_program_thinks_acts_observes_and_answers() -> None:
    """The tool's result reaches the model, and its answer is scored."""

    def rule(messages: list[dict[str, str]]) -> Reply:
        last = messages[-1]["content"]
        if last.startswith("Observation: "):
            return f"Thought: done.\nAction: Finish[{last.removeprefix('Observation: ')}]"
        return "Thought: I calculate.\nAction: Calculate[17 * 23 + 4]\nObservation: 7"

    async with FakeOpenAI(rule) as fake:
        result = await answer(fake, SUM)
    assert (result.answer, result.exact, result.f1) == ("395", True, 1.0)
    assert (result.steps, result.calls, result.malformed, result.forced) == (2, 2, 0, False)
    roles = [message["role"] for message in fake.bodies[-1]["messages"]]
    assert roles == ["system"] + ["user", "assistant"] * (len(roles) // 2 - 1) + ["user"]
    assert fake.programs == [result.bill["program"]] * 2


async def test_paragraphs_bring_the_search_tools() -> None:
    """A question with paragraphs is answered by Search and Lookup over them."""
    replies = iter(["Action: Search[Japan]", "Action: Lookup[capital]", "Action: Finish[the Tokyo]"])
    page = Paragraph("Japan", "Japan is in Asia. Its capital is Tokyo.")
    async with FakeOpenAI(lambda _: next(replies)) as fake:
        result = await answer(fake, Question("Capital of Japan?", "Tokyo", (page,)))
    assert result.exact is True
    contents = [message["content"] for message in fake.bodies[-1]["messages"]]
    assert contents[-3] == "Observation: Japan: Japan is in Asia. Its capital is Tokyo."
    assert contents[-1] == "Observation: (1 of 1) Its capital is Tokyo."


async def test_steps_are_bounded_and_the_answer_forced() -> None:
    """After the last step the model is told to answer, and what it says is the answer."""

    def rule(messages: list[dict[str, str]]) -> Reply:
        return "Thought: 395" if "No steps are left" in messages[-1]["content"] else "Action: Calculate[1 + 1]"

    async with FakeOpenAI(rule) as fake:
        result = await answer(fake, SUM, max_steps=2)
    assert (result.answer, result.exact, result.forced) == ("395", True, True)
    assert (result.steps, result.calls) == (2, 3)


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_is_survived(garbage: Reply) -> None:
    """Any content leads to an honest wrong answer, with prompts that stay small."""
    async with FakeOpenAI(lambda _: garbage) as fake:
        result = await answer(fake, SUM, max_steps=3)
    assert (result.error, result.exact, result.calls) == (None, False, 4)
    assert json.dumps(asdict(result))
    assert sum(len(message["content"]) for message in fake.bodies[-1]["messages"]) < 10_000


async def test_a_malformed_reply_is_told_what_is_expected() -> None:
    """The observation lists the actions."""
    replies = iter(["I like turtles", "Action: Finish[395]"])
    async with FakeOpenAI(lambda _: next(replies)) as fake:
        result = await answer(fake, SUM)
    assert (result.malformed, result.exact) == (1, True)
    assert (
        "Choose one of Doc, Signature, Calculate, Finish, as in Action: Doc[name]."
        in fake.bodies[-1]["messages"][-1]["content"]
    )


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (lambda: web.json_response({"error": {"message": "no such\x1b model"}}, status=404), "answered 404: "),
        (lambda: web.Response(text="<html>busy</html>", content_type="text/html"), "is not a chat completion"),
        (lambda: web.json_response({"choices": []}), "is not a chat completion"),
        (lambda: web.json_response({"choices": None}), "is not a chat completion"),
        (lambda: web.json_response([1]), "is not a chat completion"),
        (
            lambda: web.Response(text='{"choices": [', content_type="application/json"),
            "sent an answer that cannot be read (JSONDecodeError)",
        ),
        (
            lambda: web.Response(body=b'{"id": "\xff"}', content_type="application/json"),
            "sent an answer that cannot be read (UnicodeDecodeError)",
        ),
    ],
)
async def test_a_bad_answer_ends_the_program_with_a_sentence(response: object, sentence: str) -> None:
    """Refusals and bodies that are no chat completion are reported, never raised."""
    assert callable(response)
    async with FakeOpenAI(lambda _: response()) as fake:
        result = await answer(fake, SUM)
    assert result.error is not None
    assert sentence in result.error
    assert "\n" not in result.error
    assert (result.calls, result.exact) == (0, False)


async def test_a_time_out_is_reported() -> None:
    """A server that never answers ends the program, not the run."""
    release = asyncio.Event()

    async def rule(_: list[dict[str, str]]) -> Reply:
        await release.wait()
        return None

    async with FakeOpenAI(rule) as fake:
        async with connected(fake, timeout_s=0.2) as client:
            result = await Agent(client, parse_arguments([])[0]).run(SUM)
        release.set()
    assert result.error == f"the server at {fake.url} cannot be reached: Request timed out."


def test_the_summary_is_honest() -> None:
    """Failed programs count as wrong, unanswerable questions are left out."""
    results = [
        Result("react", question="a", expected="1", exact=True, f1=1.0),
        Result("react", question="b", expected="2", exact=False, f1=0.0, forced=True),
        Result("react", question="c", expected="3", exact=False, f1=0.0, error="gone"),
        Result("react", question="d", expected=None),
    ]
    assert summary(results) == "4 programs: 1 of 3 answers right (mean F1 0.33), 1 forced to answer, 1 failed."


def finish_with_the_sum(messages: list[dict[str, str]]) -> Reply:
    """A model that answers 395 to everything."""
    return "Thought: easy.\nAction: Finish[395]"


async def test_the_command_prints_one_object_per_program(run_example: RunExample) -> None:
    """Built-in questions, JSON on standard output only, one program ID each, exit code 0 although most is wrong."""
    async with FakeOpenAI(finish_with_the_sum) as fake:
        done: Finished = await run_example("react.py", "--json", "--concurrency", "3", "--base-url", fake.url)
    assert done.code == 0, done.err
    records = [json.loads(line) for line in done.out.splitlines()]
    assert {record["question"] for record in records} == {question.text for question in QUESTIONS}
    assert [record["exact"] for record in records].count(True) == 1
    assert sorted(record["bill"]["program"] for record in records) == sorted(map(str, fake.programs))
    assert len(set(fake.programs)) == len(QUESTIONS)
    assert "8 programs: 1 of 8 answers right" in done.err


async def test_programs_run_at_once(run_example: RunExample) -> None:
    """With a concurrency of three, three first calls are in flight before any is answered."""
    together = asyncio.Barrier(3)

    async def rule(messages: list[dict[str, str]]) -> Reply:
        await together.wait()
        return "Finish[1]"

    async with FakeOpenAI(rule) as fake:
        done = await run_example("react.py", "--limit", "3", "--concurrency", "3", env={"OPENAI_BASE_URL": fake.url})
    assert done.code == 0, done.err
    assert len(fake.bodies) == 3


async def test_the_command_reads_question_files(run_example: RunExample, tmp_path: Path) -> None:
    """Each line is one program; the limit holds."""
    record = {"question": "Höhe?", "answer": "395", "paragraphs": [{"title": "A", "text": "B"}]}
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{json.dumps(record)}\n" * 3)
    async with FakeOpenAI(lambda _: "Action: Finish[395 ß]") as fake:
        done = await run_example(
            "react.py", "--data", str(path), "--limit", "2", "--base-url", fake.url, env={"PYTHONIOENCODING": "ascii"}
        )
    assert done.code == 0, done.err
    assert "2 programs: 0 of 2 answers right (mean F1 0.67)" in done.out
    assert "Search[title or words]" in fake.bodies[0]["messages"][0]["content"]


async def test_a_failed_program_does_not_stop_the_others(run_example: RunExample) -> None:
    """One refused program is reported beside the answered ones, and the run completes."""

    def rule(messages: list[dict[str, str]]) -> Reply:
        if "second" in messages[-1]["content"]:
            return web.json_response({"error": {"message": "bad"}}, status=400)
        return "Finish[yes]"

    async with FakeOpenAI(rule) as fake:
        asked = ("--question", "first", "--question", "second", "--question", "third")
        done = await run_example("react.py", *asked, "--base-url", fake.url)
    assert done.code == 0
    assert f"second -> failed: the server at {fake.url} answered 400" in done.out
    assert "3 programs: 0 of 0 answers right" in done.out
    assert "1 failed" in done.out


@pytest.mark.parametrize(
    "usage",
    [
        ("--base-url", "nowhere"),
        ("--base-url", "http://host:99999/v1"),
        ("--data", "missing.jsonl"),
        ("--question", "a", "--data", "b"),
        ("--max-steps", "0"),
        ("--concurrency", "many"),
        ("--temperature", "warm"),
    ],
)
def test_bad_usage_exits_with_2(capsys: pytest.CaptureFixture[str], usage: tuple[str, ...]) -> None:
    """The command line is checked before anything runs."""
    with pytest.raises(SystemExit, match=r"^2$"):
        parse_arguments(usage)
    assert "error: " in capsys.readouterr().err
