"""What each dialect says about a call, word for word."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk._dialects import DIALECTS, find_dialects, vllm
from autellix_sdk.wire import CallContext, CallId, ProgramId

FIRST = CallContext(ProgramId("run-7"), "a1b2c3", 0, CallId("0.0"), name="Course plan")
BRANCH = CallContext(ProgramId("run-7"), "a1b2c3", 3, CallId("3.1"), (CallId("3.0"),), name="Course plan")

GOLDEN = {
    "dynamo": (
        {"x-dynamo-session-id": "run-7"},
        {"x-dynamo-session-id": "run-7:a1b2c3.3", "x-dynamo-parent-session-id": "run-7"},
    ),
    "sglang": ({"x-smg-routing-key": "run-7"}, {"x-smg-routing-key": "run-7:a1b2c3.3"}),
    "vllm": ({}, {}),
    "llm-d": (
        {"x-llm-d-inference-fairness-id": "run-7", "x-gateway-inference-fairness-id": "run-7"},
        {"x-llm-d-inference-fairness-id": "run-7", "x-gateway-inference-fairness-id": "run-7"},
    ),
    "x-session-id": ({"x-session-id": "run-7"}, {"x-session-id": "run-7"}),
    "litellm": ({"x-litellm-session-id": "run-7"}, {"x-litellm-session-id": "run-7"}),
    "helicone": (
        {
            "helicone-session-id": "run-7",
            "helicone-session-path": "/main",
            "helicone-session-name": "Course plan",
        },
        {
            "helicone-session-id": "run-7",
            "helicone-session-path": "/main/a1b2c3.3",
            "helicone-session-name": "Course plan",
        },
    ),
}

LEGAL = re.compile(r"[!-~]([ -~]*[!-~])?")
"""A header value that every client and server takes: visible ASCII, spaces only inside."""

calls = st.builds(
    CallContext,
    program=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).map(ProgramId),
    salt=st.from_regex(r"[0-9a-z]{1,8}", fullmatch=True),
    thread=st.integers(0, 999_999),
    call=st.just(CallId("0.0")),
    name=st.none() | st.text(max_size=128) | st.text("\x00\r\n \t\x7f%\ud800é", max_size=20),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("name", DIALECTS)
def test_each_dialect_says_exactly_this(name: str) -> None:
    """The headers of the first call of a program, and of one in a branch."""
    headers = DIALECTS[name].headers
    assert (headers(FIRST), headers(BRANCH)) == GOLDEN[name]


def test_the_vllm_body_says_exactly_this() -> None:
    """The context is one more entry of the user's, as a string of JSON."""
    assert vllm(FIRST, b'{"model": "m", "n": 1.50}') == (
        b'{"model":"m","n":1.5,"vllm_xargs":{"agentic_context":"{\\"program_id\\":\\"run-7\\",'
        b'\\"task_id\\":\\"run-7\\",\\"blocks_parent\\":false,\\"expected_resume\\":true}"}}'
    )
    assert vllm(BRANCH, '{"prompt":"é","vllm_xargs":{"mine":1}}'.encode()).decode() == (
        '{"prompt":"é","vllm_xargs":{"mine":1,"agentic_context":"{\\"program_id\\":\\"run-7:a1b2c3.3\\",'
        '\\"task_id\\":\\"run-7\\",\\"agent_id\\":\\"a1b2c3.3\\",'
        '\\"parent_program_id\\":\\"run-7\\",\\"root_program_id\\":\\"run-7\\",'
        '\\"blocks_parent\\":false,\\"expected_resume\\":true}"}}'
    )


def test_a_context_of_the_users_own_is_kept() -> None:
    """The user's `agentic_context` wins, byte for byte."""
    body = b'{"vllm_xargs": {"agentic_context": {"program_id": "mine"}}}'
    assert vllm(FIRST, body) is body


@pytest.mark.parametrize(
    "body",
    [b"[1]", b"not JSON", b"\x1f\x8b\x08gzip", b'{"vllm_xargs":[1]}', b'{"x":NaN}', b'{"x":1e999}', b'{"x":"\\ud800"}'],
)
def test_bodies_that_could_not_be_written_as_they_were_are_refused(body: bytes) -> None:
    """Rather than something else than the user sent."""
    with pytest.raises(ValueError, match=r"."):
        vllm(FIRST, body)


@given(calls, st.dictionaries(st.text(), values, max_size=4))
def test_the_rest_of_a_body_stays_as_it_was(call: CallContext, record: dict[str, Any]) -> None:
    """Only the entry that the context needs is added."""
    record.pop("vllm_xargs", None)
    written = json.loads(vllm(call, json.dumps(record).encode()))
    assert json.loads(written.pop("vllm_xargs")["agentic_context"])["task_id"] == call.program
    assert written == record


@given(calls)
def test_every_header_is_announced(call: CallContext) -> None:
    """A user who sets any of them speaks the dialect, whatever this call would say in it."""
    for dialect in DIALECTS.values():
        assert set(dialect.headers(call)) <= set(dialect.names)


@given(calls)
def test_values_are_always_legal_in_a_header(call: CallContext) -> None:
    """Whatever the user calls a program."""
    for dialect in DIALECTS.values():
        for name, value in dialect.headers(call).items():
            assert LEGAL.fullmatch(value), (name, value)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("50% off, ok?", "50%25 off, ok?"),
        (" a\r\nb ", "a%0D%0Ab"),
        ("Kursplan für 宇宙", "Kursplan f%C3%BCr %E5%AE%87%E5%AE%99"),
        ("  ", "program"),
        (None, "program"),
    ],
)
def test_helicone_shows_the_name_as_far_as_a_header_can(name: str | None, shown: str) -> None:
    """Percent-encoded where it cannot be said otherwise."""
    call = CallContext(ProgramId("p"), "s", 0, CallId("0.0"), name=name)
    assert DIALECTS["helicone"].headers(call)["helicone-session-name"] == shown


def test_names_come_as_a_list_or_as_one_text() -> None:
    """Each is spoken once, in the order given."""
    wanted = (DIALECTS["litellm"], DIALECTS["dynamo"])
    assert find_dialects(["litellm", "dynamo", "litellm"]) == wanted
    assert find_dialects(" litellm, dynamo,") == wanted
    assert find_dialects("") == find_dialects([]) == ()


def test_unknown_names_are_refused_with_those_there_are() -> None:
    """The message has the name and the choice."""
    message = "there is no 'dymano'; the dialects are dynamo, sglang, vllm, llm-d, x-session-id, litellm, helicone"
    with pytest.raises(ValueError, match=re.escape(message)):
        find_dialects("sglang,dymano")
