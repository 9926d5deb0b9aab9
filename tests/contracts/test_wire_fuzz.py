"""The wire under fire: every decoder on arbitrary and on nearly right input, every encoder at its limits.

A decoder raises `WireError`, with a short message, or returns what can be encoded and decoded again. An encoder
returns what fits a header, whatever a user calls a program.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autellix_sdk.bill import CallBill, TimeSplit, decode_bill, program_bill_from_json
from autellix_sdk.errors import WireError
from autellix_sdk.wire import (
    MAX_HEADER_BYTES,
    MAX_NAME_BYTES,
    MAX_PARENTS_BYTES,
    CallId,
    ProgramId,
    check_program_id,
    decode_call,
    decode_continue,
    encode_call,
    encode_name,
    encode_parents,
    format_call,
    format_continue,
)

CALL = "v1;s=abc123;t=7;c=7.3;p=6.2,x1y2z3.0.1;r=2;n=a%20name"
CONTINUE = "v1;i=session-7;p=abc123.0.1,abc123.1.0;n=a%20name"
BILL = CallBill(
    ProgramId("p"), CallId("0.0"), "e0", TimeSplit({"admission": 3}, 1, 2, 3, 4), service_us=5, level=(0, 2)
).encode()

anything = st.binary(max_size=2000).map(lambda raw: raw.decode("latin-1")) | st.text(max_size=2000)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(sorted(json.loads(BILL))) | st.text(max_size=3)
    return st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=20)


def nearly(text: str) -> st.SearchStrategy[str]:
    """Texts that differ from `text` in one place."""
    places = st.integers(0, len(text))
    return st.builds(
        lambda at, cut, put: text[:at] + put + text[at + cut :],
        places,
        st.integers(0, 3),
        st.text("0123456789abcz.,;=*%-~\r\n\0 \u00e9", max_size=3) | st.text(max_size=3),
    )


def outcome(decode: Callable[[], Any]) -> Any:
    """Return what a decoder returns, or `None` where it raises as it may: shortly."""
    try:
        return decode()
    except WireError as error:
        refusal = str(error)
    assert len(refusal) < 600
    return None


@given(anything | nearly("session-7"), anything | nearly(CALL))
@example("p", CALL)
@example("p", "v1;" + ";" * 1000)
@example("p", "v1;s=a;t=0;c=0.0;n=" + "%F0%9F%98%80" * 10)
def test_call_headers(program: str, call: str) -> None:
    """Whatever is accepted is a legal pair of headers, and says the same once it was encoded again."""
    context = outcome(lambda: decode_call(program, call))
    if context is not None:
        again = encode_call(context)
        assert decode_call(program, again) == context
        assert _is_header(again)
        assert _is_header(program)


@given(anything | nearly(CONTINUE))
@example("v1;i=p;p=" + "abc123.0.1," * 200)
def test_the_continue_header(text: str) -> None:
    """The same for what travels between processes."""
    found = outcome(lambda: decode_continue(text))
    if found is not None:
        program, parents, name = found
        again = format_continue(program, parents, f";n={encode_name(name)}" if name else "")
        assert decode_continue(again) == found
        assert _is_header(again)


@given(anything | nearly("session-7"))
def test_program_ids(text: str) -> None:
    """What is accepted is safe in a header, in a URL and in a file name."""
    if outcome(lambda: check_program_id(text)) is not None:
        assert text.isascii()
        assert 1 <= len(text) <= 64
        assert not set(text) & set("/\\:;,%?#&= \r\n\0")


@given(anything | nearly(BILL) | st.recursive(st.none() | st.integers() | st.text(), _nested).map(json.dumps))
@example("[" * 100_000)
@example('{"a":' * 100_000)
@example(BILL.replace('"service_us":5', '"service_us":' + "9" * 5000))
@example(BILL.replace('"service_us":5', '"service_us":' + "9" * 400))
@example(BILL.replace('"service_us":5', '"service_us":1e999'))
@example(BILL.replace('"service_us":5', '"service_us":NaN'))
def test_bills_of_calls(text: str) -> None:
    """A bill comes from a server, which may be anybody's; what is accepted can be added up and shown."""
    for received in (text, text.encode(errors="surrogatepass")):
        bill = outcome(lambda received=received: decode_bill(received))
        if bill is not None:
            assert decode_bill(bill.encode()) == bill
            assert _is_header(bill.encode())
            assert bill.time.wall_us / 1e6 >= 0


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), _nested))
def test_bills_of_programs(record: Any) -> None:
    """They are part of a larger answer, and have been parsed."""
    bill = outcome(lambda: program_bill_from_json(record))
    if bill is not None:
        assert program_bill_from_json(bill.to_json()) == bill


@given(st.text(max_size=60) | st.text(st.characters(categories=["Cs", "Cc"]), max_size=60))
@example("x" * 70_000)
@example("\r\n" * 20)
def test_names(name: str) -> None:
    """Any text is refused for its length, or becomes legal; unpaired surrogates become question marks."""
    encoded = outcome(lambda: encode_name(name))
    if encoded is None:
        return
    assert len(encoded) <= MAX_NAME_BYTES
    assert _is_header(encoded)
    assert decode_call("p", f"v1;s=a;t=0;c=0.0;n={encoded}").name == (name.encode(errors="replace").decode() or None)


calls = st.from_regex(r"[0-9a-z.]{1,20}", fullmatch=True).map(CallId)


@given(st.none() | st.lists(calls, max_size=60).map(tuple))
@example(tuple(CallId(f"{number}.0") for number in range(5000)))
@example((CallId("0" * 20),) * 24)
@example((CallId("0" * 20),) * 25)
def test_parents(parents: tuple[CallId, ...] | None) -> None:
    """All of them, or the marker for all that there are."""
    encoded = encode_parents(parents)
    assert len(encoded) <= MAX_PARENTS_BYTES
    if encoded != "*":
        assert tuple(CallId(each) for each in encoded.split(",") if each) == parents


@pytest.mark.parametrize("parents", [None, (), (CallId("z" * 20),) * 24, (CallId("z" * 20),) * 5000])
def test_the_longest_headers_fit(parents: tuple[CallId, ...] | None) -> None:
    """Every field at its limit at once."""
    name_field = f";n={encode_name('x' * MAX_NAME_BYTES)}"
    header = format_call("z" * 8, 999_999, CallId("9" * 20), parents, 10**9, name_field)
    assert len(header) <= MAX_HEADER_BYTES
    assert decode_call("P" * 64, header).retry == 999
    carried = tuple(CallId("z" * 8 + ".9.9") for _ in parents or ())
    header = format_continue(ProgramId("P" * 64), carried, name_field)
    assert len(header) <= MAX_HEADER_BYTES
    assert decode_continue(header)[0] == "P" * 64


def _is_header(value: str) -> bool:
    """Whether HTTP accepts a value as it is, without a change."""
    return value.isascii() and value.isprintable() and value == value.strip()
