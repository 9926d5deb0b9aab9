"""Which program a call belongs to, from its headers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sdk.wire import CallId, check_program_id, decode_call, encode_call
from autellix_server.identity import NO_PROGRAM, SESSION_HEADERS, Identified, identify, session_in


def found(headers: dict[str, str], body: bytes = b"") -> Identified:
    """Identify with IDs that can be told apart."""
    numbers: Iterator[int] = count(1)
    return identify(headers, lambda: f"{next(numbers):032x}", session_in(body))


def test_our_two_headers_win() -> None:
    """They say everything, whatever else is there."""
    got = found({"x-autellix-program": "p", "x-autellix-call": "v1;s=a;t=3;c=3.1;p=3.0;n=x", "x-session-id": "s"})
    assert got.source == "x-autellix-call"
    assert (got.context.program, got.context.thread, got.context.call, got.context.name) == ("p", 3, "3.1", "x")
    assert not got.single_call


@pytest.mark.parametrize(
    "headers",
    [
        {"x-autellix-program": "p q", "x-autellix-call": "v1;s=a;t=0;c=0"},
        {"x-autellix-program": "p", "x-autellix-call": "v9"},
        {"x-autellix-program": "p", "x-autellix-call": ""},
        {"x-autellix-program": ""},
        {"x-autellix-call": "v1;s=a;t=0;c=0"},
        {"x-autellix-program": "p", "x-autellix-call": "v1;s=a;t=0;c=0;n=" + "x" * 2000},
    ],
)
def test_malformed_headers_make_a_program_of_its_own(headers: dict[str, str]) -> None:
    """The error says what is wrong; a session header does not stand in."""
    got = found({**headers, "x-session-id": "s"})
    assert got.single_call
    assert got.error is not None
    assert got.context.program == f"{1:032x}"


def test_the_program_header_alone_is_enough_for_clients_without_the_sdk() -> None:
    """Calls of such a program have IDs of their own and join all earlier ones."""
    got = found({"x-autellix-program": "mine"})
    assert (got.context.program, got.context.parents, got.source) == ("mine", None, "x-autellix-program")
    assert got.context.call == CallId("0" * 20)
    assert not got.single_call


@pytest.mark.parametrize("header", SESSION_HEADERS)
def test_other_tools_sessions_are_programs(header: str) -> None:
    """A session ID that is a valid program ID is kept; any other is hashed, always alike."""
    assert found({header: "abc-1"}).context.program == "abc-1"
    odd = found({header: "user 7/\u00e9"})
    assert odd.source == header
    assert odd.context.program == found({header: "user 7/\u00e9"}).context.program
    assert odd.context.program != found({header: "user 8/\u00e9"}).context.program


def test_the_first_session_header_in_the_list_decides() -> None:
    """And an empty one is none."""
    assert found({"helicone-session-id": "b", "x-session-id": "a"}).context.program == "a"
    assert found({"helicone-session-id": "b", "x-session-id": ""}).context.program == "b"


def test_a_session_in_the_body_counts_where_no_header_says_anything() -> None:
    """As a string at the top; elsewhere the word means nothing."""
    body = b'{"model": "m", "session_id": "s7"}'
    named = found({}, body)
    assert (named.context.program, named.source, named.single_call) == ("s7", "session_id", False)
    assert found({"x-session-id": "h"}, body).context.program == "h"
    odd = found({}, b'{"session_id": "\\ud800"}').context.program
    assert odd == found({}, b'{"session_id": "\\ud800"}').context.program
    for other in (b'{"session_id": 7}', b'{"messages": ["\\"session_id\\""]}', b'["session_id"]', b'{"session_id": "s'):
        assert found({}, other).source == "none"


def test_without_any_sign_a_call_is_its_own_program() -> None:
    """That is no error."""
    got = found({})
    assert (got.source, got.error, got.single_call) == (NO_PROGRAM, None, True)


HEADERS = st.dictionaries(st.sampled_from(["x-autellix-program", "x-autellix-call", *SESSION_HEADERS]), st.text())


@given(HEADERS)
def test_whatever_the_headers_say_the_identity_is_valid(headers: dict[str, str]) -> None:
    """It survives the wire, so that it can be sent on."""
    context = found(headers).context
    check_program_id(context.program)
    assert decode_call(context.program, encode_call(context)) == context
