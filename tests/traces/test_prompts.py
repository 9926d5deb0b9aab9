"""Synthetic prompts: they share what the trace says they share, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import pytest
from drawn_programs import programs, two_calls
from hypothesis import given

from autellix_server.traces.model import TraceCall, TraceProgram
from autellix_server.traces.prompts import Piece, PromptBook, lay_out
from autellix_server.traces.vocabulary import VOCABULARY
from autellix_server.traces.workloads.registry import generate

IDS = range(1_000, 2_001_000)
"""So many token IDs that two streams all but never agree by chance."""


def common(one: Sequence[object], other: Sequence[object]) -> int:
    """Return the length of the common beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def answers(program: TraceProgram) -> dict[str, list[int]]:
    """Return what an engine might have answered, different for every call."""
    return {call.id: [-int(call.id) - 1] * call.output_tokens for call in program.calls}


def check_sharing(program: TraceProgram) -> None:
    """Check lengths, and that each prompt shares with the best earlier call exactly what the trace says."""
    book, outputs = PromptBook(program), answers(program)
    histories: list[list[int]] = []
    for call in program.calls:
        prompt = book.token_ids(call.id, IDS, outputs)
        assert len(prompt) == call.prompt_tokens
        assert max((common(prompt, history) for history in histories), default=0) == call.shared_prefix_tokens
        histories.append(prompt + outputs[call.id])


@given(programs())
def test_calls_share_what_the_trace_says(program: TraceProgram) -> None:
    """For any call graph, with an engine's own answers inside the prompts."""
    check_sharing(program)


@pytest.mark.parametrize("name", ["chat", "react", "mcts", "coding", "map_reduce"])
def test_generated_programs_share_what_they_say(name: str) -> None:
    """Openings included: two roles have two."""
    for program in islice(generate(name, 11), 3):
        check_sharing(replace(program, calls=program.calls[:30]))


def test_programs_with_one_opening_begin_alike() -> None:
    """They share it to its end and not beyond, under other programs' IDs and with other lengths."""
    one, other = two_calls("a", opening="tools", tool_tokens=60), two_calls("b", opening="tools", tool_tokens=60)
    stranger = two_calls("c", opening="others", tool_tokens=60)
    first, second, third = (PromptBook(program).token_ids("0", IDS) for program in (one, other, stranger))
    assert common(first, second) == 60
    assert common(first, third) == 0


def test_a_salt_changes_every_word() -> None:
    """Nothing that an earlier run left in the engine's cache is found again."""
    program = two_calls(opening="tools", tool_tokens=60)
    assert common(PromptBook(program, "run1").token_ids("1", IDS), PromptBook(program, "run2").token_ids("1", IDS)) == 0


def test_text_is_one_word_a_token_and_the_same_every_time() -> None:
    """Words of the vocabulary, each after a space; the answer's words are made up when it is not given."""
    words = PromptBook(two_calls()).text("1").split(" ")
    assert words[0] == ""
    assert len(words) - 1 == 130
    assert set(words[1:]) <= set(VOCABULARY)
    assert PromptBook(two_calls()).text("1") == " ".join(words)


def test_text_repeats_the_engine_s_answer_as_it_is() -> None:
    """Between the prompt that it answered and the words that are new."""
    book = PromptBook(two_calls())
    prompt = book.text("1", {"0": "\nIt is 42."})
    assert prompt.startswith(book.text("0") + "\nIt is 42.")
    assert len(prompt.removeprefix(book.text("0") + "\nIt is 42.").split()) == 10


def test_text_repeats_only_the_shared_part_of_an_answer() -> None:
    """Half of the tokens are half of the characters."""
    program = two_calls()
    first, second = program.calls
    cut = replace(program, calls=(first, replace(second, shared_prefix_tokens=110)))
    book = PromptBook(cut)
    assert book.text("1", {"0": "abcdefgh"}).removeprefix(book.text("0")).startswith("abcd ")


def test_answers_that_are_too_short_are_filled_up() -> None:
    """A prompt has the length of the trace, also when the engine stopped early."""
    book = PromptBook(two_calls())
    prompt = book.token_ids("1", IDS, {"0": [7, 7, 7]})
    assert len(prompt) == 130
    assert prompt[100:103] == [7, 7, 7]


def test_the_source_of_a_shared_prefix_is_the_likeliest_call() -> None:
    """A sibling with the very same prompt comes before a parent that would be long enough."""
    calls = (
        TraceCall("0", (), 0, 200, 0, 300),
        TraceCall("1", ("0",), 0, 400, 0, 30),
        TraceCall("2", ("0",), 1, 400, 400, 30),
        TraceCall("3", ("0",), 2, 500, 450, 30),
    )
    layouts = lay_out(replace(two_calls(), calls=calls))
    assert layouts["2"] == layouts["1"] == (Piece("prompt", "1", 400),)
    assert layouts["3"] == (Piece("prompt", "0", 200), Piece("output", "0", 250), Piece("prompt", "3", 50))


def test_the_vocabulary_has_no_word_twice() -> None:
    """Else streams would agree more often than they say."""
    assert len(set(VOCABULARY)) == len(VOCABULARY) >= 256
