"""Readers of other people's traces, on small samples in their formats."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autellix_server.errors import EnvironmentFailure
from autellix_server.traces.model import TraceError, check_program
from autellix_server.traces.readers.azure import read_azure
from autellix_server.traces.readers.bfcl import END_OF_TURN_TOKENS, MISSING_TEXT, programs_of, read_bfcl
from autellix_server.traces.readers.mooncake import read_mooncake
from autellix_server.traces.readers.sharegpt import read_sharegpt
from autellix_server.traces.readers.text import estimate_tokens


def words(text: str) -> int:
    """Count words as tokens."""
    return len(text.split())


def written(path: Path, content: Any) -> Path:
    """Write JSON, or text as it is."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_tokens_are_estimated_from_bytes() -> None:
    """Four bytes each, rounded up; letters that take more bytes count for more."""
    assert [estimate_tokens(text) for text in ("", "abc", "abcde", "Übung")] == [0, 1, 2, 2]


class TestShareGpt:
    """Conversations become chat programs."""

    @staticmethod
    def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
        """Return the messages in the form of the dump."""
        return [{"from": role, "value": text} for role, text in pairs]

    def test_each_answer_is_a_call_that_replays_what_came_before(self, tmp_path: Path) -> None:
        """The system prompt and the question are new in the first; the second adds only the second question."""
        turns = self.turns(("system", "be kind"), ("human", "a b c"), ("gpt", "d e"), ("human", "f"), ("gpt", "g h i"))
        path = written(tmp_path / "s.json", [{"id": "x/1", "conversations": turns}])
        (program,) = read_sharegpt(path, words)
        check_program(program)
        assert (program.program_id, program.kind) == ("sharegpt_x-1", "chat")
        assert [(call.prompt_tokens, call.shared_prefix_tokens, call.output_tokens) for call in program.calls] == [
            (5, 0, 2),
            (8, 7, 3),
        ]
        assert [(call.tool_seconds, call.stop) for call in program.calls] == [(None, "end_turn")] * 2

    def test_parts_of_one_conversation_are_joined_in_order(self, tmp_path: Path) -> None:
        """Though the dump may hold them in any order."""
        later = {"id": "q_1", "conversations": self.turns(("human", "c"), ("gpt", "d d"))}
        earlier = {"id": "q_0", "conversations": self.turns(("human", "a"), ("gpt", "b"))}
        (program,) = read_sharegpt(written(tmp_path / "s.json", [later, earlier]), words)
        assert [call.output_tokens for call in program.calls] == [1, 2]

    def test_words_of_the_model_that_nobody_asked_for_are_history(self, tmp_path: Path) -> None:
        """And a conversation without an answer is no program."""
        begun = {"id": "a", "conversations": self.turns(("gpt", "x y"), ("human", "z"), ("gpt", "w"))}
        silent = {"id": "b", "conversations": self.turns(("human", "hello"))}
        (program,) = read_sharegpt(written(tmp_path / "s.json", [begun, silent]), words)
        assert [(call.prompt_tokens, call.output_tokens) for call in program.calls] == [(3, 1)]

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("{", r"s\.json: the file is not JSON"),
            ({}, r"s\.json: field of the file is 'dict'; use the list of conversations"),
            ([{"id": "a"}], r"s\.json: item \[0\] lacks 'conversations'; each needs"),
            ([{"id": "a", "conversations": [{"from": "gpt"}]}], r"s\.json: item \[0\] lacks 'value'"),
        ],
    )
    def test_what_is_no_dump_is_refused(self, tmp_path: Path, content: Any, problem: str) -> None:
        """With the file, the item and the field."""
        with pytest.raises(TraceError, match=problem):
            list(read_sharegpt(written(tmp_path / "s.json", content)))


DIALOGUE = {
    "program_id": "multi_turn_base_0",
    "tools": [{"name": "ls", "description": "lists files", "parameters": {}}],
    "messages": [
        {"role": "user", "content": "list the files"},
        {"role": "assistant", "content": "[ls(a=True)]"},
        {"role": "tool", "content": '{"files": []}'},
        {"role": "assistant", "content": MISSING_TEXT},
    ],
}


class TestBfcl:
    """Tool-using dialogues become ReAct programs."""

    def test_steps_follow_the_tool_documents(self) -> None:
        """The words that the dataset lacks are assumed, and marked so."""
        (program,) = programs_of([DIALOGUE], "a sample", words)
        check_program(program)
        assert program.tool_tokens == words(json.dumps(DIALOGUE["tools"]))
        step, end = program.calls
        assert (step.prompt_tokens, step.output_tokens, step.synthetic_output) == (program.tool_tokens + 3, 1, False)
        assert (end.new_tokens, end.output_tokens, end.synthetic_output) == (2, END_OF_TURN_TOKENS, True)

    def test_a_dialogue_without_tools_is_named(self) -> None:
        """By its number."""
        broken = {"program_id": "x", "messages": []}
        with pytest.raises(TraceError, match="dialogue 1 lacks 'tools'; write program_id, tools and messages"):
            list(programs_of([DIALOGUE, broken], "a sample"))

    def test_without_the_package_the_command_to_install_it_is_named(self) -> None:
        """Nothing is installed unasked."""
        with pytest.raises(EnvironmentFailure, match='pip install "bfcl-eval=='):
            list(read_bfcl("multi_turn_base"))

    def test_an_unknown_category_lists_the_known_ones(self) -> None:
        """Before the package is looked for."""
        with pytest.raises(TraceError, match="there is no BFCL category 'simple'; use one of multi_turn_base, "):
            read_bfcl("simple")

    def test_the_right_calls_are_played_through_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each right call is a step, its result is what the package's tools say."""
        data, tools = ModuleType("utils"), ModuleType("multi_turn_utils")
        asked = [[{"role": "user", "content": "go there"}], [{"role": "user", "content": "thanks"}]]
        entry = {"id": "e0", "question": asked, "function": [], "initial_config": {}, "involved_classes": []}
        vars(data)["load_dataset_entry"] = lambda category: [entry]
        vars(data)["load_ground_truth_entry"] = lambda category: [{"id": "e0", "ground_truth": [["ls()", "cd()"], []]}]
        vars(tools)["execute_multi_turn_func_call"] = lambda steps, *_, long_context: ([f"done {steps[0]}"], {})
        monkeypatch.setitem(sys.modules, "bfcl_eval.utils", data)
        monkeypatch.setitem(sys.modules, "bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils", tools)
        (program,) = read_bfcl("multi_turn_base", words)
        assert [call.new_tokens for call in program.calls] == [3, 2, 2, 1]
        assert [call.synthetic_output for call in program.calls] == [False, False, True, True]


