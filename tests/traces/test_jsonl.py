"""The trace file: what is written is read back, and what is wrong is named with its place and remedy."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from drawn_programs import programs, two_calls
from hypothesis import given

from autellix_server.traces.jsonl import (
    program_from_json,
    program_to_json,
    read_programs,
    scan_programs,
    write_programs,
)
from autellix_server.traces.model import TraceError, TraceProgram


@given(programs())
def test_what_is_written_is_read_back(program: TraceProgram) -> None:
    """Nothing is lost on the way through JSON, facts of the source included."""
    assert program_from_json(json.loads(json.dumps(program_to_json(program)))) == program


@pytest.mark.parametrize("name", ["trace.jsonl", "trace.jsonl.gz"])
def test_files_keep_order_and_may_be_compressed(tmp_path: Path, name: str) -> None:
    """The end of the name decides."""
    written = [two_calls("a", arrival_seconds=0.0), two_calls("b", arrival_seconds=2.5)]
    assert write_programs(tmp_path / name, written) == 2
    assert list(read_programs(tmp_path / name)) == written
    assert (tmp_path / name).read_bytes().startswith(gzip.compress(b"")[:2]) == name.endswith(".gz")


def test_fields_that_say_nothing_are_not_written() -> None:
    """Only what is known takes room; a gap is always said, as null when it is not known."""
    record = program_to_json(two_calls())
    assert set(record) == {"program_id", "kind", "source", "calls"}
    assert record["calls"][1] == {
        "id": "1",
        "parents": ["0"],
        "thread": 0,
        "prompt_tokens": 130,
        "shared_prefix_tokens": 120,
        "output_tokens": 5,
        "tool_seconds": None,
    }


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"program_id": "a b"}, "field program_id is 'a b'; write 1 to 64 characters of A-Z a-z 0-9 . _ -"),
        ({"kind": 3}, "field kind is 3; write a text"),
        ({"kind": ""}, "field kind is ''; name the class of programs, such as chat"),
        ({"calls": []}, "field calls is []; give the program at least one call, or leave it out"),
        ({"calls": {}}, "field calls is {}; write a list of calls"),
        ({"arrival_seconds": -1}, "field arrival_seconds is -1.0; write seconds of 0 or more, or null"),
        ({"arival_seconds": 1}, "field arival_seconds is unknown; write arrival_seconds"),
        ({"tool_tokens": 1.5}, "field tool_tokens is 1.5; write a whole number of 0 or more"),
        ({"system_tokens": -2}, "field system_tokens is -2; write a whole number of 0 or more"),
    ],
)
def test_a_wrong_program_is_refused(change: dict[str, Any], problem: str) -> None:
    """The error names field, value and remedy."""
    with pytest.raises(TraceError) as error:
        program_from_json({**program_to_json(two_calls()), **change})
    assert str(error.value).startswith(problem)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": "X"}, "field calls[1].id is 'X'; write 1 to 20 characters of 0-9 a-z ."),
        ({"id": "0"}, "field calls[1].id is '0'; give every call of the program its own ID"),
        ({"parents": ["7"]}, "field calls[1].parents is '7'; name calls that stand earlier in the list"),
        ({"parents": ["1"]}, "field calls[1].parents is '1'; name calls that stand earlier in the list"),
        ({"parents": ["0", "0"]}, "field calls[1].parents is ['0', '0']; name each parent once"),
        ({"parents": "0"}, "field calls[1].parents is '0'; write a list of call IDs, [] for a root call"),
        ({"thread": -1}, "field calls[1].thread is -1; write a whole number of 0 or more"),
        ({"thread": True}, "field calls[1].thread is True; write a whole number of 0 or more"),
        ({"prompt_tokens": 0}, "field calls[1].prompt_tokens is 0; write a whole number of 1 or more"),
        ({"shared_prefix_tokens": 131}, "field calls[1].shared_prefix_tokens is 131; write at most the call's prompt"),
        ({"shared_prefix_tokens": 121}, "field calls[1].shared_prefix_tokens is 121; write at most what an earlier"),
        ({"output_tokens": "5"}, "field calls[1].output_tokens is '5'; write a whole number of 0 or more"),
        ({"output_tokens": -5}, "field calls[1].output_tokens is -5; write a whole number of 0 or more"),
        ({"tool_seconds": -0.1}, "field calls[1].tool_seconds is -0.1; write seconds of 0 or more"),
        ({"output_tokens": 10**400}, "field calls[1].output_tokens is 1000"),
        ({"prompt_tokens": 10**13}, "field calls[1].prompt_tokens is 10000000000000; write at most 1000000000000"),
        ({"tool_seconds": 10**400}, "field calls[1].tool_seconds is 1000"),
        ({"tool_seconds": 1e308}, "field calls[1].tool_seconds is 1e+308; write at most 1000000000000 seconds"),
        ({"tool_seconds": "1"}, "field calls[1].tool_seconds is '1'; write seconds of 0 or more"),
        ({"stop": "length"}, "field calls[1].stop is 'length'; write 'end_turn' when a person fills the gap"),
        ({"synthetic_output": 1}, "field calls[1].synthetic_output is 1; write true or false"),
        ({"prompt": "text"}, "field calls[1].prompt is 'text'; leave it out: a call has no such field"),
        ({"tool_second": 1}, "field calls[1].tool_second is unknown; write tool_seconds"),
    ],
)
def test_a_wrong_call_is_refused(change: dict[str, Any], problem: str) -> None:
    """The error names the call by its place in the list."""
    record = program_to_json(two_calls())
    record["calls"][1].update(change)
    with pytest.raises(TraceError) as error:
        program_from_json(record)
    assert str(error.value).startswith(problem)


@pytest.mark.parametrize("name", ["id", "parents", "prompt_tokens", "shared_prefix_tokens", "output_tokens"])
def test_a_missing_field_is_named(name: str) -> None:
    """A count that is not known is never taken for zero."""
    record = program_to_json(two_calls())
    del record["calls"][0][name]
    with pytest.raises(TraceError, match=rf"^field calls\[0\]\.{name} is missing; write it$"):
        program_from_json(record)


def test_long_values_are_shown_shortened() -> None:
    """An error stays one readable sentence."""
    with pytest.raises(TraceError) as error:
        program_from_json({**program_to_json(two_calls()), "program_id": "x" * 500})
    assert len(str(error.value)) < 200


def test_the_scan_names_every_wrong_line_and_goes_on(tmp_path: Path) -> None:
    """File and line stand first; a program that comes twice is wrong the second time."""
    path = tmp_path / "t.jsonl"
    good = json.dumps(program_to_json(two_calls("good")))
    nan = good.replace('"tool_seconds": 1.5', '"tool_seconds": NaN').replace("good", "nan")
    path.write_text("\n".join([good, "{", "", "[]", nan, good]) + "\n")
    first, *errors = scan_programs(path)
    assert isinstance(first, TraceProgram)
    assert [str(error).split(": ", 1)[0] for error in errors] == [f"{path}:{line}" for line in (2, 4, 5, 6)]
    assert [str(error).split(": ", 1)[1][:31] for error in errors] == [
        "the line is not JSON (Expecting",
        "field of the line is []; write ",
        "the line has the number NaN, wh",
        "field program_id is 'good'; giv",
    ]


def test_reading_stops_at_the_first_wrong_line(tmp_path: Path) -> None:
    """What stands before it has been yielded."""
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(program_to_json(two_calls())) + "\n{}\n")
    reader = read_programs(path)
    assert next(reader).program_id == "p1"
    with pytest.raises(TraceError, match=r"t\.jsonl:2: field calls is missing; write it"):
        next(reader)


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("t.jsonl", b"\xff\xfe\n", "write it again as UTF-8, or end its name in .gz if it is compressed"),
        ("t.jsonl", gzip.compress(b"{}"), "write it again as UTF-8, or end its name in .gz if it is compressed"),
        ("t.jsonl.gz", b"plain", "take .gz off its name if it is not compressed"),
        ("t.jsonl.gz", gzip.compress(b"{}")[:9], "it is cut short or damaged: copy or write it again"),
    ],
)
def test_a_file_that_cannot_be_read_says_what_helps(tmp_path: Path, name: str, content: bytes, remedy: str) -> None:
    """Wrong encoding, gzip that its name denies, no gzip at all, gzip cut short."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TraceError, match=rf":1: the file cannot be read on: .*; {re.escape(remedy)}$"):
        list(read_programs(tmp_path / name))


