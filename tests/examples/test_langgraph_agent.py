"""The LangGraph example: rounds, parallel branches, bounds, and the command as a user runs it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import pytest
from aiohttp import web
from fake_openai import FakeOpenAI, Reply
from langchain_model import chat_model
from langgraph_agent import NOTE, PLAN, WRITE, Result, names_in, parse_arguments, run, summary

QUESTION = "How do list.append and list.extend differ?"


class Model:
    """A model that makes these plans, one a round, then says the same notes and answers.

    Attributes:
        asked: its last messages, by what it was asked for.
    """

    def __init__(self, *plans: str) -> None:
        self._plans = iter(plans)
        self.asked: dict[str, list[str]] = {PLAN[0]: [], NOTE[0]: [], WRITE[0]: []}

    def __call__(self, messages: list[dict[str, str]]) -> Reply:
        """Reply to a prompt."""
        wanted = messages[0]["content"]
        self.asked[wanted].append(messages[-1]["content"])
        if wanted == PLAN[0]:
            return next(self._plans)
        return "It adds." if wanted == NOTE[0] else "One adds an item, the other many."


async def answer(fake: FakeOpenAI, *options: str, question: str = QUESTION) -> Result:
    """One program against the fake server, without retries."""
    async with chat_model(fake) as model:
        return await run(model, question, parse_arguments(options)[0])


async def test_branches_fork_from_the_plan_and_join_in_the_next_one() -> None:
    """Two names are two threads; the second plan waits for both, and the answer for it."""
    model = Model("list.append, list.extend", "nothing")
    async with FakeOpenAI(model) as fake:
        result = await answer(fake)
    assert (sorted(result.looked_up), result.named, result.helped) == (["list.append", "list.extend"], 2, False)
    assert (result.answer, result.calls, result.error) == ("One adds an item, the other many.", 5, None)
    calls = fake.parents
    assert {call: calls[call] for call in ("0.0", "0.1", "1.0")} == {"0.0": (), "0.1": ("0.0",), "1.0": ("0.0",)}
    assert set(calls["0.2"] or ()) == {"0.1", "1.0"}
    assert calls["0.3"] == ("0.2",)
    assert fake.programs == [result.bill["program"]] * 5
    assert model.asked[PLAN[0]][1].endswith("Known: list.append, list.extend")
    assert model.asked[WRITE[0]][0].endswith("list.append: It adds.\nlist.extend: It adds.")


async def test_names_are_looked_up_at_once() -> None:
    """All branches are in flight before any is answered."""
    together = asyncio.Barrier(3)
    model = Model("len, min and max", "")

    async def waiting(messages: list[dict[str, str]]) -> Reply:
        if messages[0]["content"] == NOTE[0]:
            await together.wait()
        return model(messages)

    async with FakeOpenAI(waiting) as fake:
        result = await answer(fake)
    assert (result.error, result.calls) == (None, 6)


async def test_documentation_reaches_the_model() -> None:
    """The note is made from what the tool says."""
    model = Model("list.append", "nothing")
    async with FakeOpenAI(model) as fake:
        await answer(fake)
    assert "list.append: Append object to the end of the list." in model.asked[NOTE[0]][0]


async def test_rounds_and_width_are_bounded() -> None:
    """A model that always wants more gets --width names, --rounds times, and none twice."""
    more = "len, min, max, sum, abs, all, any, list.append, list.extend"
    async with FakeOpenAI(Model(more, more, more, more)) as fake:
        result = await answer(fake, "--width", "2", "--rounds", "3")
    assert sorted(result.looked_up) == ["abs", "all", "len", "max", "min", "sum"]
    assert (result.calls, bool(result.answer)) == (10, True)


@pytest.mark.parametrize(
    "garbage", [None, "", "I like turtles", "lorem ipsum " * 20_000, "a.b.c" * 999, "🦜" * 500 + "\x1b[2J \x00"]
)
async def test_garbage_is_survived(garbage: Reply) -> None:
    """The names in the question are looked up instead, which is said."""
    async with FakeOpenAI(lambda _: garbage) as fake:
        result = await answer(fake)
    assert (result.error, result.named, result.helped, result.calls) == (None, 0, True, 5)
    assert sorted(result.looked_up) == ["list.append", "list.extend"]
    assert json.dumps(asdict(result))
    assert "\x1b" not in str(result)
    assert "named by the question" in str(result)
    assert sum(len(message["content"]) for message in fake.bodies[-1]["messages"]) < 10_000


async def test_a_question_without_names_is_answered_without_notes() -> None:
    """Nothing to look up is no failure."""
    model = Model("nothing")
    async with FakeOpenAI(model) as fake:
        result = await answer(fake, question="Why?")
    assert (result.calls, result.looked_up, result.helped) == (2, [], False)
    assert model.asked[WRITE[0]] == ["Question: Why?\nNo notes."]


async def test_a_refused_call_in_a_branch_ends_the_program_with_a_sentence() -> None:
    """LangGraph does not hide the reason."""
    model = Model("list.append, list.extend")

    def rule(messages: list[dict[str, str]]) -> Reply:
        if messages[0]["content"] == NOTE[0]:
            return web.json_response({"error": {"message": "full"}}, status=400)
        return model(messages)

    async with FakeOpenAI(rule) as fake:
        result = await answer(fake)
    assert str(result.error).startswith(f"the server at {fake.url} answered 400: ")
    assert (result.calls, result.answer) == (1, "")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("list.append, list.extend and list.append", ["list.append", "list.extend"]),
        ("What is math.gcd?", ["math.gcd"]),
        ("None is list.nothing, __import__, os.system or antigravity", []),
        ("I raise KeyError (or `str.split()`).", ["KeyError", "str.split"]),
        ("", []),
    ],
)
def test_names_are_what_python_documents(text: str, names: list[str]) -> None:
    """Each once, in their order; nothing is imported for them."""
    assert names_in(text) == names


def test_the_summary_counts_whose_idea_it_was() -> None:
    """Names from the model and names from the question."""
    results = [
        Result("langgraph", question="a", answer="x", looked_up=["len", "min"], named=2),
        Result("langgraph", question="b", answer="y", looked_up=["max"], helped=True),
        Result("langgraph", question="c", error="gone"),
    ]
    assert summary(results) == "3 programs: 2 answered, 3 names looked up, 2 of them the model's own, 1 failed."