class TestMooncake:
    """Requests become sessions by the hashes of their prompts' blocks."""

    @staticmethod
    def lines(*requests: tuple[int, int, list[int]]) -> str:
        """Return the trace of requests given as seconds, prompt length and hashes; all answer 7 tokens."""
        return "".join(
            json.dumps({"timestamp": time * 1000, "input_length": length, "output_length": 7, "hash_ids": blocks})
            + "\n"
            for time, length, blocks in requests
        )

    def test_a_request_continues_the_session_whose_blocks_it_begins_with(self, tmp_path: Path) -> None:
        """The last block of a prompt is not full and does not count; arrivals are seconds."""
        text = self.lines((0, 1200, [1, 2, 3]), (1, 700, [8, 9]), (5, 1900, [1, 2, 4, 5]), (9, 2000, [1, 2, 4, 6]))
        chat, other = read_mooncake(written(tmp_path / "m.jsonl", text))
        check_program(chat)
        assert [(call.prompt_tokens, call.shared_prefix_tokens, call.t) for call in chat.calls] == [
            (1200, 0, 0.0),
            (1900, 1024, 5.0),
            (2000, 1536, 9.0),
        ]
        assert chat.calls[2].parents == ("1",)
        assert (other.arrival_seconds, len(other.calls)) == (1.0, 1)

    def test_a_common_system_prompt_is_no_session(self, tmp_path: Path) -> None:
        """A block that several sessions begin with continues none of them."""
        text = self.lines((0, 1100, [1, 2]), (1, 1100, [1, 3]), (2, 600, [1]), (3, 1100, [1, 5]))
        sessions = list(read_mooncake(written(tmp_path / "m.jsonl", text)))
        assert [len(program.calls) for program in sessions] == [1, 1, 1, 1]

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("{", "the line is not JSON"),
            ("[]", r"field of the line is \[\]; use one JSON object a line"),
            ('{"hash_ids": [1.5]}', r"field hash_ids is \[1\.5\]; use a list of whole numbers"),
            ('{"hash_ids": [], "timestamp": null}', "field timestamp is None; use a whole number of 0 or more"),
            (
                '{"hash_ids": [], "timestamp": 1' + "0" * 400 + "}",
                "field timestamp is 1000.*; use at most 1000000000000000",
            ),
            ("[" * 100_000, "the line is not JSON"),
            ('{"hash_ids": [], "timestamp": 0, "input_length": 0}', "field input_length is 0; use a whole number of 1"),
        ],
    )
    def test_a_wrong_line_is_named(self, tmp_path: Path, line: str, problem: str) -> None:
        """With file, line, field, value and remedy."""
        with pytest.raises(TraceError, match=rf"m\.jsonl:2: {problem}"):
            list(read_mooncake(written(tmp_path / "m.jsonl", "\n" + line + "\n")))


class TestAzure:
    """Each row is a program of one call."""

    HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("2023-11-16 18:15:46.6805900", "2023-11-16 18:15:50.9951690"),
            ("2024-05-10 00:00:00.009930+00:00", "2024-05-10 02:00:04.324509+02:00"),
        ],
    )
    def test_rows_arrive_relative_to_the_first(self, tmp_path: Path, one: str, other: str) -> None:
        """In the form of both years."""
        path = written(tmp_path / "a.csv", f"{self.HEADER}{one},374,44\n{other},396,0\n")
        first, second = read_azure(path)
        check_program(second)
        assert (first.arrival_seconds, first.calls[0].prompt_tokens, first.calls[0].output_tokens) == (0.0, 374, 44)
        assert second.arrival_seconds == pytest.approx(4.314579)
        assert (second.program_id, second.kind) == ("azure-1", "single")

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("TIMESTAMP,ContextTokens\n", r"a\.csv:1: column GeneratedTokens is missing; use the header TIMESTAMP,"),
            (HEADER + "yesterday,1,1\n", r"a\.csv:2: field TIMESTAMP is 'yesterday'; write a time such as 2023-"),
            (HEADER + "2023-11-16,x,1\n", r"a\.csv:2: field ContextTokens is 'x'; write a whole number of 1 or more"),
            (HEADER + "2023-11-16,1\n", r"a\.csv:2: field GeneratedTokens is None; write a whole number of 0 or more"),
            (HEADER + "2023-11-16,1,1\n2023-11-15,1,1\n", r"a\.csv:3: field TIMESTAMP is .*; sort the rows by time"),
        ],
    )
    def test_a_wrong_row_is_named(self, tmp_path: Path, text: str, problem: str) -> None:
        """With file, line, field, value and remedy."""
        with pytest.raises(TraceError, match=problem):
            list(read_azure(written(tmp_path / "a.csv", text)))
