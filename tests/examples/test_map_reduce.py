"""The map-reduce example: cutting, the shape of the calls, and the command as a user runs it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from aiohttp import web
from conftest import RunExample
from fake_openai import FakeOpenAI, Reply, connected
from hypothesis import given
from hypothesis import strategies as st
from map_reduce import (
    REDUCE,
    TITLES,
    Document,
    Result,
    grouped,
    parse_arguments,
    share_of_words,
    split,
    summarise,
    summary,
)

TEXT = "\n\n".join(f"Part {number} is about animals." for number in range(8))
EIGHT = ("--piece-chars", "30")
"""Options that make a piece of every part of `TEXT`."""


def is_reduce(messages: list[dict[str, str]]) -> bool:
    """Whether the model is asked to sum up summaries."""
    return messages[0]["content"] == REDUCE


def rule(messages: list[dict[str, str]]) -> Reply:
    """A model whose summaries are the last words of the texts."""
    return " ".join(line.split()[-1] for line in messages[-1]["content"].splitlines())


async def work(fake: FakeOpenAI, text: str, *options: str) -> Result:
    """One program against the fake server, without retries."""
    async with connected(fake) as client:
        return await summarise(client, Document("test", text), parse_arguments(options)[0])


@given(st.text("ab \n.-ß", max_size=400), st.integers(1, 50))
def test_pieces_hold_the_whole_text(text: str, most_chars: int) -> None:
    """None is too long or empty, and together they have every letter in its order."""
    pieces = split(text, most_chars)
    assert all(0 < len(piece) <= most_chars for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=70), st.integers(2, 9))
def test_groups_are_few_and_balanced(texts: list[str], fan_in: int) -> None:
    """As few as the fan-in allows, fewer than the texts, none larger than the fan-in, order kept."""
    groups = grouped(texts, fan_in)
    assert len(groups) <= -(-len(texts) // fan_in) < len(texts)
    assert max(len(group.split("\n")) for group in groups) <= fan_in
    assert "\n".join(groups) == "\n".join(texts)


async def test_pieces_run_side_by_side_and_groups_wait_for_all_of_them() -> None:
    """Eight threads without parents, two that join them, and the last one that joins these."""
    async with FakeOpenAI(rule) as fake:
        result = await work(fake, TEXT, *EIGHT)
    assert (result.summary, result.pieces, result.calls, result.grounded) == ("animals. animals.", 8, 11, 1.0)
    maps, reduces = list(fake.parents.items())[:8], list(fake.parents.items())[8:]
    assert {call.partition(".")[0] for call, _ in maps} == {str(thread) for thread in range(8)}
    assert {parents for _, parents in maps} == {()}
    pieces = {call for call, _ in maps}
    (left, joined), (right, also_joined), (last, groups) = reduces
    assert set(joined or ()) == set(also_joined or ()) == pieces
    assert set(groups or ()) == {left, right}
    assert last == "0.2"


async def test_pieces_are_asked_about_at_once() -> None:
    """As many calls as --parallel allows are in flight before any is answered, and no more."""
    together = asyncio.Barrier(4)
    flying = 0

    async def waiting(messages: list[dict[str, str]]) -> Reply:
        nonlocal flying
        flying += 1
        assert flying <= 4
        if not is_reduce(messages):
            await together.wait()
        flying -= 1
        return rule(messages)

    async with FakeOpenAI(waiting) as fake:
        result = await work(fake, TEXT, *EIGHT, "--parallel", "4")
    assert (result.error, result.calls) == (None, 11)


async def test_a_long_document_is_bounded() -> None:
    """What is left out is said."""
    async with FakeOpenAI(rule) as fake:
        result = await work(fake, TEXT, *EIGHT, "--max-pieces", "3")
    assert (result.pieces, result.left_out, len(fake.bodies)) == (8, 5, 4)
    assert "8 pieces, 5 left out" in str(result)


async def test_a_single_piece_is_not_reduced() -> None:
    """Its summary is the document's."""
    async with FakeOpenAI(rule) as fake:
        result = await work(fake, "A text about birds.")
    assert (result.summary, result.calls) == ("birds.", 1)


@pytest.mark.parametrize("garbage", [None, "", "\n \n", "lorem ipsum " * 20_000, "🦜" * 500 + "\x1b[2J \x00"])
async def test_garbage_is_survived(garbage: Reply) -> None:
    """Any content leads to an end after the calls that the document asks for, with prompts that stay small."""
    async with FakeOpenAI(lambda _: garbage) as fake:
        result = await work(fake, TEXT, *EIGHT)
    assert (result.error, result.grounded) == (None, 0.0)
    assert result.calls + result.empty in (11, 16)
    assert json.dumps(asdict(result))
    assert sum(len(message["content"]) for message in fake.bodies[-1]["messages"]) < 10_000


async def test_a_refused_call_ends_the_program_with_a_sentence() -> None:
    """The task group does not hide the reason."""

    def full(messages: list[dict[str, str]]) -> Reply:
        return web.json_response({"error": {"message": "full"}}, status=400) if is_reduce(messages) else "a"

    async with FakeOpenAI(full) as fake:
        result = await work(fake, TEXT, *EIGHT)
    assert str(result.error).startswith(f"the server at {fake.url} answered 400: ")
    assert (result.calls, result.summary) == (8, "")


@pytest.mark.parametrize(
    ("text", "share"), [("The cat, the Hat", 0.75), ("", 0.0), ("...", 0.0), ("birds fly", 0.0), ("CAT", 1.0)]
)
def test_the_share_of_words_ignores_case_and_punctuation(text: str, share: float) -> None:
    """Of the words of the summary, not of the document."""
    assert share_of_words(text, "A cat. The dog!") == share


def test_the_summary_counts_what_was_done() -> None:
    """Documents without a summary do not count."""
    results = [
        Result("map_reduce", title="a", words=90, summary="one two", empty=1),
        Result("map_reduce", title="b", words=50, error="gone"),
    ]
    assert summary(results) == "2 programs: 90 words in 1 documents became 2, 1 replies were empty, 1 failed."


async def test_the_command_reads_files(run_example: RunExample, tmp_path: Path) -> None:
    """Each file is one program."""
    (tmp_path / "birds.txt").write_text("Ein Text über Vögel.")
    async with FakeOpenAI(rule) as fake:
        done = await run_example("map_reduce.py", "--file", "birds.txt", "--base-url", fake.url)
    assert done.code == 0, done.err
    assert done.out.startswith("birds.txt -> Vögel.  [4 words in 1 pieces, 1 calls, 100% of the summary's words")


@pytest.mark.parametrize(
    ("name", "content"), [("missing.txt", None), ("blank.txt", b"\n\n"), ("image.txt", b"\xff\xd8")]
)
def test_files_without_text_are_bad_usage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, content: bytes | None
) -> None:
    """They are found before anything runs."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match=r"^2$"):
        parse_arguments(["--file", str(path)])
    assert "error: " in capsys.readouterr().err


def test_the_built_in_documents_are_there() -> None:
    """Every Python brings along all of the chapters."""
    assert [document.title for document in parse_arguments([])[1]] == list(TITLES)


@pytest.mark.parametrize("usage", [("--fan-in", "1"), ("--piece-chars", "0"), ("--parallel", "many")])
def test_bad_usage_exits_with_2(capsys: pytest.CaptureFixture[str], usage: tuple[str, ...]) -> None:
    """The command line is checked before anything runs."""
    with pytest.raises(SystemExit, match=r"^2$"):
        parse_arguments(usage)
    assert "error: " in capsys.readouterr().err