def test_a_byte_order_mark_is_no_part_of_the_trace(tmp_path: Path) -> None:
    """Some editors write one."""
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(program_to_json(two_calls())) + "\n", encoding="utf-8-sig")
    assert list(read_programs(path)) == [two_calls()]


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    """The system's own words, and the name."""
    with pytest.raises(TraceError, match=r"nowhere\.jsonl: the file cannot be opened: No such file"):
        list(read_programs(tmp_path / "nowhere.jsonl"))


def test_a_wrong_program_is_not_written(tmp_path: Path) -> None:
    """The writer is as strict as the reader."""
    with pytest.raises(TraceError, match="field program_id is 'not an id'"):
        write_programs(tmp_path / "t.jsonl", [two_calls("not an id")])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """By the name that was given."""
    with pytest.raises(TraceError, match=r"no/t\.jsonl: the file cannot be opened: No such file"):
        write_programs(tmp_path / "no" / "t.jsonl", [two_calls()])
    with pytest.raises(TraceError, match="the file cannot be opened: Is a directory"):
        write_programs(tmp_path, [two_calls()])


def test_the_documented_example_is_a_program() -> None:
    """docs/traces.md shows one that the reader takes."""
    text = (Path(__file__).parents[2] / "docs" / "traces.md").read_text()
    example = text.split("```json\n", 1)[1].split("```", 1)[0]
    assert program_from_json(json.loads(example)).opening_tokens == 900
